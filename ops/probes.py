"""Questions that tell whether something runs: each answers yes or no within a second, whatever
happens on the other side."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from mesh.settings import Settings

TIMEOUT_S = 1.0


async def grpc_serving(
    address: str,
    services: tuple[str, ...] = (),
    *,
    name: str = "",
    as_name: str = "",
    settings: "Settings | None" = None,
) -> bool:
    """Whether the process at host:port answers SERVING, as a whole and for each service. With TLS,
    by `settings`, it is asked as `as_name`, by default the command line, and must be the one called
    `name`. Raises OSError where the certificates are not there."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from mesh import tls
    from mesh.access import COMMAND_LINE

    async with (
        tls.secure_channel(settings, address, name, as_name=as_name or COMMAND_LINE)
        if settings is not None
        else grpc.aio.insecure_channel(address)
    ) as channel:
        health: Any = cast(Any, health_pb2_grpc).HealthStub(channel)  # untyped upstream
        try:
            for service in ("", *services):
                answer = await health.Check(
                    health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S
                )
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    return False
        except grpc.aio.AioRpcError:
            return False
    return True


async def postgres_answers(url: str) -> bool:
    """Whether PostgreSQL takes connections."""
    import psycopg

    try:
        async with asyncio.timeout(TIMEOUT_S):
            await (await psycopg.AsyncConnection.connect(url)).close()
    except (psycopg.OperationalError, TimeoutError):
        return False
    return True


async def valkey_answers(url: str) -> bool:
    """Whether Valkey answers and has read what it keeps on disk; of a cluster, the node named."""
    import redis.asyncio
    import redis.exceptions

    from storage.valkey_cluster import node_url

    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            redis.asyncio.Redis.from_url(node_url(url)) as valkey,
        ):
            await valkey.ping()
    except (redis.exceptions.RedisError, OSError, TimeoutError):
        return False
    return True


async def http_status(host: str, port: int, path: str) -> int:
    """Returns the status that a GET is answered with, 0 where it is not answered."""
    try:
        async with asyncio.timeout(TIMEOUT_S), _get(host, port, path) as answer:
            # Not to its end: Envoy takes its time to close.
            words = (await answer.readline()).split()
    except (OSError, TimeoutError):
        return 0
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


async def healthy_ports(host: str, admin_port: int) -> set[int]:
    """Returns the ports of the upstreams that a gateway holds for healthy, in all its clusters;
    none where its admin page does not answer."""
    try:
        async with asyncio.timeout(TIMEOUT_S), _get(host, admin_port, "/clusters") as answer:
            text = (await answer.read()).decode()
    except (OSError, TimeoutError):
        return set()
    # NAME::ADDRESS:PORT::health_flags::healthy, or ::/failed_active_hc and others
    healthy: dict[int, bool] = {}
    for line in text.splitlines():
        parts = line.strip().split("::")
        if len(parts) == 4 and parts[2] == "health_flags":
            _, _, digits = parts[1].rpartition(":")
            if not digits.isdigit():
                continue  # a listener inside of Envoy, envoy://keys/
            port = int(digits)
            healthy[port] = healthy.get(port, True) and parts[3] == "healthy"
    return {port for port, yes in healthy.items() if yes}


@asynccontextmanager
async def _get(host: str, port: int, path: str) -> AsyncGenerator[asyncio.StreamReader]:
    """Asks; yields what is answered, from the status line on."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        writer.write(request.encode())
        yield reader
    finally:
        writer.close()
