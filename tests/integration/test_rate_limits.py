"""The limits as servers hold them, several replicas over one Valkey."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from domain.errors import RateLimited
from domain.ids import UserId
from domain.rate import Kind, Limit
from mesh import catalogue
from mesh.metrics import Metric
from mesh.rates import Admit
from mesh.settings import Settings
from servers import rate_limits
from servers.rate_limits import RateLimits
from storage import valkey, valkey_cluster
from storage.rates import RateStore
from storage.valkey import Valkey
from tests.valkeys import own_valkey

QUOTA, UNSETTLED = 100, 20
_users = itertools.count(1)


def limited(settings: Settings, **changed: Any) -> Settings:
    """Quotas that refill too slowly to matter in a test."""
    values = {
        "rate_limits": True,
        "rate_read": f"{QUOTA}/864000",
        "rate_post": "5/864000",
        "rate_unsettled_max": UNSETTLED,
        "valkey_timeout_s": 10.0,
        **changed,
    }
    return settings.model_copy(update=values)


@asynccontextmanager
async def replicas(
    settings: Settings, count: int, clock: Callable[[], float] | None = None
) -> AsyncGenerator[list[RateLimits]]:
    async with AsyncExitStack() as stack:
        made: list[RateLimits] = []
        for _ in range(count):
            cache = await stack.enter_async_context(valkey.connect(settings.valkey_url, settings))
            hot = await stack.enter_async_context(
                valkey_cluster.open_hot(settings.valkey_url, settings.valkey_timeout_s)
            )
            arguments = () if clock is None else (clock,)
            made.append(RateLimits(RateStore(hot, cache), settings, *arguments))
        yield made


async def read(admit: Admit, user: UserId) -> None:
    waiting = admit(user)
    if waiting is not None:
        await waiting


async def passes(admit: Admit, user: UserId) -> bool:
    try:
        await read(admit, user)
    except RateLimited:
        return False
    return True


async def counted(limits: RateLimits, metric: Metric, kind: Kind) -> float:
    (sample,) = [
        each
        for each in await limits.collect()
        if each.metric is metric and each.labels == (kind.value,)
    ]
    assert isinstance(sample.value, float | int)
    return sample.value


async def until_refused(admit: Admit, user: UserId, at_once: int) -> int:
    """Reads, so many at a time, until all of them are refused; returns how many passed."""
    passed = 0
    async with asyncio.timeout(30):
        while True:
            results = await asyncio.gather(*(passes(admit, user) for _ in range(at_once)))
            passed += sum(results)
            if not any(results):
                return passed


@pytest.mark.parametrize("at_once", [1, 7, 64])
async def test_two_replicas_let_through_the_quota_and_at_most_what_is_unsettled(
    settings: Settings, at_once: int
):
    user = UserId(next(_users))
    async with replicas(limited(settings), 2) as (first, second):
        passed = await asyncio.gather(
            until_refused(first.gate(Kind.READ), user, at_once),
            until_refused(second.gate(Kind.READ), user, at_once),
        )

        await first.settle()
        await second.settle()
        again = [await passes(each.gate(Kind.READ), user) for each in (first, second)]

    assert QUOTA <= sum(passed) <= QUOTA + 2 * UNSETTLED
    assert again == [False, False]


async def test_reads_that_were_let_through_beyond_the_quota_have_to_refill(settings: Settings):
    changed = limited(settings)
    limit = changed.rate(Kind.READ)
    user = UserId(next(_users))
    async with replicas(changed, 2) as made:
        passed = [await until_refused(each.gate(Kind.READ), user, 64) for each in made]
        for each in made:
            await each.settle()

        standing = await made[0].store.charge("read", user, limit)

    beyond = sum(passed) - QUOTA
    assert beyond >= 1
    assert beyond * limit.interval_us < standing.wait_us <= (beyond + 1) * limit.interval_us


async def test_a_replica_refuses_without_asking_until_the_quota_has_refilled(settings: Settings):
    now = 0.0
    user = UserId(next(_users))
    async with replicas(limited(settings), 1, lambda: now) as (limits,), calls(settings) as made:
        admit = limits.gate(Kind.READ)
        passed = await until_refused(admit, user, 1)
        await limits.settle()  # what was read while the last answer was awaited
        before = await made()
        with pytest.raises(RateLimited) as refused:
            await read(admit, user)

        now += refused.value.retry_after_s - 1
        early = await passes(admit, user)
        asked = await made() - before
        now += 1
        late = await passes(admit, user)

    assert passed >= QUOTA
    assert (early, late, asked) == (False, True, 0)


async def test_a_replica_asks_valkey_once_for_many_reads(settings: Settings):
    async with replicas(limited(settings), 1) as (limits,), calls(settings) as made:
        user = UserId(next(_users))
        await limits.store.charge("other", 1, Limit(1, 1))  # loads the function
        admit, before = limits.gate(Kind.READ), await made()

        waits = [admit(user) for _ in range(UNSETTLED // 2 - 1)]
        silent = await made() - before
        await limits.settle()
        settled = await made() - before
        await limits.settle()

        assert waits == [None] * (UNSETTLED // 2 - 1), "a read waits for nothing"
        assert (silent, settled, await made() - before) == (0, 1, 1)


async def test_many_readers_are_settled_in_bounded_calls(settings: Settings):
    async with replicas(limited(settings), 2) as (limits, other):
        users = [UserId(next(_users)) for _ in range(2 * rate_limits.SETTLE_AT_ONCE + 1)]
        for user in users:
            assert limits.gate(Kind.READ)(user) is None
        await limits.settle()

        left = [await until_refused(other.gate(Kind.READ), users[place], 8) for place in (0, -1)]

    assert all(QUOTA - 1 <= passed <= QUOTA - 1 + UNSETTLED for passed in left)


async def test_writes_are_exact_over_all_replicas(settings: Settings):
    user = UserId(next(_users))
    async with replicas(limited(settings), 2) as made:
        results = await asyncio.gather(
            *(passes(each.gate(Kind.POST), user) for _ in range(10) for each in made)
        )
        with pytest.raises(RateLimited) as refused:
            await read(made[0].gate(Kind.POST), user)
        others = [
            await passes(made[0].gate(kind), user)
            for kind in (Kind.LIKE, Kind.FOLLOW, Kind.READ, Kind.ACCOUNT)
        ]
        refusals = sum([await counted(each, catalogue.RATES_REFUSED, Kind.POST) for each in made])

    assert sum(results) == 5
    assert others == [True] * 4
    assert refusals == 16
    assert (refused.value.policy, refused.value.quota) == ("post", 5)
    # One comes back each two days.
    assert 172_000 < refused.value.retry_after_s <= 172_800


async def test_an_absent_valkey_lets_everything_through_and_a_metric_says_so(settings: Settings):
    async with own_valkey() as cache:
        user = UserId(next(_users))
        changed = limited(settings, valkey_url=cache.url, valkey_timeout_s=2.0)
        async with replicas(changed, 1) as (limits,):
            post, read = limits.gate(Kind.POST), limits.gate(Kind.READ)
            assert [await passes(post, user) for _ in range(6)] == [True] * 5 + [False]
            assert not await counted(limits, catalogue.RATES_UNCHECKED, Kind.POST)
            cache.stop()

            assert all([await passes(post, user) for _ in range(20)])
            assert all([await passes(read, user) for _ in range(10 * QUOTA)])

            assert await counted(limits, catalogue.RATES_UNCHECKED, Kind.POST) == 20
            assert await counted(limits, catalogue.RATES_UNCHECKED, Kind.READ) >= (
                10 * QUOTA - UNSETTLED
            )


async def test_limits_that_are_off_count_nothing(settings: Settings):
    user = UserId(next(_users))
    async with replicas(limited(settings, rate_limits=False), 1) as (limits,):
        assert [limits.gate(Kind.POST)(user) for _ in range(20)] == [None] * 20


@asynccontextmanager
async def calls(settings: Settings) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """How many functions the cache has carried out."""
    async with valkey.connect(settings.valkey_url, settings) as cache:

        async def made() -> int:
            return (await _statistics(cache)).get("cmdstat_fcall", {}).get("calls", 0)

        yield made


async def _statistics(cache: Valkey) -> dict[str, Any]:
    return await cache.info("commandstats")
