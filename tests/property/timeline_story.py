"""A story of a few people on a running Chirp, told in steps, and what must hold in it.

Between steps: no page holds anything twice, out of order, or gone; none is short of its end; a
saved cursor works; a cold timeline is whole. At the end, when the log is drained: everything equals
plain SQL.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from chirp.v1 import timeline_pb2

from domain import paging
from storage.timelines import Keys, WindowKind
from tests.integration.accounts import Account
from tests.leases import end_lease
from tests.oracle import fetch_visible
from tests.property.points import COMMIT_HOLD, Crash, Gate, Points
from tests.world import World

T = TypeVar("T")

PEOPLE = 4
PAGE = 3
SLOW_READS_MAX = 2  # of the places that timeline_server has for rebuilds
WAIT_S = 20.0


_NOT_VISIBLE = (
    timeline_pb2.EXPLAIN_REASON_NOT_FOLLOWED,
    timeline_pb2.EXPLAIN_REASON_BLOCKED,
    timeline_pb2.EXPLAIN_REASON_MUTED,
    timeline_pb2.EXPLAIN_REASON_REPLY_TO_NOT_FOLLOWED,
)


@dataclass(frozen=True)
class Held:
    """A call that waits at a gate."""

    gate: Gate
    call: asyncio.Future[Any]


@dataclass(frozen=True)
class Bookmark:
    """A cursor that somebody kept, and the last entry above it."""

    viewer: Account
    cursor: str
    last: int


@dataclass
class Story:
    """People, what they posted that is not deleted, and what hangs in the air."""

    world: World
    points: Points
    people: list[Account]
    living: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    bookmarks: list[Bookmark] = field(default_factory=list[Bookmark])
    slow_posts: dict[int, Held] = field(default_factory=dict[int, Held])
    slow_reads: dict[int, Held] = field(default_factory=dict[int, Held])
    blink: bool = False
    """The next change finds the cache away."""

    async def post(self, author: int, count: int = 1) -> None:
        """Posts some tweets."""
        await self.end_slow_post(author)
        for _ in range(count):
            tweet = await self._changing(self.world.post(self.people[author]))
            assert tweet is not None
            self.living.append((author, tweet.id))

    async def engage(self, kind: str, person: int, which: int) -> None:
        """Does something with one of the tweets that there are."""
        if not self.living:
            return
        await self.end_slow_post(person)
        world, actor = self.world, self.people[person]
        number = which % len(self.living)
        author, target = self.living[number]
        match kind:
            case "reply" | "quote":
                replied, quoted = (target, 0) if kind == "reply" else (0, target)
                post = world.post(actor, reply_to=replied, quote_of=quoted)
                tweet = await self._changing(post)
                if tweet is not None:
                    self.living.append((person, tweet.id))
            case "retweet" | "undo retweet":
                undo = kind == "undo retweet"
                await self._changing(world.retweet(actor, target, undo=undo))
            case "like" | "unlike":
                await self._changing(world.like(actor, target, undo=kind == "unlike"))
            case _:
                await self.end_slow_post(author)
                del self.living[number]
                await self._changing(world.delete(self.people[author], target))

    async def relate(self, kind: str, person: int, other: int) -> None:
        """Changes what holds between two people."""
        if person == other:
            return
        await self.end_slow_post(person)
        await self.end_slow_post(other)
        world, pair = self.world, (self.people[person], self.people[other])
        match kind:
            case "follow":
                await self._changing(world.follow(*pair))
            case "unfollow":
                await self._changing(world.unfollow(*pair))
            case "block" | "unblock":
                await self._changing(world.block(*pair, undo=kind == "unblock"))
            case _:
                await self._changing(world.mute(*pair, undo=kind == "unmute"))

    async def erase(self, person: int) -> None:
        """Somebody's account is deleted; a newcomer takes the place in the story."""
        await self.end_slow_post(person)
        await self.end_slow_read(person)
        gone = self.people[person]
        await self._changing(self.world.erase(gone))
        (self.people[person],) = await self.world.accounts.insert(1)
        self.living = [(author, tweet) for author, tweet in self.living if author != person]
        self.bookmarks = [bookmark for bookmark in self.bookmarks if bookmark.viewer != gone]

    async def take_away(self, steps: int) -> None:
        """Some of what deleted accounts have left is taken away."""
        # They hold rows that the steps wait for.
        for person in list(self.slow_posts):
            await self.end_slow_post(person)
        await self.world.take_away(steps)

    async def read(self, person: int) -> None:
        """Reads a first page, and keeps its cursor."""
        await self.end_slow_read(person)
        viewer = self.people[person]
        page = await self._checked_page(viewer, cursor="")
        if page.has_more:
            bookmark = Bookmark(viewer, page.next_cursor, page.tweets[-1].id)
            self.bookmarks.append(bookmark)
            assert paging.decode_cursor(bookmark.cursor) == bookmark.last

    async def read_on(self, which: int) -> None:
        """Goes on from a cursor that was kept."""
        if self.bookmarks:
            bookmark = self.bookmarks[which % len(self.bookmarks)]
            await self.end_slow_read(self.people.index(bookmark.viewer))
            page = await self._checked_page(bookmark.viewer, cursor=bookmark.cursor)
            assert all(tweet.id < bookmark.last for tweet in page.tweets)

    async def relay(self, crash_at: str | None) -> None:
        """Moves what is committed to the log; a relay that crashes is followed by another."""
        self.points.crash_at = crash_at
        try:
            await self.world.relay_all()
        except Crash:
            await self.world.replace_relay()
        self.points.crash_at = None

    async def fan_out(self, crash_at: str | None) -> None:
        """Handles a batch of events; what was not committed comes again after a crash."""
        self.points.crash_at = crash_at
        with suppress(Crash):
            await self.world.fanout.step(0)
        self.points.crash_at = None

    async def lose_cache(self) -> None:
        """The cache loses everything. What is read now can only come from the database."""
        await self.end_slow_calls()
        await self.world.cache.flushall()
        for viewer in self.people:
            await self._poll_feeds()
            expected = await self.world.oracle(viewer)
            page = await self.world.home_page(viewer, limit=PAGE)
            assert [tweet.id for tweet in page.tweets] == expected[:PAGE], "cold and not whole"

    async def evict(self, which: int) -> None:
        """The cache loses one key."""
        keys = sorted(await self.world.cache.keys())
        if keys:
            await self.world.cache.delete(keys[which % len(keys)])

    async def go_cold(self, person: int) -> None:
        """The lease of a reader runs out."""
        await end_lease(self.world.cache, self.world.settings, self.people[person].id)

    async def begin_slow_post(self, person: int) -> None:
        """A post whose transaction has its place in the outbox and does not commit yet."""
        if person not in self.slow_posts:
            author = self.people[person]
            gate = self.points.hold(COMMIT_HOLD, author.id)
            self.slow_posts[person] = await _begin(self.world.post(author), gate)

    async def end_slow_post(self, person: int) -> None:
        """It commits."""
        held = self.slow_posts.pop(person, None)
        if held is not None:
            self.living.append((person, (await _end(held)).id))

    async def begin_slow_read(self, person: int, point: str) -> None:
        """A cold read whose rebuild takes long."""
        await self.end_slow_read(person)
        if len(self.slow_reads) == SLOW_READS_MAX:
            await self.end_slow_read(next(iter(self.slow_reads)))
        viewer = self.people[person]
        keys = Keys(self.world.settings.timeline_shards)
        await self.world.cache.delete(keys.window(WindowKind.TIMELINE, viewer.id))
        gate = self.points.hold(point, viewer.id)
        self.slow_reads[person] = await _begin(self.world.home_page(viewer, limit=PAGE), gate)

    async def end_slow_read(self, person: int) -> None:
        """It ends."""
        held = self.slow_reads.pop(person, None)
        if held is not None:
            await _end(held)

    async def end_slow_calls(self) -> None:
        """All that hangs in the air comes to its end."""
        for person in list(self.slow_posts):
            await self.end_slow_post(person)
        for person in list(self.slow_reads):
            await self.end_slow_read(person)

    async def abandon(self) -> None:
        """Leaves nothing hanging in the air after a step that failed."""
        for held in (*self.slow_posts.values(), *self.slow_reads.values()):
            held.gate.opened.set()
            await asyncio.wait({held.call}, timeout=WAIT_S)

    async def drain(self) -> None:
        """Moves everything through the log; a transaction that has not committed stays out."""
        self.points.deliver_all()
        await self.world.drain()

    async def drain_and_check(self, person: int) -> None:
        """Moves everything through the log; then somebody's timeline equals the oracle."""
        await self.drain()
        await self.end_slow_read(person)
        viewer = self.people[person]
        assert await self.world.home(viewer, limit=PAGE) == await self.world.oracle(viewer)

    async def end(self) -> None:
        """Everything that was begun is ended, and everything equals the oracle."""
        await self.drain()  # beside what hangs in the air, and again without it
        await self.end_slow_calls()
        await self.drain()
        for viewer in self.people:
            assert await self.world.home(viewer, limit=100) == await self.world.oracle(viewer)
        await self.world.erased()
        await self.drain()
        for number, viewer in enumerate(self.people):
            expected = await self.world.oracle(viewer)
            # The first read may rebuild, the second finds what it stored.
            assert await self.world.home(viewer, limit=PAGE) == expected, f"person {number}"
            assert await self.world.home(viewer, limit=100) == expected, f"person {number}"
            for position, tweet_id in enumerate(expected[:PAGE]):
                newer = await self.world.timelines.CountNewer(
                    timeline_pb2.CountNewerRequest(since_id=tweet_id), metadata=viewer.metadata
                )
                assert newer.count == position
                since = await self.world.home(viewer, limit=PAGE, since_id=tweet_id)
                assert since == expected[:position]
        for bookmark in self.bookmarks[-PEOPLE:]:
            expected = await self.world.oracle(bookmark.viewer)
            rest = await self.world.home(bookmark.viewer, limit=100, cursor=bookmark.cursor)
            assert rest == [i for i in expected if i < bookmark.last], "a saved cursor"
        await self.world.forget_handled()  # what is rewound is the next story's own

    async def explain_all(self) -> None:
        """What is explained is so, for every person and every tweet that there ever was."""
        ids = ",".join(str(person.id) for person in self.people)
        tweets = await self.world.accounts.rows(
            "SELECT t.id, t.deleted_at IS NOT NULL, o.deleted_at IS NOT NULL"
            " FROM tweets AS t LEFT JOIN tweets AS o ON o.id = t.retweet_of"
            f" WHERE t.author_id IN ({ids})"
        )
        for viewer in self.people:
            shown = set(await self.world.oracle(viewer))
            async with self.world.pool.connection() as connection:
                visible = await fetch_visible(connection, viewer.id)
            for tweet, deleted, original_deleted in tweets:
                answer = await self.world.timelines.ExplainHomeTimeline(
                    timeline_pb2.ExplainHomeTimelineRequest(tweet_id=tweet),
                    metadata=viewer.metadata,
                )
                assert answer.shown == (tweet in shown), answer
                assert bool(answer.way) == answer.shown, answer
                assert answer.sentence
                if deleted:
                    assert answer.reason == timeline_pb2.EXPLAIN_REASON_DELETED
                elif original_deleted:
                    assert answer.reason == timeline_pb2.EXPLAIN_REASON_ORIGINAL_DELETED
                elif tweet in visible and tweet not in shown:
                    assert answer.reason == timeline_pb2.EXPLAIN_REASON_REPEATED
                    assert answer.older_entry_id in visible
                elif tweet not in visible:
                    assert answer.reason in _NOT_VISIBLE, answer

    async def _changing(self, call: Awaitable[T]) -> T | None:
        """Awaits a change; None where a block, or a deletion, forbids it."""
        self.points.lose_cache_calls, self.blink = self.blink, False
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if error.code() not in (
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.NOT_FOUND,
            ):
                raise
            return None
        finally:
            self.points.lose_cache_calls = False

    async def _checked_page(
        self, viewer: Account, *, cursor: str
    ) -> timeline_pb2.GetHomeTimelineResponse:
        await self._poll_feeds()
        async with self.world.pool.connection() as connection:
            visible = await fetch_visible(connection, viewer.id)
        page = await self.world.home_page(viewer, limit=PAGE, cursor=cursor)
        ids = [tweet.id for tweet in page.tweets]
        assert ids == sorted(set(ids), reverse=True)
        assert len(ids) == PAGE or not page.has_more
        assert visible.issuperset(ids), "shows what is deleted, blocked, muted or not followed"
        return page

    async def _poll_feeds(self) -> None:
        # What the servers do four times a second, now: two seconds have passed.
        for feed in self.world.feeds:
            await feed.poll()


async def _begin(call: Awaitable[T], gate: Gate) -> Held:
    """Starts a call and waits until it stands at its gate, or ended without passing it."""
    task = asyncio.ensure_future(call)
    arrived = asyncio.ensure_future(gate.arrived.wait())
    done, _ = await asyncio.wait(
        {task, arrived}, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED
    )
    assert done, "neither at the gate nor through"
    arrived.cancel()
    return Held(gate, task)


async def _end(held: Held) -> Any:
    held.gate.opened.set()
    return await asyncio.wait_for(held.call, WAIT_S)
