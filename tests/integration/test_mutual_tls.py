"""Who is let in, and who is believed, where CHIRP_TLS is 1: no port here has anything before it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import tweet_pb2, tweet_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh import clients, keys, rpc, server, tls, tokens
from mesh.files import LOOK_S
from mesh.settings import Settings
from ops import certificates, probes

RECORDS = "chirp.v1.TweetRecordService"
DAY = timedelta(days=1)
Stub = tweet_pb2_grpc.TweetRecordServiceStub
Request = tweet_pb2.BatchGetTweetRecordsRequest


class Records:
    """Answers nothing, to those who may ask."""

    async def BatchGetTweetRecords(self, request: Request, call: rpc.Call) -> bytes:
        return b""

    GetViewerMarks = BatchGetMarks = BatchGetTweetRecords


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(
        tls=True, certs=tmp_path / "certs", keys=tmp_path / "keys", listen="127.0.0.1:0",
        drain_delay_s=0, drain_grace_s=0.1,
    )  # fmt: skip
    keys.ensure_keys(made)
    certificates.ensure(made)
    return made


@asynccontextmanager
async def tweet_server(settings: Settings) -> AsyncGenerator[str]:
    descriptor = tweet_pb2.DESCRIPTOR.services_by_name["TweetRecordService"]
    service = rpc.bind(descriptor, Records(), tokens.TokenVerifier(settings))
    async with server.serving(settings, [service], "tweet_server") as serving:
        yield f"127.0.0.1:{serving.port}"


@pytest_asyncio.fixture
async def address(settings: Settings) -> AsyncGenerator[str]:
    async with tweet_server(settings) as opened:
        yield opened


def authority(settings: Settings) -> certificates.Authority:
    return certificates.read_authority(settings.certs)


def trusted(settings: Settings) -> bytes:
    return tls.authority_file(settings, "chirp").read_bytes()


async def code(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """How somebody with these credentials is told of the server's health."""
    options = tls.named("tweet_server")
    async with (
        grpc.aio.insecure_channel(address)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=options)
    ) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("name", tls.NAMES)
async def test_every_service_and_the_gateway_are_let_in(
    settings: Settings, address: str, name: str
) -> None:
    identity = tls.identity_file(settings, name).read_bytes()

    own = grpc.ssl_channel_credentials(trusted(settings), identity, identity)

    assert await code(address, own) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("who", "wanted"),
    [
        ("nobody", grpc.StatusCode.UNAVAILABLE),
        ("without TLS", grpc.StatusCode.UNAVAILABLE),
        ("expired", grpc.StatusCode.UNAVAILABLE),
        ("of another authority", grpc.StatusCode.UNAVAILABLE),
        ("of another domain", grpc.StatusCode.UNAVAILABLE),
        # The authority is right, and so TLS takes it: the name alone refuses it.
        ("of an unknown name", grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_a_server_refuses_a_client(
    settings: Settings, address: str, who: str, wanted: grpc.StatusCode
) -> None:
    ours, theirs = authority(settings), certificates.make_authority()
    identity = {
        "expired": lambda: certificates.issue(ours, "gateway", -DAY),
        "of another authority": lambda: certificates.issue(theirs, "gateway"),
        "of another domain": lambda: certificates.issue(ours, "gateway", dns="gateway.example.com"),
        "of an unknown name": lambda: certificates.issue(ours, "gateway", dns="x.chirp.internal"),
    }.get(who, lambda: None)()

    credentials = grpc.ssl_channel_credentials(trusted(settings), identity, identity)

    assert await code(address, None if who == "without TLS" else credentials) is wanted


@pytest.mark.parametrize("what", ["another name", "another authority", "expired", "a client's"])
async def test_a_client_refuses_a_server(settings: Settings, what: str) -> None:
    ours = authority(settings)
    identity = {
        "another name": lambda: tls.identity_file(settings, "graph_server").read_bytes(),
        "another authority": lambda: certificates.issue(
            certificates.make_authority(), "tweet_server"
        ),
        "expired": lambda: certificates.issue(ours, "tweet_server", -DAY),
        "a client's": lambda: certificates.issue(ours, "gateway", dns=tls.dns_name("tweet_server")),
    }[what]()
    tls.identity_file(settings, "tweet_server").write_bytes(identity)

    async with tweet_server(settings) as address:
        who = tokens.ServiceIdentity(settings, "timeline_server")
        async with clients.channel(settings, address, RECORDS, identity=who) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Stub(channel).BatchGetTweetRecords(Request())
        healthy = await probes.grpc_serving(address, name="tweet_server", settings=settings)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not healthy


async def test_a_services_token_comes_with_its_own_certificate(
    settings: Settings, address: str
) -> None:
    who = tokens.ServiceIdentity(settings, "timeline_server")

    async with clients.channel(settings, address, RECORDS, identity=who) as own:
        await Stub(own).BatchGetTweetRecords(Request())
    for other in ("tweet_server", "gateway", "chirp"):
        async with tls.secure_channel(settings, address, "tweet_server", as_name=other) as stolen:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Stub(stolen).BatchGetTweetRecords(Request(), metadata=who.metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_reflection_answers_known_names_alone(settings: Settings, address: str) -> None:
    unknown = certificates.issue(authority(settings), "gateway", dns="x.chirp.internal")
    known = tls.identity_file(settings, "chirp").read_bytes()
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    outcomes: list[grpc.StatusCode] = []

    for identity in (known, unknown):
        credentials = grpc.ssl_channel_credentials(trusted(settings), identity, identity)
        options = tls.named("tweet_server")
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))
            call = stub.ServerReflectionInfo(iter([asked]))
            outcomes.append(await _outcome(call))

    assert outcomes == [grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED]


async def _outcome(call: "grpc.aio.StreamStreamCall[object, object]") -> grpc.StatusCode:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_new_authority_is_followed_by_a_running_server_and_client(
    settings: Settings, address: str
) -> None:
    who = tokens.ServiceIdentity(settings, "timeline_server")
    async with clients.channel(settings, address, RECORDS, identity=who) as channel:
        stub = Stub(channel)
        await stub.BatchGetTweetRecords(Request())
        old = tls.identity_file(settings, "gateway").read_bytes()
        old_authority = trusted(settings)
        (settings.certs / tls.AUTHORITY_FILE).unlink()
        certificates.ensure(settings)

        deadline = time.monotonic() + 5 * LOOK_S
        # Whoever still shows what the old authority signed is refused when all have looked.
        outdated = grpc.ssl_channel_credentials(old_authority, old, old)
        while await code(address, outdated) is not grpc.StatusCode.UNAVAILABLE:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        while not await _answers(stub):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        healthy = await probes.grpc_serving(address, name="tweet_server", settings=settings)

    assert healthy


async def _answers(stub: "tweet_pb2_grpc.TweetRecordServiceAsyncStub") -> bool:
    try:
        await stub.BatchGetTweetRecords(Request())
    except grpc.aio.AioRpcError:
        return False
    return True


def test_certificates_are_renewed_before_they_expire_and_else_left(settings: Settings) -> None:
    path = tls.identity_file(settings, "trend_server")
    before = path.read_bytes()

    again = certificates.ensure(settings)
    path.write_bytes(certificates.issue(authority(settings), "trend_server", 29 * DAY))
    due = certificates.ensure(settings)

    assert (again, due) == ([], ["trend_server"])
    assert path.read_bytes() != before
    assert (
        certificates.expiries(settings)["trend_server"]
        > min(certificates.expiries(settings).values()) - DAY
    )


async def test_a_server_without_a_certificate_does_not_start(settings: Settings) -> None:
    tls.identity_file(settings, "tweet_server").unlink()

    with pytest.raises(FileNotFoundError, match="run `chirp certs`"):
        async with tweet_server(settings):
            pass
