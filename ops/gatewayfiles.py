"""What a gateway in a container reads, in one folder that it mounts as /etc/chirp. No key is in it:
the gateway asks graph_server for the public ones."""

import shutil
from pathlib import Path

from mesh import keys, tls
from mesh.settings import Settings
from ops import gateway, gateway_tls

# Where docker-compose.yml mounts the certificates, of which Envoy reads its own.
CERTS = Path("/var/lib/chirp/certs") / tls.GATEWAY
DESCRIPTOR = Path(__file__).resolve().parent.parent / "gen" / "descriptor.binpb"


def write(folder: Path, settings: Settings) -> None:
    """Writes envoy.yaml and descriptor.binpb, and with TLS what tells Envoy where its certificates
    are; needs the key folder of `chirp migrate`."""
    folder.mkdir(parents=True, exist_ok=True)
    certs = CERTS if settings.tls else None
    rendered = gateway.render(
        gateway.Gateway(
            gateway_secret=keys.gateway_secret(settings.keys),
            certs=certs,
            **gateway.from_settings(settings),
        )
    )
    (folder / "envoy.yaml").write_text(rendered)
    if certs is not None:
        for name, text in gateway_tls.secret_files(certs).items():
            (folder / name).write_text(text)
    shutil.copyfile(DESCRIPTOR, folder / "descriptor.binpb")
