"""A release, step by step: on the schema of this release runs the release before; this release's
servers come beside the old ones; its workers come, and the old ones go. At each step, what one
writes the other reads, whoever's workers handle it, and no home timeline differs from the oracle.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import grpc
from chirp.v1 import (
    graph_pb2,
    graph_pb2_grpc,
    notification_pb2,
    notification_pb2_grpc,
    timeline_pb2,
    timeline_pb2_grpc,
    trend_pb2,
    trend_pb2_grpc,
    tweet_pb2,
    tweet_pb2_grpc,
    user_pb2,
    user_pb2_grpc,
)
from rich.progress import Progress

from domain.ids import UserId
from eventlog import deadletters
from mesh.settings import Settings
from ops import embedded, processes, verifier
from ops.processes import KINDS, ProcessKind
from ops.verifier import Selection
from tests import releases
from tests.integration.accounts import PASSWORD, Account
from tests.integration.conftest import serving_process

SEEN_S = 20.0
SERVERS = [kind for kind in KINDS if kind.is_server]
WORKERS = [kind for kind in KINDS if not kind.is_server]


@dataclass(frozen=True, slots=True)
class Side:
    """The servers of one release."""

    users: "user_pb2_grpc.UserServiceAsyncStub"
    graph: "graph_pb2_grpc.GraphServiceAsyncStub"
    tweets: "tweet_pb2_grpc.TweetServiceAsyncStub"
    timelines: "timeline_pb2_grpc.TimelineServiceAsyncStub"
    trends: "trend_pb2_grpc.TrendServiceAsyncStub"
    notifications: "notification_pb2_grpc.NotificationServiceAsyncStub"

    async def sign_up(self, username: str) -> Account:
        """Makes an account."""
        answer = await self.users.CreateUser(
            user_pb2.CreateUserRequest(username=username, password=PASSWORD)
        )
        return Account(UserId(answer.user.id), username, answer.access_token)

    async def sign_in(self, account: Account) -> Account:
        """Returns the account with another session."""
        answer = await self.users.CreateSession(
            user_pb2.CreateSessionRequest(username=account.username, password=PASSWORD)
        )
        return Account(account.id, account.username, answer.access_token)

    async def home(self, viewer: Account) -> list[int]:
        """Returns a home timeline's ids."""
        page = await self.timelines.GetHomeTimeline(
            timeline_pb2.GetHomeTimelineRequest(limit=100), metadata=viewer.metadata
        )
        return [tweet.id for tweet in page.tweets]

    async def post(self, author: Account, content: str, reply_to: int = 0) -> int:
        """Posts; returns the tweet's id."""
        request = tweet_pb2.CreateTweetRequest(content=content, reply_to=reply_to)
        return (await self.tweets.CreateTweet(request, metadata=author.metadata)).id

    async def unread(self, owner: Account) -> int:
        """Returns how many notifications were not read."""
        request = notification_pb2.ListNotificationsRequest(limit=10)
        answer = await self.notifications.ListNotifications(request, metadata=owner.metadata)
        return answer.unread_count

    async def tags(self, viewer: Account) -> set[str]:
        """Returns what trends."""
        answer = await self.trends.ListTrends(
            trend_pb2.ListTrendsRequest(), metadata=viewer.metadata
        )
        return {trend.tag for trend in answer.trends}


def side(channels: Mapping[str, grpc.aio.Channel]) -> Side:
    return Side(
        user_pb2_grpc.UserServiceStub(channels["graph_server"]),
        graph_pb2_grpc.GraphServiceStub(channels["graph_server"]),
        tweet_pb2_grpc.TweetServiceStub(channels["tweet_server"]),
        timeline_pb2_grpc.TimelineServiceStub(channels["timeline_server"]),
        trend_pb2_grpc.TrendServiceStub(channels["trend_server"]),
        notification_pb2_grpc.NotificationServiceStub(channels["notification_server"]),
    )


@asynccontextmanager
async def opened(
    settings: Settings, kinds: Sequence[ProcessKind], ports: Mapping[str, Sequence[int]]
) -> AsyncGenerator[None]:
    """Runs processes of this release, in this process."""
    async with AsyncExitStack() as stack:
        for kind in kinds:
            told = {
                "listen": f"127.0.0.1:{ports[kind.name][0]}",
                "metrics_listen": f"127.0.0.1:{embedded.free_port()}",
            }
            opener = import_module(kind.module).open_process
            await stack.enter_async_context(
                serving_process(settings.model_copy(update=told), opener)
            )
        yield


@asynccontextmanager
async def connected(ports: Mapping[str, int]) -> AsyncGenerator[Side]:
    async with AsyncExitStack() as stack:
        yield side(
            {
                name: await stack.enter_async_context(
                    grpc.aio.insecure_channel(f"127.0.0.1:{port}")
                )
                for name, port in ports.items()
            }
        )


async def until(what: Callable[[], Awaitable[object]], expected: object) -> None:
    found: object = None
    try:
        async with asyncio.timeout(SEEN_S):
            while (found := await what()) != expected:
                await asyncio.sleep(0.05)
    except TimeoutError:
        assert found == expected, "not in time"


async def exchange(here: Side, there: Side, name: str) -> None:
    """What one release does, the other sees."""
    author, reader = [await here.sign_up(f"{name}_{who}") for who in ("author", "reader")]
    session = await there.sign_in(author)
    for each in (here, there):
        # What is read is then materialised, and the session known until its end is told.
        assert [await each.home(reader), await each.home(session)] == [[], []]

    await there.graph.FollowUser(
        graph_pb2.FollowUserRequest(id=author.id), metadata=reader.metadata
    )
    first = await here.post(author, f"by one, #{name}")
    second = await there.post(author, "by the other")
    reply = await here.post(reader, "to the other's", reply_to=second)
    gone = await there.post(author, "to be deleted")
    await here.tweets.DeleteTweet(tweet_pb2.DeleteTweetRequest(id=gone), metadata=author.metadata)
    for each in (here, there):
        liked = await each.tweets.CreateLike(
            tweet_pb2.CreateLikeRequest(id=first), metadata=reader.metadata
        )
        assert liked.like_count == 1
    await here.users.DeleteCurrentSession(
        user_pb2.DeleteCurrentSessionRequest(), metadata=session.metadata
    )

    async def is_ended(at: Side) -> bool:
        try:
            await at.home(session)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
        return False

    async def seen(at: Side) -> tuple[list[int], int, bool, bool]:
        tags = await at.tags(reader)
        return await at.home(reader), await at.unread(author), name in tags, await is_ended(at)

    newest_first = sorted((first, second, reply), reverse=True)
    for each in (here, there):  # the author is told of the follower, the reply and the like
        await until(lambda each=each: seen(each), (newest_first, 3, True, True))


async def test_a_release_goes_by_and_nobody_notices(settings: Settings, tmp_path: Path) -> None:
    commit = releases.unpack(tmp_path)
    new = {kind.name: [embedded.free_port()] for kind in KINDS}
    old = {kind: embedded.free_port() for kind in KINDS if _is_there(tmp_path, kind)}
    # Calls go round the replicas of both.
    both = {kind.name: [*new[kind.name], *([old[kind]] if kind in old else [])] for kind in KINDS}
    told = {name.removeprefix("CHIRP_").lower(): at for name, at in processes.targets(both).items()}
    settings = settings.model_copy(update={**told, "trend_authors_min": 1, "trend_refresh_ms": 100})
    async with (
        releases.running(tmp_path, settings, old) as processes_before,
        opened(settings, SERVERS, new),
        connected({kind.name: port for kind, port in old.items()}) as before,
        connected({kind.name: new[kind.name][0] for kind in SERVERS}) as now,
    ):
        await exchange(before, now, "old_workers")
        await exchange(now, before, "old_workers_too")
        async with opened(settings, WORKERS, new):
            await exchange(now, before, "all_workers")
            for kind in WORKERS:
                await processes_before[kind.name].stop()
            await exchange(before, now, "new_workers")
            await exchange(now, before, "new_workers_too")

            async with AsyncExitStack() as stack:
                verifying = await verifier.open_verifier(stack, settings, gateway=None)
                viewers = await verifying.select(Selection(everybody=True))
                report = await verifying.verify(viewers, Progress(disable=True))
        assert (report.accounts, report.differences) == (10, [])
        for group in await deadletters.fetch_groups(settings):
            async with deadletters.open_letters(settings, group) as letters:
                assert await letters.count() == 0, group
    for kind in old:
        log = releases.log_of(tmp_path, kind.name).read_text()
        assert "Traceback" not in log, f"{kind.name} of {commit}: {log}"


def _is_there(folder: Path, kind: ProcessKind) -> bool:
    return (folder / kind.module.replace(".", "/")).with_suffix(".py").exists()
