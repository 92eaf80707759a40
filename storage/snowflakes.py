"""Which process mints ids under which worker number: a lease on a row of `snowflake_workers`.

The row's `high_water_ms` makes ids unique whatever the clocks do:
 1. Taking and renewing a lease records the holder's time (its clock, or the newest stamp where
    that is later).
 2. The holder never stamps a time more than AHEAD_MS above what it knows to be recorded.
 3. Whoever takes the row next begins above the recorded time plus AHEAD_MS.
So two holders of one number never stamp the same time, even where the former does not notice that
its lease has ended. A new holder also begins above the recorded time of every other row: ids do
not go down when a clock steps back across a restart.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import psycopg

from domain.errors import Unavailable
from domain.ids import SnowflakeGenerator
from storage.database import Connection, Pool

LEASE_S = 15.0
RENEW_S = 3.0  # four renewals may fail before ids run out
LEASE_MARGIN_S = 2.0  # the holder stops this long before others may take the row
AHEAD_MS = int(LEASE_S * 1000)  # no less than a lease, or a slow renewal would stop time
SKEW_WORTH_A_WARNING_MS = 1_000

log = logging.getLogger(__name__)


def wall_ms() -> int:
    """Returns the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def elapsed_s() -> float:
    """Returns seconds that also pass while the machine sleeps, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class _Lease:
    worker: int
    holder: str
    recorded_ms: int
    until_s: float  # by elapsed_s; the holder stops here
    floor_ms: int  # the least time to stamp


class IdMinter:
    """Mints ids while its process holds a worker number. Made by `lease`."""

    def __init__(
        self, lease: _Lease, wall_ms: Callable[[], int], elapsed_s: Callable[[], float]
    ) -> None:
        self._wall_ms = wall_ms
        self._elapsed_s = elapsed_s
        self._install(lease)

    def mint(self) -> int:
        """Returns a new id, greater than every earlier one of this minter.

        Raises Unavailable where the lease could not be renewed in time; a later call may succeed.
        """
        newest_ms = self._lease.recorded_ms + AHEAD_MS
        if self._elapsed_s() < self._lease.until_s:
            minted = self._generator.mint(min(self._wall_ms(), newest_ms))
            if self._generator.last_ms <= newest_ms:
                return minted
        raise Unavailable("no ids can be given out at the moment; try again")

    def _install(self, lease: _Lease) -> None:
        self._lease = lease
        self._generator = SnowflakeGenerator(lease.worker, floor_ms=lease.floor_ms)

    async def _renew(self, pool: Pool) -> None:
        started_s = self._elapsed_s()
        now_ms = max(self._wall_ms(), self._generator.last_ms)
        async with pool.connection() as connection:
            renewed = await _update(connection, self._lease, now_ms)
        if renewed:
            self._lease = _Lease(
                self._lease.worker,
                self._lease.holder,
                now_ms,
                started_s + LEASE_S - LEASE_MARGIN_S,
                self._lease.floor_ms,
            )
        else:
            log.warning("another process took worker number %d", self._lease.worker)
            floor_ms = self._generator.last_ms + 1
            self._install(await _take(pool, self._wall_ms, self._elapsed_s, floor_ms))

    async def _renew_for_ever(self, pool: Pool) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._renew(pool)
            except (psycopg.Error, Unavailable) as error:
                log.warning("the lease on a worker number was not renewed: %s", error)

    async def _give_back(self, pool: Pool) -> None:
        try:
            async with pool.connection() as connection:
                await connection.execute(
                    "UPDATE snowflake_workers SET holder = '', leased_until = now(),"
                    " high_water_ms = greatest(high_water_ms, %s)"
                    " WHERE worker = %s AND holder = %s",
                    (self._generator.last_ms, self._lease.worker, self._lease.holder),
                )
        except psycopg.Error as error:
            log.warning("a worker number stays leased for %s s: %s", LEASE_S, error)


@asynccontextmanager
async def lease(
    pool: Pool,
    *,
    wall_ms: Callable[[], int] = wall_ms,
    elapsed_s: Callable[[], float] = elapsed_s,
) -> AsyncGenerator[IdMinter]:
    """Holds a worker number, renews it in the background, and gives it back on leaving.

    Raises Unavailable where all numbers are taken.
    """
    minter = IdMinter(await _take(pool, wall_ms, elapsed_s), wall_ms, elapsed_s)
    renewing = asyncio.create_task(minter._renew_for_ever(pool))  # pyright: ignore[reportPrivateUsage]
    try:
        yield minter
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        await minter._give_back(pool)  # pyright: ignore[reportPrivateUsage]


async def _take(
    pool: Pool,
    wall_ms: Callable[[], int],
    elapsed_s: Callable[[], float],
    floor_ms: int = 0,
) -> _Lease:
    """Takes the number whose lease ended longest ago."""
    started_s = elapsed_s()
    holder = uuid.uuid4().hex
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute(
            "SELECT worker, high_water_ms FROM snowflake_workers WHERE leased_until < now()"
            " ORDER BY leased_until, worker LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
        row = await cursor.fetchone()
        if row is None:
            raise Unavailable("every worker number is taken; is something starting in a loop?")
        cursor = await connection.execute("SELECT max(high_water_ms) FROM snowflake_workers")
        newest = await cursor.fetchone()
        assert newest is not None
        # A row that nobody ever held has no stamps to stay above.
        former_ms = int(row[1]) + AHEAD_MS if row[1] else 0
        floor_ms = max(floor_ms, former_ms + 1, int(newest[0]) + 1)
        now_ms = wall_ms()
        taken = _Lease(
            int(row[0]),
            holder,
            max(now_ms, floor_ms),
            started_s + LEASE_S - LEASE_MARGIN_S,
            floor_ms,
        )
        await connection.execute(
            "UPDATE snowflake_workers SET holder = %s, high_water_ms = %s,"
            " leased_until = now() + make_interval(secs => %s) WHERE worker = %s",
            (holder, taken.recorded_ms, LEASE_S, taken.worker),
        )
    if floor_ms - now_ms > SKEW_WORTH_A_WARNING_MS:
        log.warning("ids begin %d ms ahead of the clock, which was later before", floor_ms - now_ms)
    return taken


async def _update(connection: Connection, held: _Lease, now_ms: int) -> bool:
    """Renews a lease; False where another process holds the number."""
    cursor = await connection.execute(
        "UPDATE snowflake_workers SET high_water_ms = greatest(high_water_ms, %s),"
        " leased_until = now() + make_interval(secs => %s) WHERE worker = %s AND holder = %s",
        (now_ms, LEASE_S, held.worker, held.holder),
    )
    return cursor.rowcount == 1
