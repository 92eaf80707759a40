"""What the tests of the edge cases share: a world in which edges are near, and what they do in it.

The worlds are opened once for a module; every test brings people of its own.
"""

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from chirp.v1 import timeline_pb2

from domain.timeline import Window
from mesh.settings import Settings
from storage.timelines import Keys, TimelineStore, WindowKind
from tests.integration.accounts import Account
from tests.world import World, open_world

LENGTH, DISTANCE = 7, 3
INFLUENCER, CELEBRITY = 4, 6  # followers; down below 2 and below 3
PUSH, PULL, PUSH_ACTIVE = 1, 2, 3
LIMITS = (2, 20)


@asynccontextmanager
async def open_near_edges(settings: Settings, **changed: Any) -> AsyncGenerator[World]:
    """Opens a world of short windows, low lines, and small batches and calls."""
    near = {
        "timeline_length": LENGTH,
        "repeat_distance": DISTANCE,
        "influencer_followers": INFLUENCER,
        "celebrity_followers": CELEBRITY,
        "tier_hysteresis": 0.5,
        "timeline_shards": 2,
        "eventlog_partitions": 4,
        "fanout_chunk_deliveries": 4,
        "consumer_batch": 4,
        # On a busy machine, too, the windows answer: falling back on PostgreSQL is not meant here.
        "valkey_timeout_s": 10.0,
        **changed,
    }
    async with open_world(settings.model_copy(update=near)) as world:
        yield world


async def assert_right(
    world: World, *viewers: Account, limits: Iterable[int] = LIMITS
) -> list[list[int]]:
    """All pages laid end to end equal the oracle, whatever their size, by the first read, which may
    rebuild, and by the later ones. Returns the timelines."""
    timelines: list[list[int]] = []
    for viewer in viewers:
        expected = await world.oracle(viewer)
        for limit in limits:
            assert await world.home(viewer, limit=limit) == expected
        timelines.append(expected)
    return timelines


async def crowd(world: World, star: Account, count: int) -> list[Account]:
    """New followers of an account, by the calls that move its tier."""
    fans = await world.accounts.insert(count)
    for fan in fans:
        await world.follow(fan, star)
    return fans


async def set_tier(world: World, *accounts: Account, tier: int) -> None:
    """Puts accounts into a tier, where crossing the line is not what a test is about."""
    async with world.pool.connection() as connection:
        await connection.execute(
            "UPDATE users SET tier = %s WHERE id = ANY(%s)",
            (tier, [account.id for account in accounts]),
        )


async def post_each(world: World, authors: Sequence[Account], times: int = 1) -> list[int]:
    """Posts of several authors in turn; returns them, oldest first."""
    return [(await world.post(author)).id for _ in range(times) for author in authors]


async def insert_tweets(
    world: World, author: Account, ids: range, *, delivery: int = PUSH, **columns: Any
) -> None:
    """Tweets of long ago, as a bulk load would leave them: no event tells of them."""
    names = "".join(f", {name}" for name in columns)
    values = ", %s" * len(columns)
    async with world.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at"
            f"{names}) SELECT n, %s, 'old', n, %s, now(){values}"
            " FROM generate_series(%s::bigint, %s, %s) AS n".encode(),
            (author.id, delivery, *columns.values(), ids.start, ids.stop - 1, ids.step),
        )
        if delivery == PULL:
            await connection.execute(
                "UPDATE users SET first_pulled_tweet_id = %s WHERE id = %s", (ids[0], author.id)
            )


async def hold(world: World, *authors: Account) -> list[int]:
    """Keeps what these accounts' unsent events say from the log; returns them for `release`."""
    async with world.pool.connection() as connection:
        cursor = await connection.execute(
            "UPDATE outbox SET sent_at = now() WHERE sent_at IS NULL AND partition_key = ANY(%s)"
            " RETURNING id",
            ([author.id for author in authors],),
        )
        held = [int(row[0]) for row in await cursor.fetchall()]
    assert held, "nothing is held"
    return held


async def release(world: World, held: list[int]) -> None:
    """Lets held events go, late."""
    async with world.pool.connection() as connection:
        await connection.execute("UPDATE outbox SET sent_at = NULL WHERE id = ANY(%s)", (held,))


async def step(world: World) -> None:
    """What is committed and not held goes through log and fan-out; the servers are told nothing."""
    await world.relay_all()
    deadline = time.monotonic() + 20
    while sum((await world.fanout.lag()).values()):
        await world.fanout.step(20)
        assert time.monotonic() < deadline, "the event log does not drain"


def keys(world: World) -> Keys:
    """The names of keys in the cache."""
    return Keys(world.settings.timeline_shards)


async def elements(
    world: World, user: Account, kind: WindowKind = WindowKind.TIMELINE
) -> list[bytes]:
    """A window as it lies in Valkey."""
    return await cast(Any, world.cache.lrange(keys(world).window(kind, user.id), 0, -1))


async def window_of(
    world: World, user: Account, kind: WindowKind = WindowKind.TIMELINE
) -> Window | None:
    """A window in Valkey, None where it is absent or being rebuilt."""
    return await TimelineStore(world.cache, world.settings).fetch(kind, user.id)


async def held_ids(
    world: World, user: Account, kind: WindowKind = WindowKind.TIMELINE
) -> list[int] | None:
    """The tweets in a window, None where it is absent or being rebuilt."""
    window = await window_of(world, user, kind)
    return None if window is None else [entry[0] for entry in window.entries]


async def ids_of(world: World, viewer: Account, **asked: Any) -> list[int]:
    """The tweets on one page."""
    return [tweet.id for tweet in (await world.home_page(viewer, **asked)).tweets]


async def ways_of(world: World, author: Account) -> list[int]:
    """The ways stamped on an author's tweets, in the order of posting."""
    rows = await world.accounts.rows(
        "SELECT delivery FROM tweets WHERE author_id = %s ORDER BY id", author.id
    )
    return [int(way) for (way,) in rows]


async def count_newer(world: World, viewer: Account, since_id: int) -> int:
    """How many entries are newer than a tweet."""
    request = timeline_pb2.CountNewerRequest(since_id=since_id)
    return (await world.timelines.CountNewer(request, metadata=viewer.metadata)).count


async def assert_contiguous(world: World, viewer: Account) -> None:
    """A window holds every living candidate above its floor that is not pulled."""
    window = await window_of(world, viewer)
    assert window is not None
    rows = await world.accounts.rows(
        "SELECT id FROM tweets AS t WHERE id >= %s AND deleted_at IS NULL AND (author_id = %s"
        " OR (delivery <> 2 AND author_id IN"
        "  (SELECT followee_id FROM follows WHERE follower_id = %s)))"
        " AND (retweet_of IS NULL OR EXISTS (SELECT FROM tweets AS original"
        "  WHERE original.id = t.retweet_of AND original.deleted_at IS NULL))"
        " ORDER BY id DESC",
        window.floor,
        viewer.id,
        viewer.id,
    )
    assert [entry[0] for entry in window.entries] == [int(row[0]) for row in rows]
