"""Connections to Valkey by redis-py: for every call that is not on the hot path."""

import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, cast

import redis.asyncio
import redis.exceptions
from redis.asyncio.cluster import ClusterPipeline, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mesh import redis_connections
from mesh.settings import Settings
from storage import valkey_cluster

Valkey = redis.asyncio.Redis
CONNECTIONS_MAX = 64  # of one process, in a cluster to each node

# Of the classes by which redis-py says that a cluster is away, callers would have to know each.
CLUSTER_AWAY = (
    redis.exceptions.RedisClusterException,
    redis.exceptions.ClusterError,
    redis.exceptions.TryAgainError,
)
NODE_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)

log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(url: str, settings: Settings) -> AsyncGenerator[Valkey]:
    """Opens a bounded pool of connections that answer bytes; it connects on first use.

    Of a cluster (`redis+cluster://`), every command's keys must lie in one slot."""
    if valkey_cluster.is_cluster(url):
        async with _Cluster.from_url(
            valkey_cluster.node_url(url),
            decode_responses=False,
            socket_connect_timeout=settings.valkey_timeout_s,
            socket_timeout=settings.valkey_timeout_s,
            # Above it a call fails at once: these pools do not wait.
            max_connections=CONNECTIONS_MAX,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            # Where a node is lost, the others' slots are still good.
            require_full_coverage=False,
        ) as cluster:
            # The calls that Chirp makes, both have in common; the classes have no common base.
            yield cast(Valkey, cluster)
        return
    async with redis_connections.opened(
        # A caller waits for a connection; the plain pool would fail it at once.
        redis.asyncio.BlockingConnectionPool,
        url,
        socket_connect_timeout=settings.valkey_timeout_s,
        socket_timeout=settings.valkey_timeout_s,
        timeout=settings.valkey_timeout_s,
        max_connections=CONNECTIONS_MAX,
    ) as valkey:
        yield valkey


def is_missing_function(reply: object) -> bool:
    """Whether Valkey says that it does not have a function: after a restart without persistence it
    has none."""
    return isinstance(reply, Exception) and "Function not found" in str(reply)


async def best_effort(what: str, call: Awaitable[object]) -> None:
    """Awaits a call to the cache that may fail, because something else does the same later."""
    try:
        await call
    except (redis.exceptions.RedisError, OSError) as error:
        log.warning("%s failed: %s", what, type(error).__name__)


class _Cluster(RedisCluster):
    """Raises redis' ConnectionError where the cluster is away, as one node's client does."""

    _knows_commands = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        kind = redis_connections.kind_for("rediss" if options.get("ssl") else "redis")
        self.connection_kwargs["connection_class"] = kind
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = kind

    async def __aenter__(self) -> "_Cluster":
        return self  # redis-py would connect, and fail a process that starts before its cache

    async def __aexit__(self, *_: object) -> None:
        # Not `aclose`, which does nothing where the map is to be read anew.
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")
        self._initialize = True  # how redis-py says closed

    async def initialize(
        self,
        additional_startup_nodes_info: list[tuple[str, int]] | None = None,
        last_failed_node_name: str | None = None,
    ) -> "_Cluster":
        try:
            if not self._knows_commands:
                await super().initialize(additional_startup_nodes_info, last_failed_node_name)
                self._knows_commands = True
            elif self._initialize:
                # redis-py would ask the first node for its commands each time, and fail every call
                # while that is the node which is away.
                await self.nodes_manager.initialize(last_failed_node_name=last_failed_node_name)
                self._initialize = False
        except CLUSTER_AWAY as error:
            raise redis.exceptions.ConnectionError(str(error)) from error
        return self

    def doubt(self) -> None:
        self._initialize = True

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().execute_command(*args, **kwargs)
        except CLUSTER_AWAY as error:
            raise redis.exceptions.ConnectionError(str(error)) from error

    def pipeline(
        self, transaction: Any | None = None, shard_hint: Any | None = None
    ) -> "_Pipeline":
        return _Pipeline(self, transaction)  # pyright: ignore[reportAbstractUsage] - redis-py's too


class _Pipeline(ClusterPipeline):
    async def execute(
        self, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        try:
            replies = await super().execute(raise_on_error, allow_redirections)
        except NODE_AWAY:
            self._doubt()
            raise
        except CLUSTER_AWAY as error:
            raise redis.exceptions.ConnectionError(str(error)) from error
        if any(isinstance(reply, NODE_AWAY) for reply in replies):
            self._doubt()
        return replies

    def _doubt(self) -> None:
        """Has the map read anew: without retries, redis-py forgets that after a pipeline."""
        cluster = self.cluster_client
        assert isinstance(cluster, _Cluster)
        cluster.doubt()
