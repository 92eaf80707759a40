"""Where a call comes from, as the gateway says it. Anybody who reaches a server can write the same
headers, so they are believed only beside the gateway's secret, which the gateway sets on the
routes where an address matters, and takes off what clients send."""

import hmac

from domain import address
from mesh import keys
from mesh.files import Watch
from mesh.requests import Metadata
from mesh.settings import Settings

SECRET_HEADER = "x-chirp-gateway"  # noqa: S105 - the name of a header
ADDRESS_HEADER = "x-chirp-client-address"


class ClientAddresses:
    """Reads clients' addresses; follows the secret's file."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.keys
        self._watch = Watch(settings.keys / keys.GATEWAY_SECRET_FILE)
        self._watch.changed()
        self._secret = self._read()

    def of(self, metadata: Metadata) -> str | None:
        """Returns what a call's address is counted under; None where the call did not come through
        the gateway."""
        if self._watch.changed():
            self._secret = self._read()
        found = {key: value for key, value in metadata if key in (SECRET_HEADER, ADDRESS_HEADER)}
        # With an empty secret, nobody would need one.
        if not self._secret or not hmac.compare_digest(
            _bytes(found.get(SECRET_HEADER, "")), self._secret
        ):
            return None
        return address.network(_bytes(found.get(ADDRESS_HEADER, "")).decode("latin-1"))

    def _read(self) -> bytes:
        return keys.gateway_secret(self._folder).encode()


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
