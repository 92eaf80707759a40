"""Channels to the other servers: round robin, client-side health checking, a deadline on each call,
the identity of Chirp's own services, and TLS where it is on."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import grpc

from mesh import requests, tls, traces
from mesh.access import COMMAND_LINE, SERVERS
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity

KEEPALIVE_MS = 30_000  # longer than the servers' PING_INTERVAL_MIN_MS

RECONNECT_FIRST_MS = 100
RECONNECT_LAST_MS = 1_000

Metadata = tuple[tuple[str, str], ...]
Options = list[tuple[str, str | int]]

log = logging.getLogger(__name__)


def service_config(service: str) -> str:
    """Returns the gRPC service config for calls to `service` (reads: retried when unavailable).

    It sets no timeout: gRPC counts one that stands here from a clock that it sets by measuring the
    processor at start, and a process that was held up just then lets calls fail early, by up to
    all of their time, for as long as it lives (grpc/grpc issues 34547 and 40633)."""
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": service},
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
            "methodConfig": [
                {
                    "name": [{"service": service}],
                    "retryPolicy": {
                        "maxAttempts": 3,
                        "initialBackoff": "0.05s",
                        "maxBackoff": "0.5s",
                        "backoffMultiplier": 2,
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
    """Opens a channel to the replicas of one service that only reads. It connects on first use,
    and a call fails after `call_deadline_s`. Calls go out under `identity`, where they bring no
    metadata of their own. With TLS, it shows the certificate of the identity, else the command
    line's, and wants that of the server which answers `service`; raises OSError where there is none
    to show."""
    options: Options = [
        ("grpc.service_config", service_config(service)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        # A server that comes back is found at once: grpc would wait a second, then longer.
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_FIRST_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_LAST_MS),
    ]
    async with _open(settings, target, service, options, identity) as opened:
        bounded = _Bounded(opened, settings.call_deadline_s, identity)
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
    channel = _Redialling(target, options, files, settings.call_deadline_s)
    try:
        yield cast(grpc.aio.Channel, channel)
    finally:
        await channel.close()


class _Bounded:
    """A channel whose unary calls have a deadline and an identity where the caller names none.

    gRPC's own interceptors would do the same for a task more on each call."""

    def __init__(
        self, channel: grpc.aio.Channel, deadline_s: float, identity: ServiceIdentity | None
    ) -> None:
        self._channel = channel
        self._deadline_s = deadline_s
        self._identity = identity

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio.Channel, which stubs ask for each of their methods once."""
        call = cast(Any, self._channel).unary_unary(*arguments, **options)
        deadline_s, identity = self._deadline_s, self._identity

        def bounded(
            request: Any,
            *,
            timeout: float = deadline_s,
            metadata: Metadata | None = None,
            **others: Any,
        ) -> Any:
            if metadata is None and identity is not None:
                metadata = requests.carried(identity.metadata, traces.current())
            return call(request, timeout=timeout, metadata=metadata, **others)

        return bounded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


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
