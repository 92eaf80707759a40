"""What redis-py and our own connections promise in a Valkey Cluster whose slots move and whose
nodes die."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from redis.crc import key_slot

from tests.contract.valkey_clients import CLIENTS, Client, Open, until_answering
from tests.valkey_clusters import OwnCluster, key_on, own_cluster

TIMEOUT_S = 1.0
KEYS = [key_on(number) for number in range(3)]

both = pytest.mark.parametrize(
    "open_client", [each for _, each in CLIENTS], ids=[name for name, _ in CLIENTS]
)


@pytest_asyncio.fixture
async def cluster() -> AsyncGenerator[OwnCluster]:
    async with own_cluster() as running:
        yield running


class Counting:
    """Increments keys until it is told to end, and notes how often that was answered."""

    def __init__(self, client: Client, keys: list[str]) -> None:
        self._client = client
        self.answered = dict.fromkeys(keys, 0)
        self._ends = asyncio.Event()
        self._tasks = [asyncio.create_task(self._count(key)) for key in keys]

    async def _count(self, key: str) -> None:
        while not self._ends.is_set():
            self.answered[key] += 1
            assert await self._client.call([("INCRBY", key, 1)]) == [self.answered[key]]

    async def more(self, rounds: int = 20) -> None:
        """Waits for so many further answers of each key."""
        wanted = {key: count + rounds for key, count in self.answered.items()}
        while any(self.answered[key] < count for key, count in wanted.items()):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0)

    async def end(self) -> None:
        self._ends.set()
        await asyncio.gather(*self._tasks)


@both
async def test_slot_that_moves_loses_and_repeats_no_call(cluster: OwnCluster, open_client: Open):
    # redis-py sends ASKING and what it is for by any two of its connections: one caller only.
    callers = 1 if open_client is CLIENTS[0][1] else 20
    keys = [f"{{moving}}:{number}" for number in range(callers)]
    slot = key_slot(b"moving")
    source, target = cluster.pair_of(keys[0])
    async with open_client(cluster.url, TIMEOUT_S) as client:
        counting = Counting(client, keys)
        await counting.more()

        await cluster.begin_move(slot, source, target)
        await counting.more()
        await cluster.move_keys(slot, source, target)
        await counting.more()
        await cluster.end_move(slot, target)
        await counting.more()
        await counting.end()

        assert await target.command("CLUSTER", "COUNTKEYSINSLOT", slot) == callers


@both
async def test_nodes_slots_that_move_at_once_lose_and_repeat_no_call(
    cluster: OwnCluster, open_client: Open
):
    async with open_client(cluster.url, TIMEOUT_S) as client:
        counting = Counting(client, KEYS)
        await counting.more()

        await cluster.move_all(2, cluster.nodes[0])
        await counting.more()
        await counting.end()


@both
async def test_node_that_dies_fails_its_calls_in_time_and_no_others(
    cluster: OwnCluster, open_client: Open
):
    async with open_client(cluster.url, TIMEOUT_S) as client:
        await client.call([("INCRBY", key, 7) for key in KEYS])
        cluster.nodes[0].stop()

        for _ in range(20):
            started = time.monotonic()
            with pytest.raises(ConnectionError):
                await client.call([("GET", KEYS[0])])
            assert time.monotonic() - started < 2 * TIMEOUT_S
            assert await until_answering(client, ("GET", KEYS[1]), ("GET", KEYS[2])) == [b"7", b"7"]
        await cluster.nodes[0].start()

        assert await until_answering(client, *(("GET", key) for key in KEYS)) == [None, b"7", b"7"]


@both
async def test_replica_that_takes_over_is_found(cluster: OwnCluster, open_client: Open):
    await cluster.add_replica(cluster.nodes[1])
    async with open_client(cluster.url, TIMEOUT_S) as client:
        await client.call([("INCRBY", key, 7) for key in KEYS])
        assert await cluster.nodes[1].command("WAIT", 1, 5_000) == 1

        cluster.nodes[1].stop()

        expected = [b"7", b"7", b"7"]
        assert await until_answering(client, *(("GET", key) for key in KEYS)) == expected


@both
async def test_slot_without_a_node_fails_its_calls_and_no_others(
    cluster: OwnCluster, open_client: Open
):
    async with open_client(cluster.url, TIMEOUT_S) as client:
        await client.call([("INCRBY", key, 7) for key in KEYS])
        for node in cluster.nodes:
            await node.command("CLUSTER", "DELSLOTS", key_slot(KEYS[1].encode()))

        for _ in range(3):
            with pytest.raises(ConnectionError):
                await client.call([("GET", KEYS[1])])
            assert await until_answering(client, ("GET", KEYS[0]), ("GET", KEYS[2])) == [b"7", b"7"]


@both
async def test_keys_on_both_sides_of_a_move_are_not_read_together(
    cluster: OwnCluster, open_client: Open
):
    async with open_client(cluster.url, TIMEOUT_S) as client:
        await cluster.half_move("half")

        with pytest.raises(ConnectionError):
            await client.call([("MGET", "{half}:kept", "{half}:moved")])
