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
else; it also drops what a run that was killed left in the cache of a running stack.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TextIO

import redis.exceptions
from rich.progress import Progress

from domain.ids import SEQUENCE_BITS, WORKER_BITS, UserId, minted_at_ms
from domain.tier import Thresholds
from mesh.settings import Settings
from mesh.tasks import raise_if_cancelled
from ops import inputs
from ops.inputs import BadInput
from storage import bulk, caches, database, snowflakes, valkey
from storage.bulk import AccountRow, FollowRow
from storage.database import Connection
from storage.snowflakes import IdMinter
from storage.valkey import Valkey

NUMBER_MAX = 100_000_000  # a little more than a day of ids, in which no server's clock was
FOLLOWS_PER_BATCH = 100_000  # their accounts stay locked for a few seconds
ACCOUNTS_PER_DROP = 10_000

Pair = tuple[int, int]


@dataclass(slots=True)
class Loaded:
    """What a run did: lines read, and what was new."""

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
    done: Loaded,
    *,
    limit: int | None = None,
    per_batch: int = FOLLOWS_PER_BATCH,
) -> None:
    """Loads a graph file, or its first `limit` lines, and counts in `done`. Idempotent.

    Raises BadInput for a line that is no follow, LookupError where a username is taken, and what
    PostgreSQL and Valkey raise; what was loaded by then stays."""
    thresholds = Thresholds(
        settings.influencer_followers, settings.celebrity_followers, settings.tier_hysteresis
    )
    seen: set[int] = set()
    async with (
        database.open_pool(settings, size_max=1) as pool,
        snowflakes.lease(pool) as ids,
        valkey.connect(settings.valkey_url, settings) as cache,
        bulk.connect(settings) as connection,
    ):
        await _require(cache)
        with inputs.opened(path) as file:
            task = progress.add_task(f"follows of {path.name}", total=file.size)
            lines = islice(_pairs(file.text), limit)
            while batch := list(islice(lines, per_batch)):
                numbers = {number for pair in batch for number in pair}
                try:
                    await _load_batch(connection, batch, numbers, seen, ids, done)
                    async with connection.transaction():
                        done.tiers += await bulk.update_tiers(connection, thresholds)
                finally:
                    # Also where an interrupted commit may have happened.
                    await _drop(cache, settings, numbers)
                progress.update(task, completed=file.position())
                raise_if_cancelled()
            progress.update(task, completed=file.size)
        async with connection.transaction():
            done.tiers += await bulk.update_tiers(connection, thresholds)
        await bulk.analyze(connection)
        await _settle(cache, settings, seen)


async def _load_batch(
    connection: Connection,
    batch: list[Pair],
    numbers: set[int],
    seen: set[int],
    ids: IdMinter,
    done: Loaded,
) -> None:
    new = sorted(numbers - seen)
    async with connection.transaction():
        accounts = await bulk.insert_accounts(connection, map(_account, new))
        await bulk.lock_accounts(connection, [graph_id(number) for number in numbers])
        # Minted while the rows are held: the lists' order is the order of the commits.
        follows = await bulk.insert_follows(
            connection,
            [FollowRow(graph_id(one), graph_id(other), ids.mint()) for one, other in batch],
        )
    seen |= numbers
    done.lines += len(batch)
    done.accounts += accounts
    done.follows += follows


async def _require(cache: Valkey) -> None:
    # One that is away could come back with what this run makes stale.
    try:
        await cache.ping()
    except (redis.exceptions.RedisError, OSError) as error:
        raise ConnectionError(
            "the cache does not answer: start `chirp up`, or look at CHIRP_VALKEY_URL"
        ) from error


async def _settle(cache: Valkey, settings: Settings, seen: set[int]) -> None:
    """Drops once more what fan-out may have stored of what it asked before the last commit."""
    await asyncio.sleep(caches.settle_s(settings))
    await _drop(cache, settings, seen)


async def _drop(cache: Valkey, settings: Settings, numbers: set[int]) -> None:
    accounts = [graph_id(number) for number in numbers]
    for start in range(0, len(accounts), ACCOUNTS_PER_DROP):
        await caches.drop(cache, settings, accounts[start : start + ACCOUNTS_PER_DROP])


def _account(number: int) -> AccountRow:
    account, name = graph_id(number), f"ego_{number}"
    created_at = datetime.fromtimestamp(minted_at_ms(account) / 1000, UTC)
    return AccountRow(account, name, name, "", "", created_at)


def _pairs(text: TextIO) -> Iterator[Pair]:
    for position, line in enumerate(text, start=1):
        try:
            follower, followee = map(int, line.split(","))
        except ValueError:
            follower = followee = 0
        if not (0 < follower <= NUMBER_MAX and 0 < followee <= NUMBER_MAX) or follower == followee:
            raise BadInput(
                f"line {position} is not `follower,followee`, two different numbers"
                f" from 1 to {NUMBER_MAX}: {line.strip()[:80]!r}"
            )
        yield follower, followee
