"""How often passwords may be tried and accounts be made: for each name, and for each address.

 1. Before a password is looked at, an attempt takes one from the quota of its name and one from
    that of its address, in one call; where either has nothing left, it is refused, whether the
    name is anybody's or not.
 2. A right password gives the name's back: who knows it is never kept out by signing in often. It
    does not give back what others took, so their guesses are not helped by the owner's sign-ins.
 3. A call that did not come through the gateway has no address, and the name's quota alone.

While Valkey is away, everything is let through and counted in a metric; what passwords cost to try
is then what holds guessing back (`passwords.py`). Who uses up the quota of somebody's name keeps
the owner from signing in, for as long as they go on; sessions that are open stay so.
"""

import logging
from collections import Counter
from collections.abc import Sequence

from domain.errors import RateLimited
from domain.rate import Limit, whole_seconds
from mesh import catalogue
from mesh.client_address import ClientAddresses
from mesh.metrics import Sample
from mesh.requests import Metadata
from mesh.settings import Settings
from storage.signins import AWAY, Quota, SignInStore

SIGN_IN, SIGN_UP = "sign_in", "sign_up"

log = logging.getLogger(__name__)


class SignInThrottle:
    """The throttle of one process; what it counts, it shares with all replicas."""

    def __init__(self, store: SignInStore, addresses: ClientAddresses, settings: Settings) -> None:
        self._store = store
        self._addresses = addresses
        self._of_name = Limit.parse(settings.sign_in_account)
        self._of_address = {
            SIGN_IN: Limit.parse(settings.sign_in_address),
            SIGN_UP: Limit.parse(settings.sign_up_address),
        }
        self._refused: Counter[str] = Counter()
        self._unchecked: Counter[str] = Counter()

    async def sign_in(self, username: str, metadata: Metadata) -> None:
        """Counts an attempt to sign in. Raises RateLimited."""
        await self._attempt(SIGN_IN, username, metadata)

    async def sign_up(self, username: str, metadata: Metadata) -> None:
        """Counts an attempt to sign up. Raises RateLimited."""
        await self._attempt(SIGN_UP, username, metadata)

    async def signed_in(self, username: str) -> None:
        """Gives back what the attempt took from the name: its password was right."""
        try:
            await self._store.forgive(self._name(SIGN_IN, username))
        except AWAY:
            self._unchecked[SIGN_IN] += 1

    async def collect(self) -> Sequence[Sample]:
        """Returns what was refused and what went unchecked."""
        return [
            Sample(metric, counts[kind], (kind,))
            for metric, counts in (
                (catalogue.SIGN_INS_REFUSED, self._refused),
                (catalogue.SIGN_INS_UNCHECKED, self._unchecked),
            )
            for kind in (SIGN_IN, SIGN_UP)
        ]

    async def _attempt(self, kind: str, username: str, metadata: Metadata) -> None:
        quotas = [self._name(kind, username)]
        address = self._addresses.of(metadata)
        if address is not None:
            quotas.append(Quota(f"{kind}_address", address, self._of_address[kind]))
        try:
            refusal = await self._store.attempt(quotas)
        except AWAY as error:
            self._unchecked[kind] += 1
            log.warning("a %s is not counted: %s", kind, type(error).__name__)
            return
        if refusal is not None:
            self._refused[kind] += 1
            limit = refusal.quota.limit
            raise RateLimited(
                kind,
                quota=limit.quota,
                window_s=limit.window_s,
                retry_after_s=whole_seconds(refusal.wait_us),
            )

    def _name(self, kind: str, username: str) -> Quota:
        return Quota(f"{kind}_account", username.lower(), self._of_name)
