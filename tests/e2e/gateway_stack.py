"""What the gateway's tests run: the real Envoy before tiny servicers, served by our own mesh."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from chirp.v1 import graph_pb2, notification_pb2, timeline_pb2, trend_pb2, tweet_pb2, user_pb2
from google.api import httpbody_pb2
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from domain import errors
from domain.ids import UserId
from mesh import keys, rpc, server, streams, tls, tokens
from mesh.keys import PublishedKeys
from mesh.settings import Settings
from ops import certificates, embedded, gateway, gateway_tls

START_TIMEOUT_S = 15.0
HEALTH_TIMEOUT_S = 5.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CALL_TIMEOUT_S = 1.0

BIG_ID = 9_007_199_254_740_993  # 2**53 + 1: lost where a number is read as a double
MISSING, DOWN, BROKEN, TWICE, SLOW, BYTES, LARGE = 404, 503, 500, 2, 504, 8, 100
OFTEN = 429

SERVICES = {
    "tweet_server": ("TweetService", "TweetRecordService"),
    "graph_server": ("UserService", "GraphService", "UserDirectoryService"),
    "timeline_server": ("TimelineService",),
    "trend_server": ("TrendService",),
    "notification_server": ("NotificationService",),
    "outbox_relay": (),
    "fanout_worker": (),
    "trend_worker": ("TrendCountService",),
    "notification_worker": (),
}
DESCRIPTORS = {
    name: descriptor
    for module in (tweet_pb2, user_pb2, graph_pb2, timeline_pb2, trend_pb2, notification_pb2)
    for name, descriptor in module.DESCRIPTOR.services_by_name.items()
}


@dataclass
class Seen:
    """A call that reached a server."""

    process: str
    method: str
    request: Message
    call: rpc.Call
    at: float


class Servicer:
    """Answers every method of a service with what the request's id asks for."""

    def __init__(self, process: str, service: str, seen: list[Seen], jwks: PublishedKeys) -> None:
        for method in DESCRIPTORS[service].methods:
            path = f"{service}/{method.name}"
            answer_class = message_factory.GetMessageClass(method.output_type)
            make = self._streaming if method.server_streaming else self._answering
            setattr(self, method.name, make(process, path, answer_class, seen, jwks))

    @staticmethod
    def _answering(
        process: str,
        path: str,
        answer_class: type[Message],
        seen: list[Seen],
        jwks: PublishedKeys,
    ) -> Callable[[Any, rpc.Call], Awaitable[Message | bytes]]:
        async def answer(request: Any, call: rpc.Call) -> Message | bytes:
            if path != "UserService/GetJwks" or call.user_id:  # the gateway's own: not a test's
                seen.append(Seen(process, path, request, call, time.monotonic()))
            if path == "UserService/GetJwks":
                return httpbody_pb2.HttpBody(
                    content_type="application/jwk-set+json", data=jwks.document()
                )
            if path == "TweetService/CreateTweet" and request.content == "down":
                raise errors.Unavailable("a part of Chirp is down; try again")
            if path == "TweetService/GetTweet":
                return await _tweet(request.id)
            return answer_class()

        return answer

    @staticmethod
    def _streaming(
        process: str, path: str, _: type[Message], seen: list[Seen], __: PublishedKeys
    ) -> Callable[[Any, rpc.Call], streams.Answers]:
        async def answers(request: Any, call: rpc.Call) -> streams.Answers:
            seen.append(Seen(process, path, request, call, time.monotonic()))
            if path != "TrendService/StreamTrends":
                yield streams.HEARTBEAT
                await asyncio.Event().wait()
            if request.location == "down":
                raise errors.Unavailable("a part of Chirp is down; try again")
            if request.location == "quiet":
                yield streams.HEARTBEAT
                await asyncio.Event().wait()
            if request.location == "flood":
                try:
                    while True:
                        trend = trend_pb2.Trend(tag="x" * 10_000)
                        yield trend_pb2.StreamTrendsResponse(
                            item=trend_pb2.TrendUpdate(trends=[trend])
                        )
                finally:
                    seen.append(Seen(process, "closed", request, call, time.monotonic()))
            for name in ("first", "second"):
                call.stream.resume_token = name
                yield trend_pb2.StreamTrendsResponse(
                    item=trend_pb2.TrendUpdate(trends=[trend_pb2.Trend(tag=name)])
                )
            if request.location == "breaks":
                raise errors.Unavailable("a part of Chirp is down; try again")
            if request.location == "ends":
                raise streams.Ended("DONE")
            await asyncio.Event().wait()

        return answers


async def _tweet(tweet_id: int) -> Message | bytes:
    whole = tweet_pb2.Tweet(id=tweet_id, content="caf\u00e9")
    match tweet_id:
        case _ if tweet_id == MISSING:
            raise errors.TweetNotFound("no such tweet")
        case _ if tweet_id == DOWN:
            raise errors.Unavailable("a part of Chirp is down; try again")
        case _ if tweet_id == OFTEN:
            raise errors.RateLimited("read", quota=900, window_s=1800, retry_after_s=7)
        case _ if tweet_id == BROKEN:
            raise RuntimeError("secret of 10.0.0.1")
        case _ if tweet_id == TWICE:
            return whole.SerializeToString() + tweet_pb2.Tweet(content="other").SerializeToString()
        case _ if tweet_id == SLOW:
            await asyncio.Event().wait()
        case _ if tweet_id == BYTES:
            # Spliced out of order, as the timeline server does it; each singular field once.
            counts = tweet_pb2.Tweet(like_count=7).SerializeToString()
            return counts + whole.SerializeToString()
        case _ if tweet_id == LARGE:
            whole.media_urls.extend(["http://x/" + "u" * 2000] * 1500)
        case _:
            pass
    return whole


@dataclass
class Stack:
    """The running whole."""

    rest: httpx.AsyncClient
    channel: grpc.aio.Channel
    address: str
    token: str
    described: gateway.Gateway
    configuration: Path
    settings: Settings
    spare_port: int
    """A second tweet server's, in the configuration already; nothing listens there at first."""
    seen: list[Seen] = field(default_factory=list[Seen])
    servings: dict[str, server.Serving] = field(default_factory=dict[str, server.Serving])

    async def set_health(self, process: str, service: str, status: int) -> None:
        """Makes one process say that it serves, or not."""
        await self.servings[process].health.set(service, status)

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stack]:
    async with open_stack(tmp_path_factory.mktemp("gateway")) as opened:
        yield opened


@asynccontextmanager
async def open_stack(
    folder: Path,
    *,
    of_gateway: Mapping[str, Any] | None = None,
    render: Callable[[gateway.Gateway], str] = gateway.render,
    **changed: Any,
) -> AsyncGenerator[Stack]:
    """Opens a stack; `changed` are settings, `of_gateway` what a gateway.Gateway has besides.
    `render` makes Envoy's configuration."""
    values = {
        "keys": folder / "keys",
        "certs": folder / "certs",
        "listen": "127.0.0.1:0",
        "drain_grace_s": 0.1,
        "drain_delay_s": 0,
        "heartbeat_s": 1,
        "jwks_cache_s": 2,
        **changed,
    }
    settings = Settings.model_validate(values)
    keys.ensure_keys(settings)
    if settings.tls:
        certificates.ensure(settings)
        for name, text in gateway_tls.secret_files(settings.certs / tls.GATEWAY).items():
            (folder / name).write_text(text)
    token = tokens.TokenSigner(settings).sign_user(
        UserId(BIG_ID), 1, lifetime_s=3600, now=time.time()
    )
    seen: list[Seen] = []
    async with AsyncExitStack() as opened:
        servings = {
            process: await opened.enter_async_context(
                server.serving(settings, bound(process, settings, seen), process)
            )
            for process in SERVICES
        }
        spare_port = embedded.free_port()
        ports = {name: [serving.port] for name, serving in servings.items()}
        ports["tweet_server"].append(spare_port)
        described = replace(local_gateway(folder, settings, ports), **(of_gateway or {}))
        configuration = folder / "envoy.yaml"
        configuration.write_text(render(described))
        await opened.enter_async_context(running_envoy(configuration))
        address = f"127.0.0.1:{described.listen.port}"
        rest = await opened.enter_async_context(httpx.AsyncClient(base_url=f"http://{address}"))
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(address))
        await until_status(rest, 200, START_TIMEOUT_S)
        yield Stack(
            rest, channel, address, token, described, configuration, settings, spare_port, seen,
            servings,
        )  # fmt: skip


def bound(process: str, settings: Settings, seen: list[Seen]) -> list[rpc.BoundService]:
    verifier = tokens.TokenVerifier(settings)
    open_streams, jwks = streams.Streams(settings), PublishedKeys(settings)
    return [
        rpc.bind(DESCRIPTORS[name], Servicer(process, name, seen, jwks), verifier, open_streams)
        for name in SERVICES[process]
    ]


def local_gateway(folder: Path, settings: Settings, ports: dict[str, list[int]]) -> gateway.Gateway:
    def endpoints(process: str) -> list[gateway.Endpoint]:
        return [gateway.Endpoint("127.0.0.1", port) for port in ports[process]]

    return gateway.Gateway(
        listen=gateway.Endpoint("127.0.0.1", embedded.free_port()),
        admin_port=embedded.free_port(),
        tweet_server=endpoints("tweet_server"),
        graph_server=endpoints("graph_server"),
        timeline_server=endpoints("timeline_server"),
        trend_server=endpoints("trend_server"),
        notification_server=endpoints("notification_server"),
        outbox_relay=endpoints("outbox_relay"),
        fanout_worker=endpoints("fanout_worker"),
        trend_worker=endpoints("trend_worker"),
        notification_worker=endpoints("notification_worker"),
        descriptor=Path(__file__).parents[2] / "gen" / "descriptor.binpb",
        gateway_secret=keys.gateway_secret(settings.keys),
        access_log=folder / "access.log",
        certs=settings.certs / tls.GATEWAY if settings.tls else None,
        secrets=folder,
        **gateway.from_settings(settings),
        call_timeout_s=CALL_TIMEOUT_S,
    )


@asynccontextmanager
async def running_envoy(configuration: Path) -> AsyncGenerator[None]:
    with configuration.with_suffix(".log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *gateway.command(configuration, threads=1), stdout=output, stderr=output
        )
        try:
            yield
        finally:
            process.terminate()
            await process.wait()


async def until_status(
    rest: httpx.AsyncClient, status: int, timeout_s: float = HEALTH_TIMEOUT_S
) -> httpx.Response:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answer = await rest.get("/healthz")
            if answer.status_code == status:
                return answer
        except httpx.TransportError:
            answer = None
        assert time.monotonic() < deadline, f"/healthz did not answer {status}: {answer}"
        await asyncio.sleep(0.02)
