"""`chirp load --graph`: the accounts and follows of a follower graph, in bulk.

The file has a line `follower,followee` for each follow, two numbers from 1 on; .xz and .gz are
unpacked. Account number n becomes:
    id         n << 22: the snowflake of the n-th millisecond of 2024, so a second run finds the
               account that the first one made, and no id given out since is like it
    username   ego_<n>
    password   none: `chirp token ego_<n>` gives a token

For each batch of lines, in one transaction:
 1. the accounts that are new;
 2. all its accounts' rows are locked, as a follow does it, so follows made meanwhile are counted;
 3. the follows that are new, and the counts on both sides.
Then the tiers by the settings' thresholds, and what the cache holds of these accounts is dropped
(storage/caches.py): a running stack serves the new graph at once.

An interrupted run leaves whole batches. Running again adds what is missing and changes nothing
else.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from domain.ids import SEQUENCE_BITS, WORKER_BITS, UserId, minted_at_ms
from domain.tier import Thresholds
from mesh.settings import Settings
from ops import inputs
from storage import bulk, caches, database, snowflakes, valkey
from storage.bulk import AccountRow, FollowRow
from storage.database import Connection
from storage.snowflakes import IdMinter
from storage.valkey import Valkey

NUMBER_MAX = 100_000_000  # a little more than a day of ids; no clock of a server was there
FOLLOWS_PER_BATCH = 100_000  # rows stay locked for about two seconds

Pair = tuple[int, int]


@dataclass(slots=True)
class Loaded:
    """What a run did."""

    lines: int = 0
    accounts: int = 0
    follows: int = 0
    tiers: int = 0


def graph_id(number: int) -> UserId:
    """Returns the id of a graph's account."""
    return UserId(number << (WORKER_BITS + SEQUENCE_BITS))


async def load(
    settings: Settings,
    path: Path,
    progress: Progress,
    *,
    limit: int | None = None,
    per_batch: int = FOLLOWS_PER_BATCH,
) -> Loaded:
    """Loads a graph file, or its first `limit` lines; idempotent. Raises ValueError for a line that
    is none, LookupError where a username is taken, and what PostgreSQL and Valkey raise."""
    thresholds = Thresholds(
        settings.influencer_followers, settings.celebrity_followers, settings.tier_hysteresis
    )
    done, seen = Loaded(), set[int]()
    async with (
        database.open_pool(settings, size_max=1) as pool,
        snowflakes.lease(pool) as ids,
        valkey.connect(settings.valkey_url, settings) as cache,
        bulk.connect(settings) as connection,
    ):
        # A cache that is away now could come back with what this run makes stale.
        await cache.ping()
        with inputs.opened(path) as file:
            task = progress.add_task(f"follows of {path.name}", total=file.size)
            lines = islice(_pairs(file.text), limit)
            while batch := list(islice(lines, per_batch)):
                await _load_batch(connection, batch, seen, ids, done)
                await _retier(connection, thresholds, done)
                await caches.drop(cache, settings, _accounts(batch))
                progress.update(task, completed=file.position())
            progress.update(task, completed=file.size)
        await bulk.analyze(connection)
        if seen:
            await _settle(cache, settings, seen, progress)
    return done


def progress_bar() -> Progress:
    """Returns a progress bar that stays readable where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )


async def _load_batch(
    connection: Connection, batch: list[Pair], seen: set[int], ids: IdMinter, done: Loaded
) -> None:
    numbers = {number for pair in batch for number in pair}
    async with connection.transaction():
        accounts = await bulk.insert_accounts(
            connection, map(_account, sorted(numbers - seen))
        )
        await bulk.lock_accounts(connection, [graph_id(number) for number in numbers])
        follows = await bulk.insert_follows(
            connection,
            [FollowRow(graph_id(one), graph_id(other), ids.mint()) for one, other in batch],
        )
    seen |= numbers
    done.lines += len(batch)
    done.accounts += accounts
    done.follows += follows
