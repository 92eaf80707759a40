"""Rates of addresses, at the gateway."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from chirp.v1 import tweet_pb2, tweet_pb2_grpc, user_pb2, user_pb2_grpc

from domain.ids import UserId
from mesh.settings import Settings
from ops import homes
from tests.e2e.gateway_stack import Stack, open_stack
from tests.e2e.test_gateway_errors import assert_is_error

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUOTA, SIGN_INS, ADDRESSES = 12, 4, 20
LIMITS: dict[str, Any] = {
    "rate_address": f"{QUOTA}/864000",
    "rate_sign_in": f"{SIGN_INS}/864000",
    "rate_addresses_max": ADDRESSES,
    # So that a test may come from any address.
    "gateway_trusted_hops": 1,
}
_addresses = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stack]:
    async with limited_stack(tmp_path_factory.mktemp("rates")) as opened:
        yield opened


@asynccontextmanager
async def limited_stack(folder: Path, **changed: Any) -> AsyncGenerator[Stack]:
    async with open_stack(folder, **{**LIMITS, **changed}) as opened:
        yield opened


def new_address() -> dict[str, str]:
    """Headers of a client that was never seen."""
    number = next(_addresses)
    return {"x-forwarded-for": f"203.0.{number // 256}.{number % 256}"}


async def get(stack: Stack, address: dict[str, str], path: str = "/api/tweets/5") -> httpx.Response:
    return await stack.rest.get(path, headers=address)


async def test_an_address_has_its_quota_and_no_more(stack: Stack):
    address = new_address()

    answers = await asyncio.gather(*(get(stack, address) for _ in range(QUOTA + 3)))
    other = await get(stack, new_address())

    assert sorted(answer.status_code for answer in answers) == [200] * QUOTA + [429] * 3
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_is_error(
        refused, status=429, code=8, reason="RATE_LIMITED", retry_after_s=72_000,
        message="too many requests of this address; try again later",
    )  # fmt: skip
    assert other.status_code == 200


async def test_a_refusal_says_which_quota_and_when_to_come_back(stack: Stack):
    address = new_address()
    for _ in range(QUOTA):
        await get(stack, address)

    refused = await get(stack, address)

    assert refused.headers["retry-after"] == "72000"
    assert refused.headers["ratelimit"] == '"address";r=0;t=72000'
    assert refused.headers["ratelimit-policy"] == f'"address";q={QUOTA};w=864000'
    assert {"retryDelay": "72000s"}.items() <= refused.json()["details"][1].items()


async def test_refused_requests_do_not_reach_a_server_whatever_they_ask(stack: Stack):
    address = new_address()
    for _ in range(QUOTA):
        await get(stack, address)
    stack.seen.clear()

    answers = [
        await get(stack, address, path)
        for path in ("/api/me", "/api/trends", "/nothing", "/.well-known/jwks.json")
    ]
    bad_token = await stack.rest.get(
        "/api/me", headers={**address, "authorization": "Bearer nonsense"}
    )
    healthy = await get(stack, address, "/healthz")

    assert [answer.status_code for answer in (*answers, bad_token)] == [429] * 5
    assert healthy.status_code == 200
    assert stack.seen == []


async def test_a_network_of_ipv6_is_one_address(stack: Stack):
    host = next(_addresses)

    def of(network: str) -> dict[str, str]:
        return {"x-forwarded-for": f"2001:db8:{host:x}:{network}::{next(_addresses):x}"}

    answers = [await get(stack, of("1")) for _ in range(QUOTA + 1)]
    neighbour = await get(stack, of("2"))

    assert [answer.status_code for answer in answers] == [200] * QUOTA + [429]
    assert neighbour.status_code == 200


async def test_sign_ups_and_sign_ins_have_a_quota_of_their_own_however_they_are_spelt(
    stack: Stack,
):
    address = new_address()
    users = user_pb2_grpc.UserServiceStub(stack.channel)
    metadata = tuple(address.items())
    body = {"username": "ada", "password": "p"}

    async def post(path: str) -> int:
        return (await stack.rest.post(path, json=body, headers=address)).status_code

    taken = [await post(path) for path in ("/api/users", "/api/sessions")]
    await users.CreateUser(user_pb2.CreateUserRequest(username="ada"), metadata=metadata)
    await users.CreateSession(user_pb2.CreateSessionRequest(username="ada"), metadata=metadata)
    spelt = [
        await post(path)
        for path in (
            "/api/users", "/api/users/", "/api/sessions?", "/api//sessions", "/./api/sessions",
            "/api/session%73",
        )
    ]  # fmt: skip
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await users.CreateSession(user_pb2.CreateSessionRequest(username="ada"), metadata=metadata)
    reads = await get(stack, address)

    assert taken == [200, 200]
    assert 200 not in spelt
    assert spelt[:2] == [429, 429]
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    headers: dict[str, Any] = dict(refused.value.trailing_metadata() or ())
    assert headers["ratelimit-policy"] == f'"sign_in";q={SIGN_INS};w=864000'
    assert b"RATE_LIMITED" in bytes(headers["grpc-status-details-bin"])
    assert reads.status_code == 200


async def test_a_grpc_caller_is_refused_in_grpc(stack: Stack):
    address = new_address()
    tweets = tweet_pb2_grpc.TweetServiceStub(stack.channel)
    for _ in range(QUOTA):
        await get(stack, address)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await tweets.GetTweet(tweet_pb2.GetTweetRequest(id=5), metadata=tuple(address.items()))

    headers: dict[str, Any] = dict(refused.value.trailing_metadata() or ())
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (headers["retry-after"], headers["ratelimit"]) == ("72000", '"address";r=0;t=72000')
    assert b"google.rpc.RetryInfo" in bytes(headers["grpc-status-details-bin"])


async def test_only_so_many_addresses_are_counted(stack: Stack):
    first = new_address()
    before = [(await get(stack, first)).status_code for _ in range(QUOTA + 1)]

    for _ in range(2 * ADDRESSES):
        assert (await get(stack, new_address())).status_code == 200

    assert before[-1] == 429
    assert (await get(stack, first)).status_code == 200, "the oldest was forgotten"


async def test_a_quota_comes_back_evenly(tmp_path: Path):
    async with limited_stack(tmp_path, rate_address="4/2") as stack:
        address = new_address()
        while (await get(stack, address)).status_code == 200:
            pass
        started = time.monotonic()

        passed = 0
        while time.monotonic() - started < 1.4:
            passed += (await get(stack, address)).status_code == 200
            await asyncio.sleep(0.01)

    # One each half second: two, and a third where the clock is read late.
    assert 2 <= passed <= 3


async def test_a_reader_of_home_timelines_comes_back_when_it_is_told(tmp_path: Path):
    changed = {"rate_address": "10/1", "gateway_trusted_hops": 0}
    async with (
        limited_stack(tmp_path, **changed) as stack,
        homes.through_gateway(str(stack.rest.base_url), stack.settings, connections=4) as reader,
    ):
        read = [reader.read(UserId(number)) for number in range(1, 31)]
        pages = await asyncio.gather(*read)
        answered = sum(seen.method == "TimelineService/GetHomeTimeline" for seen in stack.seen)
        refused = (stack.configuration.parent / "access.log").read_text().count('"status":429')

    assert {page.pages for page in pages} == {1}
    assert answered == 30
    assert refused > 0


async def test_limits_can_be_off(tmp_path: Path):
    async with limited_stack(tmp_path, rate_limits=False) as stack:
        address = new_address()

        answers = [await get(stack, address) for _ in range(3 * QUOTA)]

    assert {answer.status_code for answer in answers} == {200}


async def test_the_defaults_leave_room_for_an_office():
    settings = Settings()

    # 100 a second for all of an address, and a sign-in each ten seconds.
    assert (settings.rate_address, settings.rate_sign_in) == ("6000/60", "60/600")
