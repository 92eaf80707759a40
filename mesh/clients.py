"""Channels to the other servers: round robin, client-side health checking, a deadline on each call,
what may be sent twice, the identity of Chirp's own services, and TLS where it is on."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import grpc

from mesh import deadlines, requests, tls, traces
from mesh.access import COMMAND_LINE, SERVERS
from mesh.deadlines import Repeat
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity

KEEPALIVE_MS = 30_000  # longer than the servers' PING_INTERVAL_MIN_MS
KEEPALIVE_TIMEOUT_MS = 5_000  # a server whose machine is gone sends no reset

# What is sent again, and how often. Failures of a channel use up a store of tokens, successes fill
# it a little: a server that is down gets few calls twice, one that hiccuped gets all of them.
TRIES_MAX = 3
BACKOFF_FIRST_S, BACKOFF_LAST_S, BACKOFF_FACTOR = 0.05, 0.5, 2
TOKENS_MAX, TOKENS_PER_SUCCESS = 10, 0.1

RECONNECT_FIRST_MS = 100
RECONNECT_LAST_MS = 1_000

Metadata = tuple[tuple[str, str], ...]
Options = list[tuple[str, str | int]]

log = logging.getLogger(__name__)


def service_config(service: str) -> str:
    """Returns the gRPC service config for calls to `service`: reads are retried when unavailable.

    It sets no timeout: gRPC counts one that stands here from a clock that it sets by measuring the
    processor at start, and a process that was held up just then lets calls fail early, by up to
    all of their time, for as long as it lives (grpc/grpc issues 34547 and 40633)."""
    reads = [
        {"service": service, "method": path.rpartition("/")[2]}
        for path, rule in deadlines.RULES.items()
        if path.startswith(f"/{service}/") and rule.repeat is Repeat.READ
    ]
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": service},
            "retryThrottling": {"maxTokens": TOKENS_MAX, "tokenRatio": TOKENS_PER_SUCCESS},
            "methodConfig": [
                {
                    "name": reads,
                    "retryPolicy": {
                        "maxAttempts": TRIES_MAX,
                        "initialBackoff": f"{BACKOFF_FIRST_S}s",
                        "maxBackoff": f"{BACKOFF_LAST_S}s",
                        "backoffMultiplier": BACKOFF_FACTOR,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ],
        }
    )


@asynccontextmanager
async def channel(
    settings: Settings, target: str, service: str, *, identity: ServiceIdentity | None = None
) -> AsyncGenerator[grpc.aio.Channel]:
    """Opens a channel to the replicas of one service. It connects on first use. A call has what
    `mesh/deadlines.py` gives it, or less where whoever this is done for waits no longer; one that
    finds nobody is made again where that is safe. Calls go out under `identity`, where they bring
    no metadata of their own. With TLS, it shows the certificate of the identity, else the command
    line's, and wants that of the server which answers `service`; raises OSError where there is none
    to show."""
    options: Options = [
        ("grpc.service_config", service_config(service)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # A server that comes back is found at once: grpc would wait a second, then longer.
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_FIRST_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_LAST_MS),
    ]
    async with _open(settings, target, service, options, identity) as opened:
        bounded = _Bounded(opened, settings.deadline_factor, identity)
        yield cast(grpc.aio.Channel, bounded)


def _open(
    settings: Settings, target: str, service: str, options: Options, who: ServiceIdentity | None
) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    if not settings.tls:
        return grpc.aio.insecure_channel(target, options=options)
    files = tls.Files(settings, who.name if who is not None else COMMAND_LINE)
    return _redialling(target, [*options, *tls.named(SERVERS[service])], files, settings)


@asynccontextmanager
async def _redialling(
    target: str, options: Options, files: tls.Files, settings: Settings
) -> AsyncGenerator[grpc.aio.Channel]:
    longest_s = max(rule.deadline_s or 0.0 for rule in deadlines.RULES.values())
    channel = _Redialling(target, options, files, longest_s * settings.deadline_factor)
    try:
        yield cast(grpc.aio.Channel, channel)
    finally:
        await channel.close()


class _Bounded:
    """A channel whose unary calls have a deadline and an identity, where the caller names none, and
    whose writes with a request id are made again.

    gRPC's own interceptors would do the same for a task more on each call."""

    def __init__(
        self, channel: grpc.aio.Channel, factor: float, identity: ServiceIdentity | None
    ) -> None:
        self._channel = channel
        self._factor = factor
        self._identity = identity
        self._throttle = _Throttle()

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio.Channel, which stubs ask for each of their methods once. Raises KeyError for
        a method without a row in the table."""
        call = cast(Any, self._channel).unary_unary(method, *arguments, **options)
        rule, identity, throttle = deadlines.RULES[method], self._identity, self._throttle
        assert rule.deadline_s is not None, "a stream is not unary"
        own_s = rule.deadline_s * self._factor

        def bounded(
            request: Any,
            *,
            timeout: float = own_s,
            metadata: Metadata | None = None,
            **others: Any,
        ) -> Any:
            if metadata is None and identity is not None:
                metadata = requests.carried(identity.metadata, traces.current())
            return call(request, timeout=deadlines.left_s(timeout), metadata=metadata, **others)

        def repeating(request: Any, *, timeout: float = own_s, **others: Any) -> Any:
            if not request.request_id:
                return bounded(request, timeout=timeout, **others)
            return _Repeating(bounded, throttle, request, timeout, others)

        return repeating if rule.repeat is Repeat.REQUEST_ID else bounded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


class _Throttle:
    """As gRPC's own for reads (proposal A6): no more is repeated while it is half empty."""

    def __init__(self) -> None:
        self._tokens = float(TOKENS_MAX)

    def succeeded(self) -> None:
        """Fills it a little."""
        self._tokens = min(TOKENS_MAX, self._tokens + TOKENS_PER_SUCCESS)

    def failed(self) -> bool:
        """Takes a token; returns whether what failed may be repeated."""
        self._tokens = max(0.0, self._tokens - 1)
        return self._tokens > TOKENS_MAX / 2


class _Repeating:
    """A write that the server knows again by its request id: made again when unavailable, within
    one deadline. To be awaited, once."""

    def __init__(
        self, call: Any, throttle: _Throttle, request: Any, timeout: float, others: dict[str, Any]
    ) -> None:
        self._call = call
        self._throttle = throttle
        self._request = request
        self._timeout_s = timeout
        self._others = others

    def __await__(self) -> Generator[Any, None, Any]:
        return self._run().__await__()

    async def _run(self) -> Any:
        clock = asyncio.get_running_loop().time
        ends_at, backoff_s = clock() + self._timeout_s, BACKOFF_FIRST_S
        for attempt in range(1, TRIES_MAX + 1):
            left_s = max(0.0, ends_at - clock())
            try:
                answer = await self._call(self._request, timeout=left_s, **self._others)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                if not self._throttle.failed() or attempt == TRIES_MAX:
                    raise
            else:
                self._throttle.succeeded()
                return answer
            await asyncio.sleep(random.uniform(0.8, 1.2) * backoff_s)  # noqa: S311
            backoff_s = min(BACKOFF_LAST_S, backoff_s * BACKOFF_FACTOR)
        raise AssertionError("the last attempt returns or raises")


class _Redialling:
    """A channel that dials again when the certificates changed: gRPC cannot give other ones to a
    channel that is open. Calls under way end on the old one."""

    def __init__(self, target: str, options: Options, files: tls.Files, grace_s: float) -> None:
        self._target = target
        self._options = options
        self._files = files
        self._grace_s = grace_s
        self._channel = self._dial()
        self._closing: set[asyncio.Task[None]] = set()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._following("unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._following("unary_stream", arguments, options)

    async def close(self) -> None:
        """Closes it, and waits for what it had before."""
        await self._channel.close()
        await asyncio.gather(*self._closing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def _following(self, kind: str, arguments: Any, options: Any) -> Any:
        made_of, made = self._channel, getattr(self._channel, kind)(*arguments, **options)

        def call(*request: Any, **others: Any) -> Any:
            nonlocal made_of, made
            channel = self._current()
            if channel is not made_of:
                made_of, made = channel, getattr(channel, kind)(*arguments, **options)
            return made(*request, **others)

        return call

    def _current(self) -> grpc.aio.Channel:
        if self._files.changed():
            try:
                fresh = self._dial()
            except OSError as error:
                log.error("cannot read the certificates: %s", type(error).__name__)
                return self._channel
            old, self._channel = self._channel, fresh
            closing = asyncio.create_task(old.close(self._grace_s))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return self._channel

    def _dial(self) -> grpc.aio.Channel:
        credentials = tls.client_credentials(self._files)
        return grpc.aio.secure_channel(self._target, credentials, options=self._options)
