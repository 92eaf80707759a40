"""The nodes of a Valkey Cluster: which of them owns a slot, and a shared connection to each.

The map of the slots is read from any node at start, then every `REFRESH_S`, and at once where
somebody doubts it. Nodes that own nothing any more are closed.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mesh.tasks import raise_if_cancelled
from storage.cluster_commands import SLOTS
from storage.valkey_connection import SharedConnection

NODES_MAX = 128  # connections of one process; each may have PENDING_MAX calls
REFRESH_S = 10.0  # nodes that joined or left without anybody noticing
REFRESH_REST_S = 0.25  # between two readings of the map, however often it proves wrong
UNNEEDED_MAX = 2  # maps without a node until it is closed: it may be the target of an ASK

log = logging.getLogger(__name__)


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


@dataclass(slots=True)
class _Node:
    connection: SharedConnection
    keeper: "asyncio.Task[None]"
    unneeded: int = 0


class ClusterNodes:
    """See the module. Bounded; what goes beyond raises ConnectionError."""

    def __init__(self, url: str, timeout_s: float, gather_turns: int) -> None:
        """`url` is that of any node."""
        self._url = urlsplit(url)
        # Kept also where the map knows it by another name: it is the way back into a cluster all
        # of whose addresses have changed.
        self._seed = Address(self._url.hostname or "127.0.0.1", self._url.port or 6379)
        self._timeout_s = timeout_s
        self._gather_turns = gather_turns
        self._nodes: dict[Address, _Node] = {}
        self._stale = asyncio.Event()
        self.owners: list[Address | None] = []
        """By slot; empty until the map was read."""
        self.first_connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the map is known, and all of its nodes are connected."""
        nodes = [self._nodes.get(owner) if owner else None for owner in set(self.owners)]
        return bool(nodes) and all(node and node.connection.connected for node in nodes)

    def doubt(self) -> None:
        """Has the map read anew."""
        self._stale.set()

    def move(self, slot: int, address: Address) -> None:
        """Notes that a slot has another owner."""
        self.owners[slot] = address
        self.doubt()  # slots rarely move alone

    def connection(self, address: Address) -> SharedConnection:
        """Returns the connection to a node, which may not be connected yet."""
        return self._open(address).connection

    async def reach(self, addresses: Iterable[Address]) -> None:
        """Gives new nodes time to connect; one that does not fails the calls that need it."""
        opened = [self._open(address).connection.first_connected for address in addresses]
        waiting = [connected.wait() for connected in opened if not connected.is_set()]
        if waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*waiting), self._timeout_s)

    async def keep(self) -> None:
        """Keeps the map; until cancelled."""
        told = ""
        try:
            while True:
                self._stale.clear()
                try:
                    await self._refresh()
                    self.first_connected.set()
                    told = ""
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stale.wait(), REFRESH_S)
                except ConnectionError as error:
                    if str(error) != told:
                        log.warning("the map of the Valkey Cluster is not read: %s", error)
                    told = str(error)
                raise_if_cancelled()
                await asyncio.sleep(REFRESH_REST_S)
        finally:
            keepers = [node.keeper for node in self._nodes.values()]
            for address in list(self._nodes):
                self._close(address)
            await asyncio.gather(*keepers, return_exceptions=True)

    def _open(self, address: Address) -> _Node:
        """Returns a node, which may not be connected yet."""
        node = self._nodes.get(address)
        if node is None:
            if len(self._nodes) >= NODES_MAX:
                raise ConnectionError(f"the Valkey Cluster has more than {NODES_MAX} nodes")
            connection = SharedConnection(
                self._url_of(address), self._timeout_s, self._gather_turns
            )
            node = _Node(connection, asyncio.create_task(connection.keep()))
            self._nodes[address] = node
        node.unneeded = 0
        return node

    def _url_of(self, address: Address) -> str:
        credentials, separator, _ = self._url.netloc.rpartition("@")
        host = f"[{address.host}]" if ":" in address.host else address.host
        netloc = f"{credentials}{separator}{host}:{address.port}"
        return self._url._replace(netloc=netloc).geturl()

    async def _refresh(self) -> None:
        await self.reach([self._seed])
        owners = await self._fetch_owners()
        known = {owner for owner in owners if owner is not None}
        if len(known) >= NODES_MAX:
            raise ConnectionError(f"the Valkey Cluster has more than {NODES_MAX} nodes")
        for address, node in list(self._nodes.items()):
            if address not in known and address != self._seed:
                node.unneeded += 1
                if node.unneeded > UNNEEDED_MAX or len(self._nodes) + len(known) > NODES_MAX:
                    self._close(address)
        await self.reach(known)
        self.owners = owners

    async def _fetch_owners(self) -> list[Address | None]:
        for address, node in list(self._nodes.items()):
            try:
                (reply,) = await node.connection.call([("CLUSTER", "SLOTS")])
            except ConnectionError:
                continue
            # Asked last next time: a node that was cut off from the others tells an old map.
            if self._nodes.get(address) is node:
                self._nodes[address] = self._nodes.pop(address)
            if isinstance(reply, Exception):
                raise ConnectionError(f"no node of a Valkey Cluster: {reply}")
            try:
                return _owners(reply, address)
            except (TypeError, ValueError) as error:
                raise ConnectionError("no map of a Valkey Cluster") from error
        raise ConnectionError("no node of the Valkey Cluster is connected")

    def _close(self, address: Address) -> None:
        self._nodes.pop(address).keeper.cancel()


def _owners(reply: list[Any], asked: Address) -> list[Address | None]:
    """Returns the owner of each slot, from the reply to CLUSTER SLOTS."""
    owners: list[Address | None] = [None] * SLOTS
    for first, last, (host, port, *_), *_ in reply:
        name = host.decode() if host not in (None, b"", b"?") else asked.host
        owners[first : last + 1] = [Address(name, port)] * (last + 1 - first)
    return owners
