"""Channels to the other servers: round robin, client-side health checking, a deadline on each call,
and the identity of Chirp's own services."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc

from mesh.settings import Settings
from mesh.tokens import ServiceIdentity

KEEPALIVE_MS = 30_000  # longer than the servers' PING_INTERVAL_MIN_MS

RECONNECT_FIRST_MS = 100
RECONNECT_LAST_MS = 1_000

Metadata = tuple[tuple[str, str], ...]


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
    metadata of their own."""
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", service_config(service)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        # A server that comes back is found at once: grpc would wait a second, then longer.
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_FIRST_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_LAST_MS),
    ]
    async with grpc.aio.insecure_channel(target, options=options) as opened:
        bounded = _Bounded(opened, settings.call_deadline_s, identity)
        yield cast(grpc.aio.Channel, bounded)


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
                metadata = identity.metadata
            return call(request, timeout=timeout, metadata=metadata, **others)

        return bounded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)
