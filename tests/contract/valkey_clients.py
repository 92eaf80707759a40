"""The clients that one contract holds for: redis-py, one node's connection, and a cluster's; each
with a password, plain and under TLS."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import redis.exceptions

from mesh.settings import Settings
from storage import valkey, valkey_cluster
from storage.valkey import Valkey
from storage.valkey_connection import Command

DEADLINE_S = 15.0
Open = Callable[[str, float], Any]


AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, *valkey.CLUSTER_AWAY)


class Client(Protocol):
    """What the contract calls."""

    def call(self, commands: Sequence[Command]) -> "Awaitable[list[Any]]": ...


class RedisPy:
    """redis-py in the form of our connections."""

    def __init__(self, client: Valkey) -> None:
        self._client = client

    def call(self, commands: Sequence[Command]) -> "Awaitable[list[Any]]":
        return asyncio.ensure_future(self._call(commands))

    async def _call(self, commands: Sequence[Command]) -> list[Any]:
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    cast(Any, pipeline).execute_command(*command)
                replies = await pipeline.execute(raise_on_error=False)
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
            raise ConnectionError(str(error)) from error
        for reply in replies:
            if isinstance(reply, AWAY):
                raise ConnectionError(str(reply)) from reply
        return replies


@asynccontextmanager
async def open_redis_py(url: str, timeout_s: float) -> AsyncGenerator[RedisPy]:
    """Opens redis-py as Chirp does."""
    async with valkey.connect(url, Settings(valkey_timeout_s=timeout_s)) as client:
        yield RedisPy(client)


@dataclass(frozen=True)
class Kind:
    """A client and where it is tried."""

    name: str
    open: Open
    cluster: bool
    tls: bool
    socket: bool = False


CLIENTS = (("redis-py", open_redis_py), ("ours", valkey_cluster.open_hot))
KINDS = [
    Kind("-".join((name, where, how)), opened, cluster=where == "cluster", tls=how == "tls")
    for name, opened in CLIENTS
    for where in ("node", "cluster")
    for how in ("plain", "tls")
] + [Kind(f"{name}-node-socket", opened, False, False, socket=True) for name, opened in CLIENTS]
TLS_KINDS = [kind for kind in KINDS if kind.tls]


@dataclass(frozen=True)
class Place:
    """A running Valkey or cluster, and how a kind of client gets there."""

    kind: Kind
    url: str
    authority: Path

    def open(self, timeout_s: float = DEADLINE_S, url: str = "") -> Any:
        """Opens the client."""
        return self.kind.open(url or self.url, timeout_s)


def tls_url(url: str, port: int, authority: Path | None) -> str:
    """Returns a plain URL's form for TLS on another port."""
    head, _, _ = url.rpartition(":")
    query = f"?ssl_ca_certs={authority}" if authority else ""
    if not head.startswith("rediss"):
        head = head.replace("redis", "rediss", 1)
    return f"{head}:{port}/0{query}"


async def until_answering(client: Client, *commands: Command) -> list[Any]:
    """Calls until there are replies; returns them."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await client.call(commands)
        except ConnectionError:
            assert time.monotonic() < deadline, "it does not connect again"
            await asyncio.sleep(0.02)
