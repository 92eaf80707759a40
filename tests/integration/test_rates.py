"""The counter in Valkey that all replicas share."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from domain.rate import Limit
from mesh.settings import Settings
from storage import valkey, valkey_cluster
from storage.rates import AWAY, RateStore
from storage.valkey import Valkey
from tests.valkeys import own_valkey

LONG = Limit(50, 86_400)
DEADLINE_S = 20.0


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[tuple[RateStore, Valkey]]:
    """A replica's store, with connections of its own."""
    async with (
        valkey.connect(settings.valkey_url, settings) as cache,
        valkey_cluster.open_hot(settings.valkey_url, settings.valkey_timeout_s) as hot,
    ):
        yield RateStore(hot, cache), cache


async def test_replicas_that_charge_at_the_same_time_share_one_quota(settings: Settings):
    async with AsyncExitStack() as stack:
        replicas = [(await stack.enter_async_context(opened(settings)))[0] for _ in range(3)]

        standings = await asyncio.gather(
            *(replica.charge("post", 7, LONG) for _ in range(40) for replica in replicas)
        )
        other = await replicas[0].charge("post", 8, LONG)
        other_policy = await replicas[0].charge("like", 7, LONG)

    assert sum(standing.allowed for standing in standings) == LONG.quota
    assert other.allowed
    assert other_policy.allowed


async def test_a_refusal_says_when_to_come_back_and_charges_nothing(settings: Settings):
    limit = Limit(3, 3)
    async with opened(settings) as (store, _):
        while (standing := await store.charge("post", 7, limit)).allowed:
            pass
        asked = time.monotonic()
        wait_s = standing.wait_us / 1_000_000

        refused = 0
        async with asyncio.timeout(DEADLINE_S):
            while not (await store.charge("post", 7, limit)).allowed:
                refused += 1
                await asyncio.sleep(0.01)
        waited_s = time.monotonic() - asked

    assert refused
    assert 0 < wait_s <= 1
    # Valkey's clock and ours: they run alike, and are read one after the other.
    assert waited_s >= wait_s - 0.005


async def test_what_was_done_already_is_charged_beyond_the_quota(settings: Settings):
    limit = Limit(10, 86_400)
    async with opened(settings) as (store, _):
        within, beyond = await store.settle("read", [(1, 9), (2, 14)], limit)
        last = await store.charge("read", 1, limit)
        refused = await store.charge("read", 1, limit)

    assert within.wait_us == 0
    assert last.allowed
    assert not refused.allowed
    # Four too many, and the one that would come next.
    assert 4.9 * limit.interval_us < beyond.wait_us <= 5 * limit.interval_us


async def test_keys_go_by_themselves(settings: Settings):
    async with opened(settings) as (store, cache):
        await store.charge("post", 7, Limit(10, 100))

        left_ms = await cache.pttl("rate:post:{7}")

    assert 9_000 < left_ms <= 10_000


async def test_a_clock_that_was_set_back_keeps_nobody_out_for_ever(settings: Settings):
    limit = Limit(10, 100)
    async with opened(settings) as (store, cache):
        seconds, _ = await cache.time()
        await cache.set("rate:post:{7}", (seconds + 86_400) * 1_000_000)
        await cache.set("rate:post:{8}", "nonsense")

        standing = await store.charge("post", 7, limit)
        nonsense = await store.charge("post", 8, limit)

    assert not standing.allowed
    assert standing.wait_us <= 2 * 100_000_000
    assert nonsense.allowed


async def test_a_valkey_that_lost_everything_gets_the_function_again(settings: Settings):
    async with opened(settings) as (store, cache):
        await store.charge("post", 7, LONG)
        await cache.function_flush()

        standings = await asyncio.gather(*(store.charge("post", 7, LONG) for _ in range(5)))

    assert [standing.allowed for standing in standings] == [True] * 5


async def test_a_valkey_that_is_away_raises_what_callers_know(settings: Settings):
    async with own_valkey() as cache:
        changed = settings.model_copy(update={"valkey_url": cache.url})
        async with opened(changed) as (store, _):
            assert (await store.charge("post", 7, LONG)).allowed
            cache.stop()

            with pytest.raises(AWAY):
                await store.charge("post", 7, LONG)
