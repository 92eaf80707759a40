"""Streams break at random places and are resumed anywhere; servers drain, the log is lost and
filled again, the relay repeats itself, readers are slow. What arrives is what section 10 of the
design defines: every entry that is visible when it is delivered, once, in the order of the log."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from chirp.v1 import timeline_pb2_grpc
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from mesh.server import Process
from mesh.settings import Settings
from servers import timeline_server
from servers.purge_feed import PurgeFeed
from tests.home_reader import HomeReader, reading
from tests.integration.accounts import Account
from tests.integration.conftest import serving_process
from tests.world import World, allowed, open_world

PEOPLE = 4
WATCHED = 2  # the first two stream
SERVERS = 2

# Rule 2 for each of some tweets, from the truth alone.
VISIBLE = """
WITH followed AS (SELECT followee_id AS id FROM follows WHERE follower_id = %(me)s),
hidden AS (
    SELECT blocked_id AS id FROM blocks WHERE blocker_id = %(me)s
    UNION SELECT blocker_id FROM blocks WHERE blocked_id = %(me)s
    UNION SELECT muted_id FROM mutes WHERE muter_id = %(me)s
)
SELECT c.id FROM tweets AS c
WHERE c.id = ANY(%(ids)s) AND c.deleted_at IS NULL
AND (c.retweet_of IS NULL OR EXISTS (
    SELECT FROM tweets AS o WHERE o.id = c.retweet_of AND o.deleted_at IS NULL))
AND (c.author_id = %(me)s OR (c.author_id IN (SELECT id FROM followed)
    AND NOT EXISTS (SELECT FROM hidden WHERE id IN
        (c.author_id, c.original_author_id, c.replied_author_id))
    AND (c.replied_author_id IS NULL OR c.replied_author_id IN (%(me)s, c.author_id)
        OR c.replied_author_id IN (SELECT id FROM followed))))
"""

person = st.integers(0, PEOPLE - 1)
which = st.integers(0, 20)
tweeting = st.sampled_from(("post", "post", "reply", "quote", "retweet", "undo retweet"))
relating = st.sampled_from(("follow", "follow", "unfollow", "block", "unblock", "mute", "unmute"))
breaking = st.sampled_from(("break", "break", "resume", "resume", "drain"))
losing = st.sampled_from(("lose the log", "repeat", "lose the cache", "quiet", "delete"))
steps = st.one_of(
    st.tuples(tweeting, person, which),
    st.tuples(tweeting, person, which),
    st.tuples(relating, person, person),
    st.tuples(breaking, st.integers(0, WATCHED - 1), which),
    st.tuples(breaking, st.integers(0, WATCHED - 1), which),
    st.tuples(losing, person, which),
)


class Server:
    """A timeline server that may be drained and started again."""

    def __init__(self, chosen: Settings) -> None:
        self._settings = chosen
        self._serving, self._calling = AsyncExitStack(), AsyncExitStack()
        self.feed: PurgeFeed | None = None
        self.stub: Any = None

    async def start(self) -> None:
        if self.stub is not None:
            return
        port = await self._serving.enter_async_context(
            serving_process(self._settings, self._opened)
        )
        channel = await self._calling.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        )
        self.stub = timeline_pb2_grpc.TimelineServiceStub(channel)

    async def drain(self) -> None:
        await self._serving.aclose()

    async def stop(self) -> None:
        await self.drain()
        await self._calling.aclose()
        self.stub = None

    @asynccontextmanager
    async def _opened(self, chosen: Settings) -> AsyncGenerator[Process]:
        async with timeline_server.open_process(chosen) as process:
            for loop in process.loops:
                runner = getattr(loop, "__self__", None)
                if isinstance(runner, PurgeFeed):
                    self.feed = runner
            yield process


@dataclass
class Reading:
    """A viewer's reading: an open stream or none, what is due, and what came."""

    viewer: Account
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    stream: HomeReader | None = None
    server: int = 0
    token: str = ""
    due: list[int] = field(default_factory=list[int])
    """Tweets whose events are in the log, and that were neither delivered nor judged."""
    got: list[int] = field(default_factory=list[int])
    expected: list[int] = field(default_factory=list[int])
    unsure: set[int] = field(default_factory=set[int])
    """Tweets that were not visible when the stream ended: it may have passed them or not. If they
    are visible when it resumes, they may come."""
    passed: set[int] = field(default_factory=set[int])
    """Tweets that were not visible when their turn came. When the log sends them again soon, they
    may be delivered if they are visible then."""


@dataclass
class History:
    world: World
    servers: list[Server]
    people: list[Account]
    readings: list[Reading]
    strange: int
    """A tweet of somebody whom nobody follows."""
    repeats: bool = False
    """Whether the log sent something again."""
    authors: dict[int, int] = field(default_factory=dict[int, int])
    living: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    async def step(self, name: str, who: int, other: int) -> None:
        world, me = self.world, self.people[who]
        if name in ("follow", "unfollow", "block", "unblock", "mute", "unmute", "delete"):
            await self.settle()
        match name:
            case "post":
                await self.posted(who, (await world.post(me)).id)
            case "reply" | "quote" if self.living:
                target = self.living[other % len(self.living)][1]
                reply_to, quote_of = (target, 0) if name == "reply" else (0, target)
                tweet = await allowed(world.post(me, reply_to=reply_to, quote_of=quote_of))
                if tweet is not None:
                    await self.posted(who, tweet.id)
            case "retweet" | "undo retweet" if self.living:
                await self.retweet(who, self.living[other % len(self.living)][1], name)
            case "follow" if who != other:
                await allowed(world.follow(me, self.people[other]))
            case "unfollow" if who != other:
                await world.unfollow(me, self.people[other])
            case "block" | "unblock" if who != other:
                await world.block(me, self.people[other], undo=name == "unblock")
            case "mute" | "unmute" if who != other:
                await world.mute(me, self.people[other], undo=name == "unmute")
            case "delete" if self.living:
                author, tweet_id = self.living.pop(other % len(self.living))
                await world.delete(self.people[author], tweet_id)
            case "break":
                await self.break_off(self.readings[who], other)
            case "resume":
                await self.resume(self.readings[who], other % SERVERS)
            case "drain":
                await self.drain(other % SERVERS)
            case "lose the log":
                await world.eventlog.flushall()
                await world.relay.check(world.relay_connection)
            case "lose the cache":
                await world.cache.flushall()
            case "repeat":
                # As a relay that died between sending and marking.
                async with world.pool.connection() as connection:
                    await connection.execute(
                        "UPDATE outbox SET sent_at = NULL WHERE id >"
                        " (SELECT max(id) FROM outbox) - %s",
                        (other,),
                    )
            case _:
                pass
        self.repeats |= name in ("lose the log", "repeat")
        await world.relay.settle(world.relay_connection)
        await world.relay_all()
        if name in ("follow", "unfollow", "block", "unblock", "mute", "unmute", "delete"):
            for server in self.servers:
                assert server.feed is not None
                await server.feed.poll()
            await self.settle()

    async def posted(self, who: int, tweet: int) -> None:
        self.living.append((who, tweet))
        await self.came(who, tweet)

    async def came(self, who: int, tweet: int) -> None:
        self.authors[tweet] = who
        for reading_ in self.readings:
            if reading_.stream is not None or reading_.token:
                reading_.due.append(tweet)
        await self.world.relay_all()

    async def retweet(self, who: int, target: int, name: str) -> None:
        me, undo = self.people[who], name == "undo retweet"
        await self.settle()  # an undone retweet that is due would be judged too late
        await allowed(self.world.retweet(me, target, undo=undo))
        for server in self.servers:
            assert server.feed is not None
            await server.feed.poll()
        rows = await self.world.accounts.rows(
            "SELECT max(id) FROM tweets WHERE author_id = %s AND retweet_of IS NOT NULL", me.id
        )
        newest = rows[0][0]
        if newest is not None and newest not in self.authors:
            await self.came(who, newest)

    async def visible(self, reading_: Reading) -> list[int]:
        async with self.world.pool.connection() as connection:
            cursor = await connection.execute(
                VISIBLE, {"me": reading_.viewer.id, "ids": reading_.due}
            )
            shown = {int(row[0]) for row in await cursor.fetchall()}
        return [tweet for tweet in reading_.due if tweet in shown]

    async def settle(self) -> None:
        """Everything that is in the log has come to every open stream."""
        for number, reading_ in enumerate(self.readings):
            if reading_.stream is not None:
                await self.catch_up(number, reading_)

    async def catch_up(self, number: int, reading_: Reading) -> None:
        """Reads all that is due. What came with or before an own tweet that was seen is mostly
        delivered before the next one, so what comes too much is found here, or later."""
        for _ in range(2):
            # A reply to somebody whom nobody follows is seen by its author only.
            mine = (await self.world.post(reading_.viewer, reply_to=self.strange)).id
            self.authors[mine] = number
            reading_.due.append(mine)
            await self.world.relay_all()
            await self.read_until(reading_, [mine])
        await self.read_until(reading_, await self.visible(reading_))
        shown = await self.visible(reading_)
        reading_.expected += shown
        reading_.passed.update(set(reading_.due) - set(shown))
        reading_.due.clear()

    async def read_until(self, reading_: Reading, tweets: list[int]) -> None:
        assert reading_.stream is not None
        while not set(tweets) <= set(reading_.got):
            reading_.got += await reading_.stream.ids(1)

    async def break_off(self, reading_: Reading, count: int) -> None:
        """Reads so many of what is to come, and hangs up."""
        if reading_.stream is None:
            return
        coming = await self.visible(reading_)
        read = await reading_.stream.ids(min(count, len(coming)))
        reading_.got += read
        reading_.expected += [tweet for tweet in coming if tweet in read]
        reading_.due = [tweet for tweet in reading_.due if tweet not in read]
        await self.close(reading_)

    async def drain(self, number: int) -> None:
        """Stops a server: its streams are told, and resume elsewhere or here, later."""
        ending = [r for r in self.readings if r.stream is not None and r.server == number]
        # The readers' channel stays open: a server may be through before they have read all of it.
        draining = asyncio.create_task(self.servers[number].drain())
        for reading_ in ending:
            assert reading_.stream is not None
            read: list[int] = []
            while not (message := await reading_.stream.read()).HasField("end"):
                if message.HasField("item"):
                    read.append(message.item.id)
            assert message.end.reason == "DRAINING"
            reading_.got += read
            reading_.expected += [tweet for tweet in reading_.due if tweet in read]
            reading_.due = [tweet for tweet in reading_.due if tweet not in read]
            await self.close(reading_)
        await draining
        await self.servers[number].stop()
        await self.servers[number].start()

    async def resume(self, reading_: Reading, server: int) -> None:
        if reading_.stream is None:
            context = reading(self.servers[server].stub, reading_.viewer, reading_.token)
            reading_.stream = await reading_.stack.enter_async_context(context)
            reading_.server = server

    async def close(self, reading_: Reading) -> None:
        assert reading_.stream is not None
        shown = await self.visible(reading_)
        reading_.unsure.update(set(reading_.due) - set(shown))
        reading_.due = shown
        reading_.token = reading_.stream.token
        reading_.stream = None
        await reading_.stack.aclose()

    async def check_all(self) -> None:
        for number, reading_ in enumerate(self.readings):
            await self.resume(reading_, number % SERVERS)
            await self.catch_up(number, reading_)
            uncertain = reading_.unsure | reading_.passed if self.repeats else reading_.unsure
            got = [tweet for tweet in reading_.got if tweet not in uncertain]
            assert sorted(got) == sorted(reading_.expected), f"person {number}"
            assert len(reading_.got) == len(set(reading_.got))
            for author in range(PEOPLE):
                # The order of the log is the order of an author's ids.
                of_author = [tweet for tweet in got if self.authors[tweet] == author]
                assert of_author == sorted(of_author), f"person {number}, author {author}"


@pytest.mark.parametrize(("buffer", "memory"), [(2, 3), (256, 1_000)])
def test_streams_that_break_anywhere_deliver_what_is_visible_once_and_in_order(
    settings_sync: Settings, monkeypatch: pytest.MonkeyPatch, buffer: int, memory: int
):
    small = settings_sync.model_copy(
        update={
            "eventlog_partitions": 4,
            "stream_buffer_max": buffer,
            "stream_memory": memory,
            "purge_poll_ms": 20,
        }
    )
    if memory < 10:
        monkeypatch.setattr("servers.home_log.KEPT_MAX", memory)
        monkeypatch.setattr("servers.home_stream.READ_MAX", 4)
        monkeypatch.setattr("servers.home_stream.TAKE_MAX", 2)
    with asyncio.Runner() as runner:
        context = open_world(small)
        world = runner.run(context.__aenter__())
        servers = [Server(world.settings) for _ in range(SERVERS)]
        for server in servers:
            runner.run(server.start())
        try:

            @settings(
                max_examples=25,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            )
            @example([("post", 0, 0), ("quote", 1, 1), ("drain", 0, 0), ("follow", 0, 1)])
            @given(st.lists(steps, min_size=10, max_size=40))
            def histories(story: list[tuple[str, int, int]]) -> None:
                runner.run(play(world, servers, story))

            histories()
        finally:
            for server in servers:
                runner.run(server.stop())
            runner.run(context.__aexit__(None, None, None))


async def play(world: World, servers: list[Server], story: list[tuple[str, int, int]]) -> None:
    for server in servers:
        await server.start()
    async with world.pool.connection() as connection:
        # A lost log is filled with this story alone.
        await connection.execute("DELETE FROM outbox WHERE sent_at IS NOT NULL")
    people = await world.accounts.insert(PEOPLE)
    (stranger,) = await world.accounts.insert(1)
    strange = (await world.post(stranger)).id
    readings = [Reading(viewer) for viewer in people[:WATCHED]]
    history = History(world, servers, people, readings, strange)
    await world.relay_all()
    try:
        for number, reading_ in enumerate(history.readings):
            await history.resume(reading_, number)
        for step in story:
            note(str(step))
            await history.step(*step)
        await history.check_all()
    finally:
        for reading_ in history.readings:
            await reading_.stack.aclose()
