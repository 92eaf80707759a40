"""Trends in one process for tests: the worker stepped by hand under a clock of the test's, a real
trend server before it, real PostgreSQL and Valkeys beneath."""

import asyncio
import itertools
import time
import unicodedata
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
from chirp.v1 import trend_pb2, trend_pb2_grpc

from domain import tweet
from domain.ids import EPOCH_MS, SnowflakeGenerator, TweetId, UserId, first_id_at
from eventlog import runner
from eventlog.contract import EventLog, Record
from eventlog.runner import Runner
from mesh import rpc
from mesh.server import Process
from mesh.settings import Settings
from mesh.tokens import TokenVerifier
from ops import embedded
from servers import trend_server, tweet_service, tweet_writer
from storage import database, tweets, valkey
from storage.database import Connection, Pool
from storage.trends import TrendStore
from storage.valkey import Valkey
from tests.integration.conftest import serving_process
from tests.trend_oracle import TrendOracle, recount
from workers import outbox_relay, trend_worker
from workers.outbox_relay import Relay
from workers.trend_worker import TrendWorker

MINUTE_MS = 60_000
DEADLINE_S = 20.0


class Killed(BaseException):
    """The worker died: after it handled a batch, before that was committed; or while it published,
    a part of the lists."""


class Store(TrendStore):
    """What the worker publishes with; dies when told to."""

    parts_left = -1
    """How many parts it publishes before it dies; it does not while this is below 0."""

    async def _publish_part(
        self, lists: Mapping[str, bytes], after: str, fence: int, as_of_ms: int
    ) -> str:
        if self.parts_left == 0:
            raise Killed
        self.parts_left -= 1
        return await super()._publish_part(lists, after, fence, as_of_ms)


@dataclass(slots=True)
class Handler:
    """The worker as the group sees it; dies when told to."""

    worker: TrendWorker
    dies: bool = False

    async def handle(self, records: Sequence[Record]) -> None:
        await self.worker.handle(records)
        if self.dies:
            raise Killed


class Nobody:
    """Handles events by letting them go."""

    async def handle(self, records: Sequence[Record]) -> None:
        pass


@dataclass(slots=True)
class TrendWorld:
    """A running Chirp as far as trends go."""

    settings: Settings
    pool: Pool
    cache: Valkey
    eventlog: Valkey
    event_log: EventLog
    relay: Relay
    relay_connection: Connection
    trends: "trend_pb2_grpc.TrendServiceAsyncStub"
    server: str
    """host:port of the trend server."""
    now_ms: int
    ids: SnowflakeGenerator = field(default_factory=lambda: SnowflakeGenerator(1))
    worker: TrendWorker = field(init=False)
    store: Store = field(init=False)
    group: Runner = field(init=False)
    handler: Handler = field(init=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start_worker(self) -> None:
        """Starts a worker that knows nothing."""
        self.store = Store(self.cache)
        self.worker = TrendWorker(self.pool, self.store, self.settings, lambda: self.now_ms / 1000)
        self.handler = Handler(self.worker)
        self.group = await self._running.enter_async_context(
            runner.open_runner(self.settings, trend_worker.GROUP, self.handler)
        )

    async def stop_worker(self) -> None:
        """Ends the worker; what it held in memory is gone."""
        await self._running.aclose()
        self.worker.stop()

    async def kill_worker(self) -> None:
        """Lets the worker die over the next batch, if there is one, and starts another."""
        self.handler.dies = True
        with suppress(Killed):
            await self.group.step(0)
        await self.stop_worker()
        await self.start_worker()

    async def die_while_publishing(self, parts: int) -> None:
        """Lets the worker die after so many parts of what it publishes next, and starts another."""
        self.store.parts_left = parts
        with suppress(Killed):
            await self.refresh()
        await self.stop_worker()
        await self.start_worker()

    async def lose_partitions(self) -> None:
        """Lets another member take half of the partitions, handle what is in them, and go."""
        async with (
            asyncio.timeout(DEADLINE_S),
            runner.open_runner(self.settings, trend_worker.GROUP, Nobody()) as other,
        ):
            while not (await other.step(0) or other.owned()):
                await self.group.step(0)
            while await other.step(0):
                pass

    async def send_again(self, events: int) -> None:
        """Sends the last events again, as a relay does that died before it marked them."""
        async with self.pool.connection() as connection:
            await connection.execute(
                "UPDATE outbox SET sent_at = NULL WHERE id IN"
                " (SELECT id FROM outbox ORDER BY id DESC LIMIT %s)",
                (events,),
            )
        await self.relay_all()

    async def people(self, count: int) -> list[UserId]:
        """Makes accounts."""
        made = [UserId(self.ids.mint(EPOCH_MS)) for _ in range(count)]
        async with self.pool.connection() as connection:
            for user in made:
                await connection.execute(
                    "INSERT INTO users (id, username, display_name) VALUES (%s, %s, '')",
                    (user, f"u{user}"),
                )
        return made

    async def post(
        self, author: UserId, content: str, *, location: str = "", minutes_ago: float = 0
    ) -> TweetId:
        """Posts a tweet at a time of our choice, as tweet_server writes it."""
        # A generator's time only grows; each of these has its own moment.
        moment = first_id_at(int(self.now_ms - minutes_ago * MINUTE_MS))
        tweet_id = TweetId(moment + next(self._numbers))
        content = unicodedata.normalize("NFC", content)
        row = tweet_service.new_row(tweet_id, author)._replace(
            content=content,
            hashtags=tweet.hashtags(content),
        )
        async with self.pool.connection() as connection, connection.transaction():
            await tweets.lock_user(connection, author)
            await tweet_writer.insert(connection, row, request_id="", location=location)
        return tweet_id

    async def delete(self, tweet_id: TweetId) -> None:
        """Deletes a tweet, as tweet_server does."""
        (row,) = await tweets.fetch_by_ids(self.pool, [tweet_id])
        async with self.pool.connection() as connection, connection.transaction():
            await tweets.lock_user(connection, UserId(row.author_id))
            await tweet_writer.delete(connection, row)

    async def relay_all(self) -> None:
        """Moves everything committed to the event log."""
        await self.relay.check(self.relay_connection)
        while await self.relay.step(self.relay_connection):
            pass

    async def refresh(self) -> None:
        """Lets the worker rank and publish, each time a millisecond later."""
        self.now_ms += 1
        await self.worker.refresh(self.group.owned())

    async def drain(self) -> None:
        """Moves everything committed into the published lists, and to the server."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                await self.relay_all()
                await self.group.step(10)
                owned = len(self.group.owned()) == self.settings.eventlog_partitions
                if owned and not sum((await self.group.lag()).values()):
                    break
            await self.refresh()
            while await self.seen_ms() != self.now_ms:
                await asyncio.sleep(0.002)

    async def seen_ms(self) -> int:
        """Returns as of when the server answers; 0 where it has nothing."""
        try:
            return (await self.list()).as_of.ToMilliseconds()
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return 0

    async def list(
        self, location: str = "", *, order: str = "", limit: int = 50
    ) -> trend_pb2.ListTrendsResponse:
        """Asks for a list."""
        return await self.trends.ListTrends(
            trend_pb2.ListTrendsRequest(location=location, order=order, limit=limit)
        )

    async def explain(self, location: str, tag: str) -> trend_pb2.ExplainTrendResponse:
        """Asks for an explanation."""
        return await self.trends.ExplainTrend(
            trend_pb2.ExplainTrendRequest(location=location, tag=tag)
        )

    async def oracle(self) -> TrendOracle:
        """Returns what everything must be."""
        return await recount(self.pool, self.now_ms)

    @asynccontextmanager
    async def counts(self, settings: Settings) -> AsyncGenerator[Process]:
        """Serves TrendCountService by whichever worker runs."""
        descriptor = trend_pb2.DESCRIPTOR.services_by_name["TrendCountService"]
        yield Process(services=[rpc.bind(descriptor, self, TokenVerifier(settings))])

    async def GetTrendCounts(
        self, request: trend_pb2.GetTrendCountsRequest, call: rpc.Call
    ) -> trend_pb2.GetTrendCountsResponse:
        return await self.worker.GetTrendCounts(request, call)


@asynccontextmanager
async def open_trend_world(settings: Settings) -> AsyncGenerator[TrendWorld]:
    """Opens a world; its clock stands until the test moves it."""
    port = embedded.free_port()
    settings = settings.model_copy(
        update={"trend_count_target": f"dns:///127.0.0.1:{port}", "trend_poll_ms": 5}
    )
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(database.open_pool(settings, size_max=4))
        event_log = await stack.enter_async_context(outbox_relay.open_log(settings))
        relay = Relay(pool, event_log, settings)
        relay_connection = await stack.enter_async_context(pool.connection())
        await relay.take_over(relay_connection)
        server_port = await stack.enter_async_context(
            serving_process(settings, trend_server.open_process)
        )
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{server_port}")
        )
        world = TrendWorld(
            settings=settings,
            pool=pool,
            cache=await stack.enter_async_context(valkey.connect(settings.valkey_url, settings)),
            eventlog=await stack.enter_async_context(
                valkey.connect(settings.eventlog_url, settings)
            ),
            event_log=event_log,
            relay=relay,
            relay_connection=relay_connection,
            trends=trend_pb2_grpc.TrendServiceStub(channel),
            server=f"127.0.0.1:{server_port}",
            # In the middle of a minute.
            now_ms=int(time.time() * 1000) // MINUTE_MS * MINUTE_MS + MINUTE_MS // 2,
        )
        listening = settings.model_copy(update={"listen": f"127.0.0.1:{port}"})
        await stack.enter_async_context(serving_process(listening, world.counts))
        await world.start_worker()
        stack.push_async_callback(world.stop_worker)
        yield world
