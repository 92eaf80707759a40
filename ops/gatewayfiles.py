"""What a gateway in a container reads, in one folder that it mounts as /etc/chirp. Envoy's image
runs as another user than ours, so it gets the public keys as a copy, and no private one."""

import shutil
from pathlib import Path

from mesh import tokens
from mesh.settings import Settings
from ops import gateway

DESCRIPTOR = Path(__file__).resolve().parent.parent / "gen" / "descriptor.binpb"


def write(folder: Path, settings: Settings) -> None:
    """Writes envoy.yaml, descriptor.binpb and keys/jwks.json; needs the keys of `chirp migrate`."""
    keys = folder / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    rendered = gateway.render(gateway.Gateway(**gateway.from_settings(settings)))
    (folder / "envoy.yaml").write_text(rendered)
    shutil.copyfile(DESCRIPTOR, folder / "descriptor.binpb")
    shutil.copyfile(settings.keys / tokens.JWKS_FILE, keys / tokens.JWKS_FILE)
