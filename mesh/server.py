"""The life of every process: a server or a worker, it answers gRPC health and reflection, says when
it is ready, and drains when told to stop.

    CHIRP_LISTEN=127.0.0.1:50051 python -m servers.tweet_server

The stop order, on SIGTERM or SIGINT:
 1. health answers NOT_SERVING, and stays so for `drain_delay_s`: balancers look elsewhere;
 2. streams end with DRAINING, so that their readers come back, elsewhere;
 3. no more calls are taken, running ones get `drain_grace_s` to finish; loops of workers end;
 4. pools and connections close.
"""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mesh import logs, rpc, tls, traces, vitals, work
from mesh import settings as settings_module
from mesh.door import Verifier
from mesh.files import LOOK_S
from mesh.intake import Bounded, Intake
from mesh.metrics import Collector
from mesh.rpc import BoundService
from mesh.settings import Settings

MESSAGE_BYTES_MAX = 4 * 1024 * 1024  # of an answer, and what clients take
# Of a request, also when it was compressed: the longest has 1,000 ids.
REQUEST_BYTES_MAX = 256 * 1024
# More than the gateway's 16 KiB, to which it adds some. gRPC's own 8 KiB are a soft limit: above
# them it refuses calls at random, up to all of them at 16 KiB.
METADATA_BYTES_MAX = 32 * 1024
# Envoy and clients ping idle connections; a server that counts pings as strikes drops them.
PING_INTERVAL_MIN_MS = 5_000

SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)
# New objects in containers before the young are looked through, then how often that happens before
# the older ones and all are: all after ten million that stayed, and never for those that went.
GARBAGE_THRESHOLDS = 10_000, 10, 100
HEALTH_LOOK_S = 0.1  # how often a service is asked whether it is ready

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
    # One port, one process: two that share a port would hide each other's failures.
    ("grpc.so_reuseport", 0),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """What a process is made of: services that answer, and loops that run until cancelled."""

    services: Sequence[BoundService] = ()
    loops: Sequence[Callable[[], Coroutine[Any, Any, None]]] = field(default=())
    collectors: Sequence[Collector] = ()
    """What it tells of itself in numbers, besides its open streams."""


Opener = Callable[[Settings], AbstractAsyncContextManager[Process]]


class Health(Protocol):
    """What we use of grpc_health's asyncio servicer, which its stubs leave out."""

    async def set(self, service: str, status: Any) -> None:
        """Sets what Check and Watch answer for a service."""

    async def enter_graceful_shutdown(self) -> None:
        """Answers NOT_SERVING for all services from now on."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server: where it listens, and its health."""

    port: int
    grpc_server: grpc.aio.Server
    health: Health


def main(name: str, opener: Opener) -> None:
    """Runs a process until SIGTERM or SIGINT: the whole of a server's or worker's main()."""
    settings = settings_module.load()
    logs.begin(name, settings.log_format)
    traces.begin(settings, name)
    try:
        uvloop.run(_run_until_signal(name, settings, opener))
    finally:
        traces.end()


@asynccontextmanager
async def serving(
    settings: Settings, services: Sequence[BoundService], name: str = ""
) -> AsyncGenerator[Serving]:
    """Serves gRPC with health and reflection; on leaving, ends streams, takes no more calls and
    lets running ones finish. Tests use it in process. Raises OSError where the address is taken,
    and with TLS where `name`, one of `tls.NAMES`, has no certificate."""
    streams = {service.streams for service in services if service.streams is not None}
    # Open streams must not use up what is for calls.
    calls_max = 2 * settings.concurrent_calls_max + len(streams) * settings.streams_max
    intake = Intake(settings.concurrent_calls_max)
    server = grpc.aio.server(
        options=(
            *SERVER_OPTIONS,
            *_pending(calls_max),
            *(tls.SERVER_OPTIONS if settings.tls else ()),
        ),
        # A second limit behind our own (intake.py), of all that is neither: health and refusals.
        maximum_concurrent_rpcs=calls_max,
        interceptors=[tls.PeerGuard(rpc.refuse_peer)] if settings.tls else None,
    )
    health_servicer = cast(Any, health).aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = [service.full_name for service in services]
    for service in services:
        for calls in service.calls:
            calls.intake = intake
        server.add_generic_rpc_handlers((Bounded(service.handler, intake),))
    reflection.enable_server_reflection(
        (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    credentials = tls.server_credentials(settings, name) if settings.tls else None
    try:
        if credentials is None:
            port = server.add_insecure_port(settings.listen)
        else:
            port = server.add_secure_port(settings.listen, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {settings.listen}; set CHIRP_LISTEN") from error
    await server.start()
    for name, is_ready in (("", None), *((each.full_name, each.is_ready) for each in services)):
        # From the first moment: who waits for a process must not meet one that is not ready.
        ready = is_ready is None or is_ready()
        await health_servicer.set(name, SERVING if ready else NOT_SERVING)
    methods = [running for service in services for running in service.running]
    loops = [asyncio.create_task(work.watch(methods, settings.deadline_factor))]
    loops += [asyncio.create_task(each.beat()) for each in streams]
    verifiers = {service.verifier for service in services if service.verifier is not None}
    loops += [asyncio.create_task(_follow_keys(each)) for each in verifiers]
    loops += [
        asyncio.create_task(_tell_health(health_servicer, service.full_name, service.is_ready))
        for service in services
        if service.is_ready is not None
    ]
    try:
        yield Serving(port, server, health_servicer)
    finally:
        await health_servicer.enter_graceful_shutdown()
        for each in streams:
            each.drain()
        await server.stop(settings.drain_grace_s)
        for task in loops:
            task.cancel()


def _pending(calls_max: int) -> tuple[tuple[str, int], ...]:
    # Calls that Python has not looked at yet. gRPC's own bound of 1,000 ends more as CANCELLED,
    # which tells clients nothing, when thousands of streams come back at the same time.
    return (
        ("grpc.server.max_pending_requests", calls_max),
        ("grpc.server.max_pending_requests_hard_limit", calls_max),
    )


async def _follow_keys(verifier: Verifier) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        verifier.look()


async def _tell_health(health_servicer: Health, name: str, is_ready: Callable[[], bool]) -> None:
    told: bool | None = None
    while True:
        ready = is_ready()
        if ready is not told:
            await health_servicer.set(name, SERVING if ready else NOT_SERVING)
            told = ready
        await asyncio.sleep(HEALTH_LOOK_S)


def calm_collector() -> None:
    """Lets Python look for cyclic garbage less often. Most garbage here has no cycles and goes at
    once; looking through all that thousands of streams hold takes a tenth of a second and more, in
    which nothing is answered. What is there at the start stays, and need not be looked through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


async def _run_until_signal(name: str, settings: Settings, opener: Opener) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with opener(settings) as process:
        loops = [*process.loops, logs.Levels(settings.log_levels).follow]
        tasks = [asyncio.create_task(run()) for run in loops]
        async with (
            vitals.told(settings.metrics_listen, process.services, process.collectors),
            serving(settings, process.services, name) as server,
        ):
            log.info("%s serves on port %d", name, server.port)
            calm_collector()
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            await server.health.enter_graceful_shutdown()
            if process.services and stop.is_set():
                await asyncio.sleep(settings.drain_delay_s)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    log.info("%s stopped", name)
    for result in results:
        # A loop never ends by itself: what it raised is why the process dies, and it says so.
        if isinstance(result, Exception):
            raise result
