"""Chirp in one process for tests: the three servers behind real gRPC, the relay and the fan-out
worker stepped by hand, real PostgreSQL and Valkey beneath."""

import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import grpc
from chirp.v1 import (
    graph_pb2,
    graph_pb2_grpc,
    timeline_pb2,
    timeline_pb2_grpc,
    tweet_pb2,
    tweet_pb2_grpc,
    user_pb2,
)

from eventlog import runner, scripts
from eventlog.contract import EventLog
from eventlog.runner import Runner
from eventlog.valkey_streams import ValkeyStreams
from mesh.server import Opener, Process
from mesh.settings import Settings
from ops import embedded
from servers import graph_server, timeline_server, tweet_server
from servers.purge_feed import PurgeFeed
from servers.relation_eraser import RelationEraser
from servers.tweet_eraser import TweetEraser
from storage import database, valkey
from storage.database import Connection, Pool
from storage.valkey import Valkey
from tests.integration.accounts import PASSWORD, Account, Accounts, open_accounts
from tests.integration.conftest import serving_process
from tests.oracle import fetch_oracle
from workers import fanout_worker, outbox_relay
from workers.fanout_worker import FanoutWorker
from workers.outbox_relay import Relay

T = TypeVar("T")


@dataclass(slots=True)
class World:
    """A running Chirp and what tests do with it."""

    settings: Settings
    pool: Pool
    cache: Valkey
    eventlog: Valkey
    accounts: Accounts
    tweets: "tweet_pb2_grpc.TweetServiceAsyncStub"
    timelines: "timeline_pb2_grpc.TimelineServiceAsyncStub"
    graph: "graph_pb2_grpc.GraphServiceAsyncStub"
    event_log: EventLog
    feeds: list[PurgeFeed]
    erasers: list[RelationEraser | TweetEraser]
    relay: Relay
    relay_connection: Connection
    worker: FanoutWorker
    fanout: Runner

    async def post(
        self,
        author: Account,
        content: str = "hello",
        *,
        reply_to: int = 0,
        quote_of: int = 0,
        request_id: str = "",
    ) -> tweet_pb2.Tweet:
        """Posts a tweet."""
        return await self.tweets.CreateTweet(
            tweet_pb2.CreateTweetRequest(
                content=content, reply_to=reply_to, quote_of=quote_of, request_id=request_id
            ),
            metadata=author.metadata,
        )

    async def delete(self, author: Account, tweet_id: int) -> None:
        """Deletes a tweet."""
        await self.tweets.DeleteTweet(
            tweet_pb2.DeleteTweetRequest(id=tweet_id), metadata=author.metadata
        )

    async def follow(self, follower: Account, followee: Account) -> None:
        """Follows."""
        await self.graph.FollowUser(
            graph_pb2.FollowUserRequest(id=followee.id), metadata=follower.metadata
        )

    async def unfollow(self, follower: Account, followee: Account) -> None:
        """Unfollows."""
        await self.graph.UnfollowUser(
            graph_pb2.UnfollowUserRequest(id=followee.id), metadata=follower.metadata
        )

    async def like(self, user: Account, tweet_id: int, *, undo: bool = False) -> tweet_pb2.Tweet:
        """Likes, or takes the like back."""
        if undo:
            return await self.tweets.DeleteLike(
                tweet_pb2.DeleteLikeRequest(id=tweet_id), metadata=user.metadata
            )
        return await self.tweets.CreateLike(
            tweet_pb2.CreateLikeRequest(id=tweet_id), metadata=user.metadata
        )

    async def retweet(self, user: Account, tweet_id: int, *, undo: bool = False) -> tweet_pb2.Tweet:
        """Retweets, or undoes it."""
        if undo:
            return await self.tweets.DeleteRetweet(
                tweet_pb2.DeleteRetweetRequest(id=tweet_id), metadata=user.metadata
            )
        return await self.tweets.CreateRetweet(
            tweet_pb2.CreateRetweetRequest(id=tweet_id), metadata=user.metadata
        )

    async def block(self, user: Account, other: Account, *, undo: bool = False) -> None:
        """Blocks or unblocks."""
        if undo:
            await self.graph.UnblockUser(
                graph_pb2.UnblockUserRequest(id=other.id), metadata=user.metadata
            )
        else:
            await self.graph.BlockUser(
                graph_pb2.BlockUserRequest(id=other.id), metadata=user.metadata
            )

    async def mute(self, user: Account, other: Account, *, undo: bool = False) -> None:
        """Mutes or unmutes."""
        if undo:
            await self.graph.UnmuteUser(
                graph_pb2.UnmuteUserRequest(id=other.id), metadata=user.metadata
            )
        else:
            await self.graph.MuteUser(
                graph_pb2.MuteUserRequest(id=other.id), metadata=user.metadata
            )

    async def erase(self, person: Account) -> None:
        """Deletes an account; what is left is taken away by the servers, step by step."""
        await self.accounts.give_password(person)
        await self.accounts.users.DeleteMe(
            user_pb2.DeleteMeRequest(password=PASSWORD), metadata=person.metadata
        )

    async def take_away(self, steps: int) -> bool:
        """Takes so many steps at taking away what deleted accounts have left in PostgreSQL; returns
        whether there may be more. A step that fails counts, and is taken again."""
        for _ in range(steps):
            done = [await _tried(eraser) for eraser in self.erasers]
            if not any(done):
                return False
        return True

    async def erased(self) -> None:
        """Takes all of it away."""
        deadline = time.monotonic() + 60
        while await self.take_away(10):
            assert time.monotonic() < deadline, "an erasure does not end"

    async def home(
        self, viewer: Account, *, limit: int = 20, since_id: int = 0, cursor: str = ""
    ) -> list[int]:
        """Returns the ids of all pages of a home timeline, laid end to end."""
        ids: list[int] = []
        while True:
            page = await self.home_page(viewer, limit=limit, cursor=cursor, since_id=since_id)
            ids += [tweet.id for tweet in page.tweets]
            assert page.has_more == bool(page.next_cursor)
            assert len(page.tweets) == limit or not page.has_more, "a short page is not the end"
            if not page.has_more:
                return ids
            cursor = page.next_cursor

    async def home_page(
        self, viewer: Account, *, limit: int = 20, cursor: str = "", since_id: int = 0
    ) -> timeline_pb2.GetHomeTimelineResponse:
        """Returns one page."""
        return await self.timelines.GetHomeTimeline(
            timeline_pb2.GetHomeTimelineRequest(limit=limit, cursor=cursor, since_id=since_id),
            metadata=viewer.metadata,
        )

    async def oracle(self, viewer: Account) -> list[int]:
        """Returns what the home timeline must be, by plain SQL."""
        async with self.pool.connection() as connection:
            return await fetch_oracle(connection, viewer.id, self.settings.repeat_distance)

    async def relay_all(self) -> None:
        """Moves everything committed to the event log."""
        while await self.relay.step(self.relay_connection):
            pass

    async def replace_relay(self) -> None:
        """Another relay takes over, as after a crash."""
        event_log = ValkeyStreams(self.eventlog, self.settings)
        self.relay = Relay(self.pool, event_log, self.settings)
        await self.relay.take_over(self.relay_connection)

    async def rewind(self) -> None:
        """Lets fan-out begin again with the oldest record of the log."""
        await self.event_log.rewind(fanout_worker.GROUP)

    async def forget_handled(self) -> None:
        """The log forgets everything that it holds, as it does with what is old."""
        for partition in range(self.settings.eventlog_partitions):
            await self.eventlog.xtrim(scripts.stream_key(partition), maxlen=0, approximate=False)

    async def drain(self) -> None:
        """Moves everything committed through the log and fan-out."""
        deadline = time.monotonic() + 20
        while True:
            await self.relay_all()
            await self.fanout.step(20)
            if not sum((await self.fanout.lag()).values()):
                # What the servers poll four times a second, now.
                for feed in self.feeds:
                    await feed.poll()
                return
            assert time.monotonic() < deadline, "the event log does not drain"


@asynccontextmanager
async def open_world(settings: Settings) -> AsyncGenerator[World]:
    """Opens a world."""
    ports = {name: embedded.free_port() for name in ("graph", "tweet", "timeline")}
    settings = settings.model_copy(
        update={f"{name}_target": f"dns:///127.0.0.1:{port}" for name, port in ports.items()}
    )
    openers = {
        "graph": graph_server.open_process,
        "tweet": tweet_server.open_process,
        "timeline": timeline_server.open_process,
    }
    async with AsyncExitStack() as stack:
        channels: dict[str, grpc.aio.Channel] = {}
        feeds: list[PurgeFeed] = []
        erasers: list[RelationEraser | TweetEraser] = []
        for name, opener in openers.items():
            listening = settings.model_copy(update={"listen": f"127.0.0.1:{ports[name]}"})
            await stack.enter_async_context(
                serving_process(listening, _stepped(opener, feeds, erasers))
            )
            channels[name] = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{ports[name]}")
            )
        pool = await stack.enter_async_context(database.open_pool(settings, size_max=4))
        accounts = await stack.enter_async_context(open_accounts(settings, channels["graph"]))
        event_log = await stack.enter_async_context(outbox_relay.open_log(settings))
        relay = Relay(pool, event_log, settings)
        relay_connection = await stack.enter_async_context(pool.connection())
        worker = await stack.enter_async_context(fanout_worker.open_worker(settings))
        fanout = await stack.enter_async_context(
            runner.open_runner(settings, fanout_worker.GROUP, worker)
        )
        await relay.take_over(relay_connection)
        yield World(
            settings=settings,
            pool=pool,
            cache=await stack.enter_async_context(valkey.connect(settings.valkey_url, settings)),
            eventlog=await stack.enter_async_context(
                valkey.connect(settings.eventlog_url, settings)
            ),
            accounts=accounts,
            tweets=tweet_pb2_grpc.TweetServiceStub(channels["tweet"]),
            timelines=timeline_pb2_grpc.TimelineServiceStub(channels["timeline"]),
            graph=graph_pb2_grpc.GraphServiceStub(channels["graph"]),
            event_log=event_log,
            feeds=feeds,
            erasers=erasers,
            relay=relay,
            relay_connection=relay_connection,
            worker=worker,
            fanout=fanout,
        )


async def allowed(call: Awaitable[T]) -> T | None:
    """Awaits a call; None where one of the two blocks the other."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.PERMISSION_DENIED:
            raise
        return None


async def _tried(eraser: RelationEraser | TweetEraser) -> bool:
    try:
        return await eraser.step()
    except ConnectionError:
        return True


def _stepped(
    opener: Opener, feeds: list[PurgeFeed], erasers: list[RelationEraser | TweetEraser]
) -> Opener:
    """Opens a process, and hands out its feed, and its eraser, which does not run by itself."""

    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncGenerator[Process]:
        async with opener(settings) as process:
            loops: list[Any] = []
            for loop in process.loops:
                runner = getattr(loop, "__self__", None)
                if isinstance(runner, RelationEraser | TweetEraser):
                    erasers.append(runner)
                    continue
                loops.append(loop)
                if isinstance(runner, PurgeFeed):
                    feeds.append(runner)
            yield replace(process, loops=loops)

    return opened
