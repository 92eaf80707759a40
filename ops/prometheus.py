"""What Prometheus reads to watch a running stack: `chirp prometheus-config FOLDER`."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ops import status
from ops.stack import Stack

SOURCE = Path(__file__).resolve().parent.parent / "deploy" / "observability"

Targets = Sequence[Mapping[str, object]]


def write(folder: Path, described: Stack) -> None:
    """Writes prometheus.yml, rules.yaml and who is to be asked. Written again, when a stack was
    started anew, Prometheus follows by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("prometheus.yml", "rules.yaml"):
        shutil.copyfile(SOURCE / name, folder / name)
    admin = urlsplit(described.gateway_admin).netloc
    gateway = [_target(admin, status.GATEWAY, status.GATEWAY)]
    for name, targets in (("targets.json", _processes(described)), ("gateway.json", gateway)):
        partial = folder / f"{name}.partial"
        partial.write_text(json.dumps(targets, indent=1))
        partial.replace(folder / name)


def _processes(described: Stack) -> Targets:
    return [
        _target(f"127.0.0.1:{port}", kind, f"{kind}-{number}")
        for kind, ports in described.metrics_ports.items()
        for number, port in enumerate(ports, start=1)
    ]


def _target(address: str, process: str, replica: str) -> Mapping[str, object]:
    return {"targets": [address], "labels": {"process": process, "replica": replica}}
