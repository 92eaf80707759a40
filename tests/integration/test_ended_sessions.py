"""Ended sessions are refused by every server within two seconds, on open streams too."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import (
    graph_pb2,
    notification_pb2,
    timeline_pb2,
    trend_pb2,
    tweet_pb2,
    user_pb2,
)

from domain.errors import Unauthenticated
from mesh.settings import Settings
from mesh.tokens import TokenSigner
from servers.purge_feed import PurgeFeed
from servers.session_verifier import SessionVerifier
from storage import database, purges, sessions
from tests.all_processes import Chirp, open_all
from tests.integration.accounts import Account
from tests.refused import failure

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMISED_S = 2.0
DEADLINE_S = 10.0

UNARY: dict[str, tuple[str, Any]] = {
    "/chirp.v1.UserService/GetMe": ("graph_server", user_pb2.GetMeRequest()),
    "/chirp.v1.GraphService/ListFollowers": (
        "graph_server", graph_pb2.ListFollowersRequest(id=1)),
    "/chirp.v1.TweetService/CreateTweet": (
        "tweet_server", tweet_pb2.CreateTweetRequest(content="hello")),
    "/chirp.v1.TimelineService/GetHomeTimeline": (
        "timeline_server", timeline_pb2.GetHomeTimelineRequest()),
    "/chirp.v1.NotificationService/ListNotifications": (
        "notification_server", notification_pb2.ListNotificationsRequest()),
    "/chirp.v1.TrendService/ListTrends": ("trend_server", trend_pb2.ListTrendsRequest()),
}  # fmt: skip
STREAMS: dict[str, tuple[str, Any]] = {
    "/chirp.v1.TimelineService/StreamHomeTimeline": (
        "timeline_server", timeline_pb2.StreamHomeTimelineRequest()),
    "/chirp.v1.NotificationService/StreamNotifications": (
        "notification_server", notification_pb2.StreamNotificationsRequest()),
    "/chirp.v1.TrendService/StreamTrends": ("trend_server", trend_pb2.StreamTrendsRequest()),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chirp(module_settings: Settings) -> AsyncGenerator[Chirp]:
    async with open_all(module_settings) as opened:
        yield opened


async def code(chirp: Chirp, path: str, account: Account) -> grpc.StatusCode:
    process, request = UNARY[path]
    try:
        await chirp.call(path, process)(request, metadata=account.metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def open_stream(chirp: Chirp, path: str, account: Account) -> Any:
    process, request = STREAMS[path]
    stream = chirp.call(path, process)(request, metadata=account.metadata)
    async with asyncio.timeout(DEADLINE_S):
        await stream.read()
    return stream


async def last_reason(stream: Any) -> str:
    """Reads a stream to its end; returns the reason that it gives."""
    reason = ""
    async with asyncio.timeout(DEADLINE_S):
        while (message := await stream.read()) is not grpc.aio.EOF:
            reason = message.end.reason
    return reason


async def people(chirp: Chirp) -> tuple[Account, Account]:
    """Returns the two sessions of somebody, which every server knows."""
    (account,) = await chirp.accounts.insert()
    first, second = await chirp.sign_in(account), await chirp.sign_in(account)
    for path in UNARY:
        for each in (first, second):
            assert await code(chirp, path, each) in (
                grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND,
            )  # fmt: skip
    return first, second


async def refused_within_s(chirp: Chirp, account: Account) -> float:
    """Waits until every server refuses an account's session; returns how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(DEADLINE_S):
        for path in UNARY:
            while await code(chirp, path, account) != grpc.StatusCode.UNAUTHENTICATED:
                await asyncio.sleep(0.01)
    return time.monotonic() - started


async def test_who_signs_out_is_refused_by_every_server_and_another_session_is_not(
    chirp: Chirp,
) -> None:
    ended, kept = await people(chirp)
    streams = [await open_stream(chirp, path, ended) for path in STREAMS]
    other = await open_stream(chirp, next(iter(STREAMS)), kept)
    started = time.monotonic()

    await chirp.accounts.users.DeleteCurrentSession(
        user_pb2.DeleteCurrentSessionRequest(), metadata=ended.metadata
    )

    reasons = [await last_reason(stream) for stream in streams]
    ended_s = time.monotonic() - started
    await refused_within_s(chirp, ended)
    assert reasons == ["SESSION_ENDED"] * len(STREAMS)
    assert ended_s < PROMISED_S
    assert time.monotonic() - started < PROMISED_S
    assert await code(chirp, "/chirp.v1.UserService/GetMe", kept) is grpc.StatusCode.OK
    assert not other.done()
    other.cancel()


async def test_ending_all_sessions_ends_each_of_them_everywhere(chirp: Chirp) -> None:
    first, second = await people(chirp)
    stream = await open_stream(chirp, next(iter(STREAMS)), first)

    await chirp.accounts.users.DeleteSessions(
        user_pb2.DeleteSessionsRequest(), metadata=second.metadata
    )

    for each in (first, second):
        assert await refused_within_s(chirp, each) < PROMISED_S
    assert await last_reason(stream) == "SESSION_ENDED"


async def test_an_ended_session_opens_no_stream(chirp: Chirp) -> None:
    ended, _ = await people(chirp)
    await chirp.accounts.users.DeleteCurrentSession(
        user_pb2.DeleteCurrentSessionRequest(), metadata=ended.metadata
    )
    await refused_within_s(chirp, ended)

    for path, (process, request) in STREAMS.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await chirp.call(path, process)(request, metadata=ended.metadata).read()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_session_that_is_gone_with_its_account_is_refused(chirp: Chirp) -> None:
    (account,) = await chirp.accounts.insert()
    gone = await chirp.sign_in(account)
    async with chirp.accounts.pool.connection() as connection:
        await sessions.end_all(connection, account.id)
        await connection.execute("DELETE FROM sessions WHERE user_id = %s", (account.id,))

    get = chirp.call("/chirp.v1.UserService/GetMe", "graph_server")
    assert (
        await failure(get(user_pb2.GetMeRequest(), metadata=gone.metadata))
    ).reason == "UNAUTHENTICATED"


async def test_a_server_that_fell_behind_ends_the_streams_that_it_was_not_told_of(
    chirp: Chirp, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, kept = await people(chirp)
    path = "/chirp.v1.NotificationService/StreamNotifications"
    stream, other = [await open_stream(chirp, path, each) for each in (ended, kept)]
    monkeypatch.setattr(purges, "ROWS_MAX", 0)  # whatever comes is too much

    await chirp.accounts.users.DeleteCurrentSession(
        user_pb2.DeleteCurrentSessionRequest(), metadata=ended.metadata
    )

    assert await last_reason(stream) == "SESSION_ENDED"
    assert await refused_within_s(chirp, ended) < PROMISED_S
    assert not other.done()
    other.cancel()


async def test_without_a_feed_every_call_asks_the_database(chirp: Chirp) -> None:
    (account,) = await chirp.accounts.insert()
    signed_in = await chirp.sign_in(account)
    async with database.open_pool(chirp.settings, size_max=1) as pool:
        verifier = SessionVerifier(pool, PurgeFeed(pool, chirp.settings), chirp.settings)
        claims = await verifier.admit(signed_in.token)
        assert verifier.known(signed_in.token) is None

        async with pool.connection() as connection:
            await sessions.end(connection, claims.session_id, account.id)

        with pytest.raises(Unauthenticated):
            await verifier.admit(signed_in.token)


async def test_with_a_feed_only_the_first_call_asks_the_database(chirp: Chirp) -> None:
    (account,) = await chirp.accounts.insert()
    signed_in = await chirp.sign_in(account)
    async with database.open_pool(chirp.settings, size_max=1) as pool:
        feed = PurgeFeed(pool, chirp.settings)
        verifier = SessionVerifier(pool, feed, chirp.settings)
        await feed.poll()
        claims = await verifier.admit(signed_in.token)
        assert verifier.known(signed_in.token) is claims

        async with pool.connection() as connection:
            await sessions.end(connection, claims.session_id, account.id)
        await feed.poll()

        assert verifier.known(signed_in.token) is None


async def test_the_command_lines_tokens_have_no_session_to_end(chirp: Chirp) -> None:
    (account,) = await chirp.accounts.insert()
    token = TokenSigner(chirp.settings).sign_user(account.id, 0, lifetime_s=60, now=time.time())

    mine = Account(account.id, account.username, token)

    assert await code(chirp, "/chirp.v1.UserService/GetMe", mine) is grpc.StatusCode.OK
