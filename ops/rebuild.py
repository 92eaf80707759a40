"""`chirp rebuild`: makes materialised home timelines anew, while people read them.

For one account it is one call to timeline_server. For all:
 1. One run at a time: it holds a lock on its connection to PostgreSQL.
 2. In batches, in the order of the ids: of the next accounts, those that have a timeline are
    rebuilt, a few at a time; then the position of the batch is recorded in PostgreSQL.
 3. A run that was stopped is followed by one that goes on behind the last recorded position, on
    whatever machine. It repeats at most a batch, which changes nothing.

An account whose timeline is made meanwhile needs no rebuilding, wherever its id is.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import uvloop
from rich.progress import Progress

from domain.ids import UserId
from mesh.settings import Settings
from mesh.tasks import raise_if_cancelled
from ops import accounts, upkeep
from ops.load import progress_bar
from ops.upkeep import Rebuilder
from storage import bulk, database, valkey
from storage import upkeep as upkeep_rows
from storage.timelines import TimelineStore

BATCH = 500
# Each timeline server rebuilds a few at a time, for readers too: this leaves them room.
AT_ONCE = 4
TRIES_MAX = 8  # of one timeline, over half a minute, while servers are away
RETRY_FIRST_S = 0.25


@dataclass(slots=True)
class Done:
    """What a run did."""

    resumed_behind: int = 0
    """The account behind which it went on; 0 where it began with the first."""
    accounts: int = 0
    rebuilt: int = 0
    rebuilt_before: int = 0
    """By the runs that it follows."""


def run(settings: Settings, user: str | None, *, from_start: bool) -> int:
    """Rebuilds one account's timeline, or all of them; returns the exit status."""
    if user is not None:
        rebuilt = uvloop.run(one(settings, user))
        print("rebuilt" if rebuilt else "no timeline is materialised: the next read makes it")
        return 0
    done = Done()
    try:
        with progress_bar() as progress:
            uvloop.run(everybody(settings, progress, done, from_start=from_start))
    except BaseException:
        print(f"stopped: {summary(done)}\nrun it again to go on where it stopped", flush=True)
        raise
    print(summary(done))
    return 0


def summary(done: Done) -> str:
    """Returns what a run did, for people."""
    text = f"{done.rebuilt:,} timelines of {done.accounts:,} accounts were made anew"
    if done.resumed_behind:
        text += f", {done.rebuilt_before:,} before, up to account {done.resumed_behind}"
    return text


async def one(settings: Settings, user: str) -> bool:
    """Rebuilds the timeline of a username or an id; returns whether there was one. Raises
    LookupError where there is no such account, ConnectionError where timeline_server is away."""
    async with database.open_pool(settings, size_max=1) as pool, pool.connection() as connection:
        viewer = (await accounts.find(connection, user)).id
    async with upkeep.open_rebuilder(settings) as rebuilder:
        return await _rebuild(rebuilder, viewer)


async def everybody(
    settings: Settings,
    progress: Progress,
    done: Done,
    *,
    from_start: bool = False,
    batch: int = BATCH,
) -> None:
    """Rebuilds all timelines, and counts in `done`. Goes on where an earlier run was stopped, if
    not told to begin `from_start`. Raises LookupError where another run is under way, and
    ConnectionError where a server stays away."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(bulk.connect(settings))
        if not await database.try_lead(connection, upkeep_rows.REBUILD_LOCK):
            raise LookupError("another `chirp rebuild --all` is under way")
        # A connection that was closed keeps its lock until PostgreSQL sees that.
        stack.push_async_callback(database.stop_leading, connection, upkeep_rows.REBUILD_LOCK)
        cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
        timelines = TimelineStore(cache, settings)
        rebuilder = await stack.enter_async_context(upkeep.open_rebuilder(settings))
        row = await upkeep_rows.begin_rebuild(connection)
        if from_start and row.position:
            await upkeep_rows.end_rebuild(connection, row.id)
            row = await upkeep_rows.begin_rebuild(connection)
        done.resumed_behind, done.rebuilt_before = row.position, row.rebuilt
        passed, total = await upkeep_rows.count_accounts(connection, up_to=row.position)
        task = progress.add_task("timelines rebuilt", total=total, completed=passed)
        position = row.position
        while viewers := await upkeep_rows.fetch_accounts(connection, after=position, count=batch):
            rebuilt = await _rebuild_some(rebuilder, await timelines.fetch_materialised(viewers))
            position = viewers[-1]
            await upkeep_rows.advance_rebuild(
                connection, row.id, position=position, rebuilt=rebuilt
            )
            done.accounts += len(viewers)
            done.rebuilt += rebuilt
            progress.advance(task, len(viewers))
            raise_if_cancelled()
        await upkeep_rows.end_rebuild(connection, row.id)


async def _rebuild_some(rebuilder: Rebuilder, viewers: Sequence[UserId]) -> int:
    left = iter(viewers)
    rebuilt = 0

    async def some() -> None:
        nonlocal rebuilt
        for viewer in left:
            made = await _rebuild(rebuilder, viewer)
            rebuilt += made  # not in one line: others count while this one waits

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return rebuilt


async def _rebuild(rebuilder: Rebuilder, viewer: UserId) -> bool:
    rest_s = RETRY_FIRST_S
    for _ in range(TRIES_MAX - 1):
        try:
            return await rebuilder.rebuild(viewer)
        except ConnectionError:
            await asyncio.sleep(rest_s)
            rest_s *= 2
    return await rebuilder.rebuild(viewer)
