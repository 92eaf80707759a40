"""`chirp rebuild`, and the RPC beneath it: while people read, and after it was stopped."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2
from rich.progress import Progress

from domain.ids import UserId
from mesh.settings import Settings
from ops import rebuild, upkeep
from ops.rebuild import Done
from ops.upkeep import Rebuilder
from storage import upkeep as upkeep_rows
from storage.timelines import Keys, WindowKind
from tests.integration.accounts import Account
from tests.refused import failure
from tests.world import World, open_world

AWAY_S = 60 * 60


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    small = {"timeline_length": 12, "repeat_distance": 4}
    async with open_world(settings.model_copy(update=small)) as opened:
        yield opened


def silent() -> Progress:
    return Progress(disable=True)


def window(world: World, viewer: Account) -> str:
    return Keys(world.settings.timeline_shards).window(WindowKind.TIMELINE, viewer.id)


async def story(world: World, readers: int) -> tuple[Account, list[Account]]:
    """An author with twenty tweets and a few retweets, and readers with warm timelines."""
    author, other, *people = await world.accounts.insert(2 + readers)
    for reader in people:
        await world.follow(reader, author)
        await world.follow(reader, other)
    for number in range(20):
        tweet = await world.post(author)
        if number % 4 == 0:
            await world.retweet(other, tweet.id)
    await world.drain()
    for reader in people:
        await world.home(reader)
    return author, people


async def damage(world: World, viewer: Account) -> None:
    """Takes the newest entry out of a window."""
    await cast(Any, world.cache).lpop(window(world, viewer))


async def test_every_page_read_during_a_rebuild_is_whole(world: World):
    author, readers = await story(world, 8)
    expected = {reader.id: await world.oracle(reader) for reader in readers}
    reads, stop = 0, asyncio.Event()

    async def read(reader: Account) -> None:
        nonlocal reads
        while not stop.is_set():
            assert await world.home(reader, limit=7) == expected[reader.id]
            reads += 1

    done = Done()
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(read(reader))
        for _ in range(3):
            await rebuild.everybody(world.settings, silent(), done, batch=3)
        stop.set()

    assert done.rebuilt == 3 * len(readers)
    assert reads > len(readers)
    for reader in readers:
        assert await world.home(reader, limit=7) == expected[reader.id]
    # They are materialised as before: what is posted now is pushed there.
    tweet = await world.post(author)
    await world.drain()
    assert (await cast(Any, world.cache).lindex(window(world, readers[0]), 0))[:8] == (
        tweet.id.to_bytes(8)
    )


async def test_what_is_posted_during_a_rebuild_is_not_lost(world: World):
    author, readers = await story(world, 4)
    tweets: list[int] = []
    stop = asyncio.Event()

    async def post() -> None:
        while not stop.is_set():
            tweets.append((await world.post(author)).id)
            await world.relay_all()
            await world.fanout.step(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(post())
        for _ in range(5):
            await rebuild.everybody(world.settings, silent(), Done(), batch=2)
        stop.set()
    await world.drain()

    assert tweets
    for reader in readers:
        assert await world.home(reader) == await world.oracle(reader)


async def until_nobody_rebuilds(world: World) -> None:
    """Waits until the database has seen that the connection of a stopped rebuild is gone."""
    async with asyncio.timeout(10), world.accounts.pool.connection() as connection:
        while True:
            cursor = await connection.execute(
                "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
                " WHERE locktype = 'advisory' AND datname = current_database()"
                " AND (classid::bigint << 32 | objid::bigint) = %s",
                (upkeep_rows.REBUILD_LOCK,),
            )
            if await cursor.fetchone() is None:
                return
            await asyncio.sleep(0.01)


async def test_a_rebuild_that_was_stopped_goes_on_where_it_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    _, readers = await story(world, 9)
    begun = ended = 0
    enough = asyncio.Event()
    real = Rebuilder.rebuild

    async def then_stopped(rebuilder: Rebuilder, viewer: UserId) -> bool:
        nonlocal begun, ended
        begun += 1
        if begun > 5:
            await asyncio.Event().wait()
        try:
            return await real(rebuilder, viewer)
        finally:
            ended += 1
            if ended == 5:  # none is under way in timeline_server
                enough.set()

    monkeypatch.setattr(Rebuilder, "rebuild", then_stopped)
    first = Done()
    running = asyncio.create_task(rebuild.everybody(world.settings, silent(), first, batch=2))
    await enough.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    monkeypatch.setattr(Rebuilder, "rebuild", real)
    for reader in readers:
        await damage(world, reader)
    await until_nobody_rebuilds(world)
    again = Done()
    await rebuild.everybody(world.settings, silent(), again, batch=2)

    # Two accounts that nobody reads come first, then the readers by two.
    assert (first.accounts, first.rebuilt) == (6, 4)
    assert again.resumed_behind == readers[3].id
    assert (again.rebuilt_before, again.accounts, again.rebuilt) == (4, 5, 5)
    assert f"4 before, up to account {readers[3].id}" in rebuild.summary(again)
    for position, reader in enumerate(readers):
        whole = await world.home(reader) == await world.oracle(reader)
        assert whole is (position >= 4)
    # It came to its end, so the next one begins with the first account.
    once_more = Done()
    await rebuild.everybody(world.settings, silent(), once_more, batch=100)
    assert (once_more.resumed_behind, once_more.rebuilt) == (0, 9)
    for reader in readers:
        assert await world.home(reader) == await world.oracle(reader)


async def test_one_that_was_stopped_can_begin_again(world: World):
    _, readers = await story(world, 2)
    await world.accounts.rows(
        "INSERT INTO timeline_rebuilds (position) VALUES (%s) RETURNING id", readers[0].id
    )

    done = Done()
    await rebuild.everybody(world.settings, silent(), done, from_start=True)

    assert (done.resumed_behind, done.rebuilt) == (0, 2)


async def test_only_one_runs_at_a_time(world: World):
    await story(world, 1)
    async with world.pool.connection() as connection:
        await connection.execute("SELECT pg_advisory_lock(%s)", (0x43687262,))
        with pytest.raises(LookupError, match="under way"):
            await rebuild.everybody(world.settings, silent(), Done())
        await connection.execute("SELECT pg_advisory_unlock(%s)", (0x43687262,))


async def test_one_account_is_rebuilt_by_name_and_keeps_its_time(world: World):
    _, (reader, other) = await story(world, 2)
    cache = cast(Any, world.cache)
    await damage(world, reader)
    await damage(world, other)
    await cache.expire(window(world, reader), AWAY_S)
    await cache.delete(window(world, other))

    rebuilt = await rebuild.one(world.settings, reader.username)
    absent = await rebuild.one(world.settings, str(other.id))

    assert (rebuilt, absent) == (True, False)
    assert await world.home(reader) == await world.oracle(reader)
    # Nobody had read it: it is forgotten when it would have been.
    assert 0 < await cache.ttl(window(world, reader)) <= AWAY_S
    with pytest.raises(LookupError):
        await rebuild.one(world.settings, "nobody")


async def test_only_services_may_have_timelines_rebuilt(world: World):
    _, (reader,) = await story(world, 1)
    async with upkeep.open_rebuilder(world.settings) as rebuilder:
        stub = rebuilder._stub  # pyright: ignore[reportPrivateUsage]
        request = timeline_pb2.RebuildHomeTimelineRequest(user_id=reader.id)
        refused = await failure(stub.RebuildHomeTimeline(request, metadata=reader.metadata))
        wrong = await failure(
            stub.RebuildHomeTimeline(
                timeline_pb2.RebuildHomeTimelineRequest(),
                metadata=world.accounts.metadata_of("chirp"),
            )
        )

    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
    assert (wrong.code, wrong.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["userId"])
