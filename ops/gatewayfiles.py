"""What a gateway in a container reads, in one folder that it mounts as /etc/chirp. No key is in it:
the gateway asks graph_server for the public ones."""

import shutil
from pathlib import Path

from mesh import keys
from mesh.settings import Settings
from ops import gateway

DESCRIPTOR = Path(__file__).resolve().parent.parent / "gen" / "descriptor.binpb"


def write(folder: Path, settings: Settings) -> None:
    """Writes envoy.yaml and descriptor.binpb; needs the key folder of `chirp migrate`."""
    folder.mkdir(parents=True, exist_ok=True)
    rendered = gateway.render(
        gateway.Gateway(
            gateway_secret=keys.gateway_secret(settings.keys), **gateway.from_settings(settings)
        )
    )
    (folder / "envoy.yaml").write_text(rendered)
    shutil.copyfile(DESCRIPTOR, folder / "descriptor.binpb")
