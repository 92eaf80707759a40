"""The shared connection's form for a Valkey Cluster: one shared connection to each primary.

 1. The map says which node owns a slot. It is read from any node at start, and anew where a reply
    or a lost connection says that it may be wrong.
 2. A call is split by node, and its replies are put back in the order of its commands. An MGET
    whose keys lie in several slots is split by slot, which the server would refuse.
 3. MOVED corrects the map and is followed; ASK is followed with ASKING. Redirected commands were
    not carried out, so nothing is done twice.

Guarantees: those of the shared connection, and: the commands of one slot are carried out in the
order of the call, or the call raises ConnectionError. So it does where a slot that is being moved
answers one command here and redirects an earlier one, where a node asks to try again, where the
cluster is down, and after too many redirections. A node that is away fails the calls that need it,
and no others. Like every call that fails, it may have been carried out in part.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import hiredis

from mesh.tasks import raise_if_cancelled
from storage import cluster_commands
from storage.cluster_commands import Split
from storage.valkey_connection import (
    PENDING_MAX,
    Command,
    HotConnection,
    SharedConnection,
    open_connection,
)

SCHEME_SUFFIX = "+cluster"
NODES_MAX = 128  # connections of one process; each may have PENDING_MAX calls
REDIRECTS_MAX = 5  # of one call; a cluster that settles needs one or two
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


class _Sent(NamedTuple):
    address: Address
    places: list[int]
    """Where each reply belongs; -1 for the reply to an ASKING."""
    replies: "asyncio.Future[list[Any]]"


class _Redirect(NamedTuple):
    place: int
    address: Address
    asking: bool


class ClusterConnection:
    """See the module. Made by `open_cluster`."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = urlsplit(node_url(url))
        # Kept also where the map knows it by another name: it is the way back into a cluster all
        # of whose addresses have changed.
        self._seed = Address(self._url.hostname or "127.0.0.1", self._url.port or 6379)
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[Address, _Node] = {}
        self._owners: list[Address | None] = []
        self._running: set[asyncio.Task[list[Any]]] = set()
        self._stale = asyncio.Event()
        self.first_connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the map is known, and all of its nodes are connected."""
        nodes = [self._nodes.get(owner) if owner else None for owner in set(self._owners)]
        return bool(nodes) and all(node and node.connection.connected for node in nodes)

    def call(self, commands: Sequence[Command]) -> "Awaitable[list[Any]]":
        """As the shared connection's, over all nodes. What is sent is sent before it returns."""
        if not self._owners:
            raise ConnectionError("the nodes of the Valkey Cluster are not known")
        if len(self._running) >= PENDING_MAX:
            raise ConnectionError("too many calls wait for Valkey")
        split = cluster_commands.split(commands)
        task = self._loop.create_task(self._answered(split, self._send(split)))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def call_packed(self, packed: bytes, count: int) -> "Awaitable[list[Any]]":
        """The same for `count` commands that were packed before. They are taken apart again."""
        return self.call(cluster_commands.unpack(packed, count))

    def _ended(self, task: "asyncio.Task[list[Any]]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that went away need not look

    def _send(self, split: Split) -> list[_Sent]:
        by_owner: dict[Address, list[int]] = {}
        for place, slot in enumerate(split.slots):
            owner = self._owners[slot]
            if owner is None:
                self._stale.set()
                raise ConnectionError(f"no node of the Valkey Cluster owns slot {slot}")
            by_owner.setdefault(owner, []).append(place)
        return [
            self._send_to(address, places, [split.commands[place] for place in places])
            for address, places in by_owner.items()
        ]

    def _send_to(self, address: Address, places: list[int], commands: list[Command]) -> _Sent:
        try:
            return _Sent(address, places, self._open(address).connection.call(commands))
        except ConnectionError:
            self._stale.set()  # another node may have taken its slots
            raise

    async def _answered(self, split: Split, sent: list[_Sent]) -> list[Any]:
        """Steps 2 and 3, from the replies on."""
        replies: list[Any] = [None] * len(split.commands)
        redirects = await self._take(split, sent, replies)
        for _ in range(REDIRECTS_MAX):
            if not redirects:
                return split.joined(replies)
            redirects = await self._take(split, await self._follow(split, redirects), replies)
        if redirects:
            raise ConnectionError("the Valkey Cluster redirects in circles")
        return split.joined(replies)

    async def _take(
        self, split: Split, sent: Iterable[_Sent], replies: list[Any]
    ) -> list[_Redirect]:
        """Puts replies into their places; returns what is to be sent elsewhere, in order."""
        redirects: list[_Redirect] = []
        moving: dict[int, Address] = {}
        for part in sent:
            try:
                answers = await part.replies
            except ConnectionError:
                self._stale.set()
                raise
            for place, reply in zip(part.places, answers, strict=True):
                if place < 0:
                    continue
                redirect = self._redirect(place, reply, part.address)
                slot = split.slots[place]
                here_now = part.address if redirect is None else redirect.address
                if redirect is None:
                    replies[place] = reply
                    if slot not in moving:
                        continue
                else:
                    redirects.append(redirect)
                if moving.setdefault(slot, here_now) != here_now:
                    # All commands of a slot are in one part: here their order would be lost.
                    raise ConnectionError("a slot answers in part while it is being moved")
        return sorted(redirects)

    def _redirect(self, place: int, reply: Any, asked: Address) -> _Redirect | None:
        if not isinstance(reply, hiredis.ReplyError):
            return None
        kind, _, rest = str(reply).partition(" ")
        if kind in ("TRYAGAIN", "CLUSTERDOWN"):
            self._stale.set()
            raise ConnectionError(f"the Valkey Cluster cannot answer now: {reply}")
        if kind not in ("MOVED", "ASK"):
            return None
        slot, _, target = rest.partition(" ")
        host, _, port = target.rpartition(":")
        # A node that does not know a name for the other one leaves it out: it is its own.
        address = Address(host if host not in ("", "?") else asked.host, int(port))
        if kind == "MOVED":
            self._owners[int(slot)] = address
            self._stale.set()  # slots rarely move alone
        return _Redirect(place, address, kind == "ASK")

    async def _follow(self, split: Split, redirects: Iterable[_Redirect]) -> list[_Sent]:
        by_address: dict[Address, list[_Redirect]] = {}
        for redirect in redirects:
            by_address.setdefault(redirect.address, []).append(redirect)
        await self._until_connected([self._open(address) for address in by_address])
        sent: list[_Sent] = []
        for address, group in by_address.items():
            places: list[int] = []
            commands: list[Command] = []
            for redirect in group:
                if redirect.asking:
                    places.append(-1)
                    commands.append(("ASKING",))
                places.append(redirect.place)
                commands.append(split.commands[redirect.place])
            sent.append(self._send_to(address, places, commands))
        return sent

    # The nodes and the map

    def _open(self, address: Address) -> _Node:
        """Returns a node, which may not be connected yet."""
        node = self._nodes.get(address)
        if node is None:
            if len(self._nodes) >= NODES_MAX:
                raise ConnectionError(f"the Valkey Cluster has more than {NODES_MAX} nodes")
            connection = SharedConnection(self._url_of(address), self._timeout_s)
            node = _Node(connection, asyncio.create_task(connection.keep()))
            self._nodes[address] = node
        node.unneeded = 0
        return node

    def _url_of(self, address: Address) -> str:
        credentials, separator, _ = self._url.netloc.rpartition("@")
        host = f"[{address.host}]" if ":" in address.host else address.host
        netloc = f"{credentials}{separator}{host}:{address.port}"
        return self._url._replace(netloc=netloc).geturl()

    async def _until_connected(self, nodes: Iterable[_Node]) -> None:
        """Gives new nodes time to connect; one that does not fails the calls that need it."""
        waiting = [node.connection.first_connected for node in nodes]
        waiting = [connected for connected in waiting if not connected.is_set()]
        if waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    asyncio.gather(*(connected.wait() for connected in waiting)), self._timeout_s
                )

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

    async def _refresh(self) -> None:
        await self._until_connected([self._open(self._seed)])
        owners = await self._fetch_owners()
        known = {owner for owner in owners if owner is not None}
        if len(known) >= NODES_MAX:
            raise ConnectionError(f"the Valkey Cluster has more than {NODES_MAX} nodes")
        for address, node in list(self._nodes.items()):
            if address not in known and address != self._seed:
                node.unneeded += 1
                if node.unneeded > UNNEEDED_MAX or len(self._nodes) + len(known) > NODES_MAX:
                    self._close(address)
        await self._until_connected([self._open(address) for address in known])
        self._owners = owners

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
    owners: list[Address | None] = [None] * cluster_commands.SLOTS
    for first, last, (host, port, *_), *_ in reply:
        name = host.decode() if host not in (None, b"", b"?") else asked.host
        owners[first : last + 1] = [Address(name, port)] * (last + 1 - first)
    return owners


@asynccontextmanager
async def open_cluster(url: str, timeout_s: float) -> AsyncGenerator[ClusterConnection]:
    """Opens a connection to the cluster that has a node at `url`; as `open_connection`."""
    cluster = ClusterConnection(url, timeout_s)
    keeper = asyncio.create_task(cluster.keep())
    # The map, and then the nodes that it names.
    with suppress(TimeoutError):
        await asyncio.wait_for(cluster.first_connected.wait(), timeout_s * 2)
    try:
        yield cluster
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper


def is_cluster(url: str) -> bool:
    """Whether a URL names a cluster: `redis+cluster://` or `rediss+cluster://`."""
    return url.partition(":")[0].endswith(SCHEME_SUFFIX)


def node_url(url: str) -> str:
    """Returns the URL of the one node that a cluster's URL names."""
    return url.replace(SCHEME_SUFFIX + ":", ":", 1)


@asynccontextmanager
async def open_hot(url: str, timeout_s: float) -> AsyncGenerator[HotConnection]:
    """Opens the form that the URL asks for. The URL says it, and not the server, which may be away
    when a process starts."""
    if is_cluster(url):
        async with open_cluster(url, timeout_s) as cluster:
            yield cluster
    else:
        async with open_connection(url, timeout_s) as connection:
            yield connection
