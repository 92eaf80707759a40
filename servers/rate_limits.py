"""The limits of how often a user does something, over all replicas.

Writes are checked in Valkey one by one, before anything is done: a refused call costs one round
trip, and the quota is exact. Reads are many, and a home read makes one round trip in all, so they
are *counted here and settled behind the caller's back*:

 1. A read adds one to its user's count in this process and goes on.
 2. Counts go to Valkey, and from there to all replicas, every SETTLE_S, and as soon as a user's
    count reaches half of U = `rate_unsettled_max`.
 3. The answer says whether the user has used up the quota. If so, this process refuses until it
    has refilled, without asking again.
 4. While a user's counts are under way, the other half of U may be read. Then reads wait for the
    answer: a process never has more than U reads of a user that Valkey does not know of.

So with R replicas, a user never gets more than R * U reads beyond the quota, at any time and in the
long run: what was read beyond it is charged, too, and has to refill. A read is charged up to
SETTLE_S late, so a quota of which less than R * U is left may be refused that much early.

While Valkey is away everything is let through, and counted in a metric: a lost cache must not stop
Chirp. What was not settled then is never charged.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from domain.errors import RateLimited
from domain.ids import UserId
from domain.rate import MICROSECONDS, Kind, Limit, whole_seconds
from mesh import catalogue
from mesh.metrics import Sample
from mesh.rates import Admit
from mesh.settings import Settings
from mesh.tasks import raise_if_cancelled
from storage import valkey_cluster
from storage.rates import AWAY, RateStore
from storage.valkey import Valkey

SETTLE_S: Final = 1.0
SETTLE_AT_ONCE: Final = 100  # charges in one call: they hold Valkey for less than a millisecond

log = logging.getLogger(__name__)


class RateLimits:
    """The limits of one process; see mesh.rates.Rates. Tables hold who read within SETTLE_S, and
    who is refused now."""

    def __init__(
        self, store: RateStore, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self._clock = clock
        self._on = settings.rate_limits
        self._limits = {kind: settings.rate(kind) for kind in Kind}
        self._half = settings.rate_unsettled_max // 2
        self._counts: dict[UserId, int] = {}
        self._under_way: dict[UserId, asyncio.Task[None]] = {}
        self._refused_until: dict[UserId, float] = {}
        self._refusals: Counter[Kind] = Counter()
        self._unchecked: Counter[Kind] = Counter()
        self._away = False

    def gate(self, kind: Kind) -> Admit:
        """See mesh.rates.Rates."""
        if not self._on:
            return _unlimited
        if kind is Kind.READ:
            return self._read
        return lambda user: self._checked(kind, user)

    async def run(self) -> None:
        """Settles what was counted, again and again, until cancelled."""
        while True:
            await asyncio.sleep(SETTLE_S)
            await self.settle()
            raise_if_cancelled()

    async def settle(self) -> None:
        """Settles what was counted until now."""
        users = list(self._counts)
        for start in range(0, len(users), SETTLE_AT_ONCE):
            due = [
                user
                for user in users[start : start + SETTLE_AT_ONCE]
                if user in self._counts and user not in self._under_way
            ]
            if due:
                await self._begin(due)
        now = self._clock()
        for user in [user for user, until in self._refused_until.items() if until <= now]:
            del self._refused_until[user]

    async def collect(self) -> Sequence[Sample]:
        """Returns what was refused and what went unchecked, of each kind."""
        return [
            Sample(metric, counts[kind], (kind.value,))
            for metric, counts in (
                (catalogue.RATES_REFUSED, self._refusals),
                (catalogue.RATES_UNCHECKED, self._unchecked),
            )
            for kind in Kind
            if kind is not Kind.SIGN_IN
        ]

    # Writes

    async def _checked(self, kind: Kind, user: UserId) -> None:
        limit = self._limits[kind]
        try:
            standing = await self.store.charge(kind.value, user, limit)
        except AWAY as error:
            self._let_through(kind, 1, error)
            return
        self._is_back()
        if not standing.allowed:
            raise self._refusal(kind, limit, standing.wait_us)

    # Reads

    def _read(self, user: UserId) -> Awaitable[None] | None:
        count = self._counts.get(user, 0) + 1
        if count >= self._half or user in self._refused_until:
            return self._read_closely(user)
        self._counts[user] = count
        return None

    async def _read_closely(self, user: UserId) -> None:
        while True:
            self._refuse(user)
            under_way = self._under_way.get(user)
            count = self._counts.get(user, 0)
            if count < self._half:
                self._counts[user] = count + 1
                if count + 1 == self._half and under_way is None:
                    self._begin([user])
                return
            if under_way is None:
                under_way = self._begin([user])
            # One caller that goes away must not take the answer from the others.
            await asyncio.shield(under_way)

    def _refuse(self, user: UserId) -> None:
        until = self._refused_until.get(user)
        if until is None:
            return
        left_s = until - self._clock()
        if left_s <= 0:
            del self._refused_until[user]
            return
        raise self._refusal(Kind.READ, self._limits[Kind.READ], round(left_s * MICROSECONDS))

    def _begin(self, users: Sequence[UserId]) -> "asyncio.Task[None]":
        """Takes the counts of users, of whom nothing is under way, and settles them."""
        task = asyncio.create_task(self._settled([(u, self._counts.pop(u)) for u in users]))
        self._under_way.update(dict.fromkeys(users, task))
        return task

    async def _settled(self, counts: Sequence[tuple[UserId, int]]) -> None:
        try:
            standings = await self.store.settle(Kind.READ.value, counts, self._limits[Kind.READ])
        except AWAY as error:
            self._let_through(Kind.READ, sum(count for _, count in counts), error)
        else:
            self._is_back()
            now = self._clock()
            for (user, _), standing in zip(counts, standings, strict=True):
                if standing.wait_us:
                    self._refused_until[user] = now + standing.wait_us / MICROSECONDS
        finally:
            for user, _ in counts:
                del self._under_way[user]

    # Both

    def _refusal(self, kind: Kind, limit: Limit, wait_us: int) -> RateLimited:
        self._refusals[kind] += 1
        return RateLimited(
            kind.value,
            quota=limit.quota,
            window_s=limit.window_s,
            retry_after_s=whole_seconds(wait_us),
        )

    def _let_through(self, kind: Kind, count: int, error: Exception) -> None:
        self._unchecked[kind] += count
        if not self._away:
            log.warning("rates are not limited: Valkey is away: %s", type(error).__name__)
        self._away = True

    def _is_back(self) -> None:
        if self._away:
            log.info("rates are limited again")
        self._away = False


def _unlimited(_: UserId) -> None:
    return None


@asynccontextmanager
async def open_rate_limits(settings: Settings, cache: Valkey) -> AsyncGenerator[RateLimits]:
    """Opens the limits of a process that has no shared connection for anything else."""
    async with valkey_cluster.open_hot(settings.valkey_url, settings.valkey_timeout_s) as hot:
        yield RateLimits(RateStore(hot, cache), settings)
