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
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import hiredis

from storage import cluster_commands
from storage.cluster_commands import Split
from storage.cluster_nodes import Address, ClusterNodes
from storage.valkey_connection import (
    PENDING_MAX,
    Command,
    HotConnection,
    open_connection,
)

SCHEME_SUFFIX = "+cluster"
REDIRECTS_MAX = 5  # of one call; a cluster that settles needs one or two


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

    def __init__(self, url: str, timeout_s: float, gather_turns: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[list[Any]]] = set()
        self.nodes = ClusterNodes(node_url(url), timeout_s, gather_turns)

    @property
    def connected(self) -> bool:
        """Whether the map is known, and all of its nodes are connected."""
        return self.nodes.connected

    def call(self, commands: Sequence[Command]) -> "Awaitable[list[Any]]":
        """As the shared connection's, over all nodes. What is sent is sent before it returns."""
        if not self.nodes.owners:
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
            owner = self.nodes.owners[slot]
            if owner is None:
                self.nodes.doubt()
                raise ConnectionError(f"no node of the Valkey Cluster owns slot {slot}")
            by_owner.setdefault(owner, []).append(place)
        return [
            self._send_to(address, places, [split.commands[place] for place in places])
            for address, places in by_owner.items()
        ]

    def _send_to(self, address: Address, places: list[int], commands: list[Command]) -> _Sent:
        try:
            return _Sent(address, places, self.nodes.connection(address).call(commands))
        except ConnectionError:
            self.nodes.doubt()  # another node may have taken its slots
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
                self.nodes.doubt()
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
            self.nodes.doubt()
            raise ConnectionError(f"the Valkey Cluster cannot answer now: {reply}")
        if kind not in ("MOVED", "ASK"):
            return None
        slot, _, target = rest.partition(" ")
        host, _, port = target.rpartition(":")
        # A node that does not know a name for the other one leaves it out: it is its own.
        address = Address(host if host not in ("", "?") else asked.host, int(port))
        if kind == "MOVED":
            self.nodes.move(int(slot), address)
        return _Redirect(place, address, kind == "ASK")

    async def _follow(self, split: Split, redirects: Iterable[_Redirect]) -> list[_Sent]:
        by_address: dict[Address, list[_Redirect]] = {}
        for redirect in redirects:
            by_address.setdefault(redirect.address, []).append(redirect)
        await self.nodes.reach(by_address)
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


@asynccontextmanager
async def open_cluster(
    url: str, timeout_s: float, *, gather_turns: int = 1
) -> AsyncGenerator[ClusterConnection]:
    """Opens a connection to the cluster that has a node at `url`; as `open_connection`."""
    cluster = ClusterConnection(url, timeout_s, gather_turns)
    keeper = asyncio.create_task(cluster.nodes.keep())
    # The map, and then the nodes that it names.
    with suppress(TimeoutError):
        await asyncio.wait_for(cluster.nodes.first_connected.wait(), timeout_s * 2)
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
async def open_hot(
    url: str, timeout_s: float, *, gather_turns: int = 1
) -> AsyncGenerator[HotConnection]:
    """Opens the form that the URL asks for; `gather_turns` as for `open_connection`. The URL says
    it, and not the server, which may be away when a process starts."""
    if is_cluster(url):
        async with open_cluster(url, timeout_s, gather_turns=gather_turns) as cluster:
            yield cluster
    else:
        async with open_connection(url, timeout_s, gather_turns=gather_turns) as connection:
            yield connection
