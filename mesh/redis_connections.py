"""redis-py's connections, mended: commands are packed in C, a cancellation is not lost, TLS trusts
one authority. For the cache's Valkey and the event log's."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis

from mesh.redis_library import asyncio as redis_asyncio
from mesh.redis_library import backoff, retry
from mesh.tasks import losing_no_cancellation


def tls_context(authorities: str | None) -> ssl.SSLContext:
    """Returns how a Valkey is known: by the authorities in a file, or where there is none by those
    of the system, which take 30 times as long to read (20 ms)."""
    return ssl.create_default_context(cafile=authorities)


class _Packing:
    """Packs commands in C: 0.08 us an argument. redis-py's own packing takes ten times as long,
    which would be more than half of what fan-out's worker does: its calls have hundreds."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """Returns a command as it is sent. A name of two words is two arguments."""
        name, *rest = arguments
        return [hiredis.pack_command((*name.split(), *rest))]


class _Stopping:
    """redis-py sends by asyncio.wait_for, which loses cancellations (see mesh/tasks.py): a call
    whose caller has gone would go on."""

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """As redis-py's."""
        try:
            with losing_no_cancellation():
                await cast(Any, super()).send_packed_command(command, check_health)
        except asyncio.CancelledError:
            await cast(Any, self).disconnect(nowait=True)  # nobody will read the answer
            raise


class _Connection(_Packing, _Stopping, redis_asyncio.Connection):
    pass


class _SocketConnection(_Packing, _Stopping, redis_asyncio.UnixDomainSocketConnection):
    pass


class _TlsConnection(_Packing, _Stopping, redis_asyncio.SSLConnection):
    """redis-py would trust the system's authorities, too, and hold up the loop while it reads them
    for each connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ssl_context.context = tls_context(self.ssl_context.ca_certs)


def kind_for(scheme: str) -> type[Any]:
    """Returns the connections of URLs that begin so."""
    kinds = {"rediss": _TlsConnection, "unix": _SocketConnection}
    return kinds.get(scheme, _Connection)


@asynccontextmanager
async def opened(
    kind: type[redis_asyncio.ConnectionPool], url: str, **options: Any
) -> AsyncGenerator[redis_asyncio.Redis]:
    """Opens a client with a pool of such connections, which answer bytes; it connects on first use.

    Nothing is retried inside: callers know what may be sent twice, and what they can do without."""
    never = retry.Retry(backoff.NoBackoff(), 0)
    pool = kind.from_url(url, decode_responses=False, protocol=2, retry=never, **options)
    pool.connection_class = kind_for(urlsplit(url).scheme)
    client = redis_asyncio.Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()
