"""Who may call what of tweet_server and timeline_server, as the outside contract says it."""

import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, tweet_pb2, tweet_pb2_grpc

from mesh.access import RULES
from mesh.settings import Settings
from tests.integration.accounts import bearer
from tests.refused import Failure, failure
from tests.world import World, open_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN = {
    "TweetService": ("GetTweet", "BatchGetTweets", "GetThread", "ListLikers", "ListRetweeters"),
    "TimelineService": ("GetUserTimeline",),
}
SIGNED_IN = {
    "TweetService": (
        "CreateTweet",
        "PostTweet",
        "DeleteTweet",
        "CreateLike",
        "DeleteLike",
        "CreateRetweet",
        "DeleteRetweet",
    ),
    "TimelineService": ("GetHomeTimeline", "GetFeed", "CountNewer", "ExplainHomeTimeline"),
}
SERVICES_ONLY = {"TweetRecordService": ("BatchGetTweetRecords", "GetViewerMarks", "BatchGetMarks")}
STREAMS = {"TimelineService": ("StreamHomeTimeline",)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_world(module_settings) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stubs(world: World) -> AsyncGenerator[dict[str, Any]]:
    async with grpc.aio.insecure_channel(world.settings.tweet_target) as channel:
        yield {
            "TweetService": world.tweets,
            "TimelineService": world.timelines,
            "TweetRecordService": tweet_pb2_grpc.TweetRecordServiceStub(channel),
        }


def calls(
    stubs: dict[str, Any], methods: dict[str, tuple[str, ...]], metadata: Any
) -> dict[str, Awaitable[object]]:
    """Calls with empty requests, all of which are bad input to whoever may call."""
    found: dict[str, Awaitable[object]] = {}
    for service, names in methods.items():
        messages: Any = timeline_pb2 if service == "TimelineService" else tweet_pb2
        for name in names:
            request = getattr(messages, f"{name}Request")()
            found[f"{service}/{name}"] = getattr(stubs[service], name)(request, metadata=metadata)
    return found


async def reasons(calls: dict[str, Awaitable[object]]) -> set[tuple[grpc.StatusCode, str]]:
    refused: list[Failure] = [await failure(call) for call in calls.values()]
    return {(each.code, each.reason) for each in refused}


BAD_INPUT = {(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")}
NO_TOKEN = {(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")}
NO_SERVICE = {(grpc.StatusCode.PERMISSION_DENIED, "SERVICES_ONLY")}


async def test_every_rpc_stands_in_these_tables() -> None:
    listed = {
        f"/chirp.v1.{service}/{name}"
        for table in (OPEN, SIGNED_IN, SERVICES_ONLY, STREAMS)
        for service, names in table.items()
        for name in names
    }

    services = {path.rsplit("/", 1)[0] for path in listed}
    assert listed == {path for path in RULES if path.rsplit("/", 1)[0] in services}


async def test_streams_of_ones_own_need_a_users_token(world: World) -> None:
    for metadata in (None, bearer("nonsense"), world.accounts.metadata_of("timeline_server")):
        stream = world.timelines.StreamHomeTimeline(
            timeline_pb2.StreamHomeTimelineRequest(), metadata=metadata
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_open_rpcs_ask_for_no_token_and_take_no_bad_one(
    world: World, stubs: dict[str, Any]
) -> None:
    (ada,) = await world.accounts.insert()

    for metadata in (None, ada.metadata, world.accounts.metadata_of("timeline_server")):
        assert await reasons(calls(stubs, OPEN, metadata)) == BAD_INPUT
    assert await reasons(calls(stubs, OPEN, bearer("nonsense"))) == NO_TOKEN


async def test_what_changes_or_is_ones_own_needs_a_users_token(
    world: World, stubs: dict[str, Any]
) -> None:
    (ada,) = await world.accounts.insert()
    expired = world.accounts.signer.sign_user(ada.id, 1, lifetime_s=60, now=time.time() - 61)
    before = await world.accounts.contents()

    for metadata in (
        None,
        bearer("nonsense"),
        bearer(expired),
        (("authorization", f"Basic {ada.token}"),),
        world.accounts.metadata_of("timeline_server"),
    ):
        assert await reasons(calls(stubs, SIGNED_IN, metadata)) == NO_TOKEN
    wrong = calls(stubs, SIGNED_IN, ada.metadata)
    home = wrong.pop("TimelineService/GetHomeTimeline")  # has no field that must be there
    assert await reasons(wrong) == BAD_INPUT
    assert await home == timeline_pb2.GetHomeTimelineResponse()
    assert await world.accounts.contents() == before


async def test_services_methods_are_refused_to_others(world: World, stubs: dict[str, Any]) -> None:
    (ada,) = await world.accounts.insert()

    assert await reasons(calls(stubs, SERVICES_ONLY, ada.metadata)) == NO_SERVICE
    assert await reasons(calls(stubs, SERVICES_ONLY, None)) == NO_TOKEN
    allowed = calls(stubs, SERVICES_ONLY, world.accounts.metadata_of("timeline_server"))
    assert await reasons(allowed) == BAD_INPUT


async def test_wrong_fields_of_what_services_ask_are_named(
    stubs: dict[str, Any], world: World
) -> None:
    records: tweet_pb2_grpc.TweetRecordServiceAsyncStub = stubs["TweetRecordService"]
    many = range(1, 1_002)
    for field, call in (
        ("ids", records.BatchGetTweetRecords(
            tweet_pb2.BatchGetTweetRecordsRequest(ids=many),
            metadata=world.accounts.metadata_of("timeline_server"))),
        ("userId", records.GetViewerMarks(
            tweet_pb2.GetViewerMarksRequest(user_id=-1),
            metadata=world.accounts.metadata_of("timeline_server"))),
        ("ids", records.GetViewerMarks(
            tweet_pb2.GetViewerMarksRequest(user_id=1, ids=many),
            metadata=world.accounts.metadata_of("timeline_server"))),
    ):  # fmt: skip
        refused = await failure(call)
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
