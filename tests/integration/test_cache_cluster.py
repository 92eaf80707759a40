"""The cache is a Valkey Cluster of three nodes: the same timelines, also while a node is away."""

import time
from collections.abc import AsyncGenerator

import pytest_asyncio

from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.valkey_clusters import OwnCluster, own_cluster
from tests.world import World, open_world


@pytest_asyncio.fixture
async def cluster() -> AsyncGenerator[OwnCluster]:
    async with own_cluster() as running:
        yield running


@pytest_asyncio.fixture
async def world(settings: Settings, cluster: OwnCluster) -> AsyncGenerator[World]:
    changed = {
        "valkey_url": cluster.url,
        "timeline_length": 6,
        "influencer_followers": 3,
        "celebrity_followers": 3,
    }
    async with open_world(settings.model_copy(update=changed)) as opened:
        yield opened


async def assert_right(world: World, *viewers: Account) -> None:
    for viewer in viewers:
        started = time.monotonic()
        page = await world.home_page(viewer, limit=4)
        assert time.monotonic() - started < 2.0, "a page is waited for too long"
        expected = await world.oracle(viewer)
        assert [tweet.id for tweet in page.tweets] == expected[:4]
        assert await world.home(viewer, limit=3) == expected


async def test_timelines_are_right_on_a_cluster_while_a_node_is_away_and_after(
    world: World, cluster: OwnCluster
):
    author, star, reader, *fans = await world.accounts.insert(9)
    readers = [reader, *fans]
    for viewer in readers:
        await world.follow(viewer, star)
        await world.follow(viewer, author)
    for _ in range(4):
        await world.post(author)
        await world.post(star)
    await world.drain()
    await assert_right(world, *readers, author, star)
    delivered = world.worker.deliveries
    tweet = await world.post(author)
    await world.drain()
    assert world.worker.deliveries > delivered, "nothing is pushed"
    assert (await world.home(reader))[0] == tweet.id
    windows = [await _count(cluster, number) for number in range(3)]
    assert sum(windows) >= len(readers), "the windows are not in the cluster"
    assert sorted(windows)[1] > 0, "all windows lie on one node"

    dead = max(range(3), key=lambda number: windows[number])
    cluster.nodes[dead].stop()
    await assert_right(world, *readers, author, star)
    await world.delete(author, tweet.id)
    await world.post(star)
    await world.unfollow(reader, author)

    await cluster.nodes[dead].start()
    await cluster.until_agreed()
    await world.drain()
    await assert_right(world, *readers, author, star)
    newer = await world.post(author)
    await world.drain()
    await assert_right(world, *readers, author, star)
    assert (await world.home(fans[0]))[0] == newer.id


async def _count(cluster: OwnCluster, number: int) -> int:
    """How many home timelines a node has."""
    return len(await cluster.nodes[number].command("KEYS", "timeline:*"))
