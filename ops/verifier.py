"""Home timelines as served, compared with the oracle's SQL, and how entries came.

1. Wait until everything committed so far went through outbox, event log and fan-out.
2. Read each account's home timeline to its end; only then ask the oracle. Both are compared up to
   the newest tweet of step 1: what is posted meanwhile plays no part.
3. What differs may have changed in between: wait as in step 1, and look once more.
4. To repair, drop from the cache what the timelines that still differ are made from, rebuild them,
   and look again. Each is recorded in PostgreSQL.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from domain.fanout import Delivery
from domain.ids import UserId
from eventlog.contract import EventLog
from eventlog.outages import Backoff
from eventlog.valkey_streams import open_log
from mesh.settings import Settings
from ops import accounts, differences, homes, oracle, upkeep
from ops.differences import Difference, Report, Way
from ops.homes import HomeReader
from ops.upkeep import Rebuilder
from storage import audits, caches, database, outbox, valkey
from storage import upkeep as upkeep_rows
from storage.database import Pool
from storage.timelines import TimelineStore, WindowKind
from storage.valkey import Valkey
from workers import fanout_worker

ACCOUNTS_AT_ONCE = 8
ORACLE_TIMEOUT_S = 120.0
STALLED_S = 30.0  # events that stand still for so long have nobody who handles them
DRAIN_LOOK_FIRST_S = 0.005  # mostly little is left
DRAIN_LOOK_LAST_S = 0.1


@dataclass(frozen=True, slots=True)
class Selection:
    """Whose timelines: the union of all that is said."""

    users: Sequence[str] = ()
    """Usernames or ids."""
    random: int = 0
    seed: int = 0
    top_following: int = 0
    everybody: bool = False


class Verifier:
    """Compares. Raises ConnectionError where something that it needs is away."""

    def __init__(
        self,
        *,
        pool: Pool,
        event_log: EventLog,
        timelines: TimelineStore,
        reader: HomeReader,
        rebuilder: Rebuilder,
        cache: Valkey,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._event_log = event_log
        self._timelines = timelines
        self._reader = reader
        self._rebuilder = rebuilder
        self._cache = cache
        self._settings = settings
        self._distance = settings.repeat_distance

    async def select(self, selection: Selection) -> list[UserId]:
        """Returns the accounts, each once. Raises LookupError for an unknown user."""
        found: list[UserId] = []
        async with self._pool.connection() as connection:
            if selection.everybody:
                return await audits.fetch_all_accounts(connection)
            for user in selection.users:
                found.append((await accounts.find(connection, user)).id)
            found += await audits.fetch_most_following(connection, count=selection.top_following)
            found += await audits.fetch_random_accounts(
                connection, count=selection.random, seed=selection.seed
            )
        return list(dict.fromkeys(found))

    async def materialise(self, viewers: Sequence[UserId], progress: Progress) -> None:
        """Reads first pages, so that fan-out pushes to these accounts from now on."""
        await _each(viewers, self._reader.first_page, progress, "timelines made")

    async def verify(
        self, viewers: Sequence[UserId], progress: Progress, *, repair: bool = False
    ) -> Report:
        """Compares the accounts' timelines; with `repair`, makes those anew that differ."""
        report = Report(accounts=len(viewers))
        await self._compare(viewers, report, progress, "timelines compared")
        if report.differences:
            again = [difference.viewer for difference in report.differences]
            await self._compare(again, report, progress, "differences looked at again")
        differing = len(report.differences)
        if report.differences and repair:
            await self._repair(report, progress)
        async with self._pool.connection() as connection:
            await upkeep_rows.insert_verification(
                connection, compared=report.accounts, differing=differing
            )
            report.repaired_ever = await upkeep_rows.count_repairs(connection)
        return report

    async def _compare(
        self, viewers: Sequence[UserId], report: Report, progress: Progress, what: str
    ) -> None:
        """Steps 1 and 2: sets the report's differences to those of these accounts."""
        report.differences.clear()
        newest = await self.drain()

        async def check(viewer: UserId) -> None:
            difference = await self._check(viewer, newest, report)
            if difference is not None:
                report.differences.append(difference)

        await _each(viewers, check, progress, what)
        report.differences.sort(key=lambda difference: difference.viewer)

    async def _repair(self, report: Report, progress: Progress) -> None:
        """Step 4."""
        broken = list(report.differences)
        tweets = {tweet for each in broken for tweet in (*each.missing, *each.extra)}
        async with self._pool.connection() as connection:
            deliveries = await audits.fetch_deliveries(connection, sorted(tweets))
        authors = sorted({author for author, _ in deliveries.values()})
        await caches.drop_authors(self._cache, self._settings, authors)
        viewers = [difference.viewer for difference in broken]
        await _each(viewers, self._rebuilder.rebuild, progress, "timelines rebuilt")
        await self._compare(viewers, report, progress, "repaired timelines compared")
        left = {difference.viewer for difference in report.differences}
        report.repaired = [difference for difference in broken if difference.viewer not in left]
        async with self._pool.connection() as connection, connection.transaction():
            for difference in broken:
                await upkeep_rows.insert_repair(
                    connection,
                    difference.viewer,
                    missing=len(difference.missing),
                    extra=len(difference.extra),
                    mended=difference.viewer not in left,
                )

    async def drain(self) -> int:
        """Waits until all that is committed went through fan-out; returns the newest tweet of it.
        Raises ConnectionError where nothing moves."""
        async with self._pool.connection() as connection:
            newest = await audits.fetch_newest_tweet(connection)
        waiting, moved_at = -1, time.monotonic()
        backoff = Backoff(DRAIN_LOOK_FIRST_S, DRAIN_LOOK_LAST_S)
        while True:
            async with self._pool.connection() as connection:
                unsent = await outbox.count_unsent(connection)
            behind = sum((await self._event_log.lag(fanout_worker.GROUP)).values())
            if unsent == 0 and behind == 0:
                return newest
            if unsent + behind != waiting:
                waiting, moved_at = unsent + behind, time.monotonic()
            if time.monotonic() - moved_at > STALLED_S:
                raise ConnectionError(
                    f"{unsent} events wait for outbox_relay, {behind} for fanout_worker,"
                    f" and for {STALLED_S:.0f} s nothing moved"
                )
            await backoff.wait()

    async def _check(self, viewer: UserId, newest: int, report: Report) -> Difference | None:
        home = await self._reader.read(viewer)
        async with self._pool.connection() as connection:
            expected = await oracle.fetch_home(connection, viewer, repeat_distance=self._distance)
        difference = differences.compare(viewer, expected, home, newest)
        if difference is None:
            # What differs is counted when it is looked at again, or not at all.
            report.entries += len(home.ids)
            report.pages += home.pages
            report.ways += await self._ways(viewer, home.ids)
        return difference

    async def _ways(self, viewer: UserId, ids: Sequence[int]) -> Counter[Way]:
        window = await self._timelines.fetch(WindowKind.TIMELINE, viewer)
        built = await self._timelines.fetch_built(viewer)
        listed = {entry[0] for entry in window.entries} if window else set[int]()
        async with self._pool.connection() as connection:
            deliveries = await audits.fetch_deliveries(connection, ids)
        ways: Counter[Way] = Counter()
        for tweet_id, (author, delivery) in deliveries.items():
            if author == viewer:
                ways[Way.OWN] += 1
            elif tweet_id in listed:
                ways[Way.PUSHED if tweet_id > built else Way.REBUILT] += 1
            elif delivery == Delivery.PULL:
                ways[Way.PULLED] += 1
            else:
                ways[Way.PAST_THE_LIST] += 1
        return ways


async def open_verifier(
    stack: AsyncExitStack, settings: Settings, *, gateway: str | None
) -> Verifier:
    """Opens what comparing needs; `gateway` is a URL, or None for gRPC past the gateway."""
    patient = settings.model_copy(update={"database_timeout_s": ORACLE_TIMEOUT_S})
    cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
    return Verifier(
        pool=await stack.enter_async_context(
            database.open_pool(patient, size_max=ACCOUNTS_AT_ONCE)
        ),
        event_log=await stack.enter_async_context(open_log(settings)),
        timelines=TimelineStore(cache, settings),
        reader=await stack.enter_async_context(
            homes.direct(settings)
            if gateway is None
            else homes.through_gateway(gateway, settings, connections=ACCOUNTS_AT_ONCE)
        ),
        rebuilder=await stack.enter_async_context(upkeep.open_rebuilder(settings)),
        cache=cache,
        settings=settings,
    )


async def _each(
    viewers: Sequence[UserId],
    work: Callable[[UserId], Coroutine[Any, Any, object]],
    progress: Progress,
    what: str,
) -> None:
    task = progress.add_task(what, total=len(viewers))
    left = iter(viewers)

    async def some() -> None:
        for viewer in left:
            await work(viewer)
            progress.advance(task)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(ACCOUNTS_AT_ONCE):
                group.create_task(some())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
