"""What our connection to a Valkey Cluster does beyond what redis-py does, and on servers that
misbehave."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import hiredis
import pytest
import pytest_asyncio

from storage import cluster_nodes
from storage.cluster_nodes import NODES_MAX
from storage.valkey_cluster import REDIRECTS_MAX, ClusterConnection, open_cluster
from storage.valkey_connection import PENDING_MAX, pack
from tests.valkey_clusters import OwnCluster, key_on, own_cluster
from tests.valkeys import OwnValkey, own_valkey

TIMEOUT_S = 1.0
KEYS = [key_on(number) for number in range(3)]
Answer = Callable[[list[bytes]], bytes]


@pytest_asyncio.fixture
async def cluster() -> AsyncGenerator[OwnCluster]:
    async with own_cluster() as running:
        yield running


@pytest_asyncio.fixture
async def ours(cluster: OwnCluster) -> AsyncGenerator[ClusterConnection]:
    async with open_cluster(cluster.url, TIMEOUT_S) as opened:
        yield opened


async def test_commands_of_one_slot_keep_their_order_or_fail(
    cluster: OwnCluster, ours: ClusterConnection
):
    await cluster.half_move("half")
    kept, moved = ("GET", "{half}:kept"), ("GET", "{half}:moved")

    assert await ours.call([kept, moved]) == [b"2", b"1"]
    assert await ours.call([moved, moved]) == [b"1", b"1"]
    with pytest.raises(ConnectionError):
        await ours.call([moved, kept])


async def test_mget_over_slots_and_nodes_is_put_together(ours: ClusterConnection):
    keys = [f"tweet:{number}" for number in range(100)]
    await ours.call([("SET", key, number) for number, key in enumerate(keys) if number % 3])
    values = [str(number).encode() if number % 3 else None for number in range(100)]

    answers = await ours.call(
        [("GET", keys[1]), ("MGET", *keys), ("GET", keys[2]), ("MGET", *keys[::-1]), ("GET", "no")]
    )

    assert answers == [b"1", values, b"2", values[::-1], None]


async def test_mget_that_is_refused_in_part_is_refused(
    cluster: OwnCluster, ours: ClusterConnection
):
    await ours.call([("SET", key, 1) for key in KEYS])
    await cluster.nodes[1].command("ACL", "SETUSER", "default", "-mget")

    answers = await ours.call([("GET", KEYS[0]), ("MGET", *KEYS), ("GET", KEYS[2]), ("MGET",)])

    assert (answers[0], answers[2]) == (b"1", b"1")
    assert "NOPERM" in str(answers[1])
    assert isinstance(answers[3], Exception)


async def test_packed_commands_reach_their_nodes(ours: ClusterConnection):
    packed = pack([("SET", key, number) for number, key in enumerate(KEYS)])

    assert await ours.call_packed(packed, 3) == [b"OK"] * 3
    assert await ours.call_packed(pack([("MGET", *KEYS), ("ECHO", b"x")]), 2) == [
        [b"0", b"1", b"2"],
        b"x",
    ]


async def test_node_that_left_is_closed(cluster: OwnCluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster_nodes, "REFRESH_S", 0.05)
    async with open_cluster(cluster.url, TIMEOUT_S) as ours:
        await ours.call([("GET", key) for key in KEYS])
        assert await _clients(cluster.nodes[2]) == 1

        await cluster.move_all(2, cluster.nodes[0])

        deadline = time.monotonic() + 10
        while await _clients(cluster.nodes[2]):
            assert time.monotonic() < deadline, "its connection stays open"
            await asyncio.sleep(0.02)
        assert await ours.call([("GET", key) for key in KEYS]) == [None] * 3


async def _clients(node: OwnValkey) -> int:
    """How many connections of ours a node has: those of the tests carry a library's name."""
    listed = (await node.command("CLIENT", "LIST", "TYPE", "NORMAL")).decode()
    return sum("lib-name= " in line for line in listed.splitlines())


async def test_calls_that_wait_are_bounded(ours: ClusterConnection):
    calls = [ours.call([("GET", KEYS[number % 3])]) for number in range(PENDING_MAX)]

    with pytest.raises(ConnectionError):
        ours.call([("GET", KEYS[0])])

    assert await asyncio.gather(*calls) == [[None]] * PENDING_MAX
    assert await ours.call([("GET", KEYS[0])]) == [None]


async def test_closing_fails_the_calls_that_wait(cluster: OwnCluster):
    async with open_cluster(cluster.url, 5.0) as ours:
        waiting = ours.call([("BLPOP", KEYS[0], 0)])
        await ours.call([("GET", KEYS[1])])

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(waiting, 2)


async def test_valkey_that_is_no_cluster_fails_calls_and_not_the_process():
    async with own_valkey() as node:
        url = node.url.replace("redis:", "redis+cluster:")
        async with open_cluster(url, 0.1) as ours:
            assert not ours.connected
            with pytest.raises(ConnectionError):
                ours.call([("GET", "key")])


@asynccontextmanager
async def talking(answer: Answer) -> AsyncGenerator[tuple[int, str]]:
    """A node that answers what it is told to; yields its port, and the URL of its cluster."""

    serving: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(writer)
        parser = hiredis.Reader()
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                parser.feed(data)
                while command := parser.gets():
                    writer.write(b"+OK\r\n" if command[0] == b"SELECT" else answer(command))
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield port, f"redis+cluster://127.0.0.1:{port}/0"
    finally:
        listening.close()
        for writer in serving:
            writer.transport.abort()
        await listening.wait_closed()
        await asyncio.sleep(0)  # for the tasks that read to end


def all_slots_at(*ports: int) -> bytes:
    """The reply to CLUSTER SLOTS, one slot for each port but the last, which has all others."""
    ranges = [(n, n, port) for n, port in enumerate(ports[:-1])]
    ranges.append((len(ports) - 1, 16_383, ports[-1]))
    entries = (
        b"*3\r\n:%d\r\n:%d\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$1\r\nx\r\n" % each for each in ranges
    )
    return b"*%d\r\n" % len(ranges) + b"".join(entries)


@pytest.mark.parametrize("kind", [b"MOVED", b"ASK"])
async def test_redirections_in_a_circle_end(kind: bytes):
    asked = 0
    ports: list[int] = []

    def answer(command: list[bytes]) -> bytes:
        nonlocal asked
        if command[0] == b"CLUSTER":
            return all_slots_at(ports[0])
        if command[0] == b"ASKING":
            return b"+OK\r\n"
        asked += 1
        return b"-%s 1 :%d\r\n" % (kind, ports[0])  # without a host: the node's own

    async with talking(answer) as (port, url):
        ports.append(port)
        async with open_cluster(url, TIMEOUT_S) as ours:
            with pytest.raises(ConnectionError):
                await ours.call([("GET", "key")])

    assert asked == 1 + REDIRECTS_MAX


@pytest.mark.parametrize(
    "reply", [all_slots_at(*range(1, NODES_MAX + 2)), b"*1\r\n:5\r\n", b"+no\r\n"]
)
async def test_map_that_cannot_be_is_not_used(reply: bytes):
    async with (
        talking(lambda _: reply) as (_, url),
        open_cluster(url, 0.1) as ours,
    ):
        with pytest.raises(ConnectionError):
            ours.call([("GET", "key")])
