from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import fanout
from domain.fanout import Delivery
from domain.ids import UserId
from domain.tier import Tier


@pytest.mark.parametrize(
    ("tier", "delivery"),
    [
        (Tier.NORMAL, Delivery.PUSH),
        (Tier.INFLUENCER, Delivery.PUSH_ACTIVE),
        (Tier.CELEBRITY, Delivery.PULL),
    ],
)
def test_each_tier_has_its_way(tier: Tier, delivery: Delivery):
    assert fanout.plan(tier) is delivery


def test_deliveries_have_the_numbers_that_stand_in_the_database():
    assert (Delivery.PUSH, Delivery.PULL, Delivery.PUSH_ACTIVE) == (1, 2, 3)


@given(st.integers(1, 2**63 - 1), st.integers(1, 4096))
def test_shard_is_one_of_those_there_are(user: int, shards: int):
    assert 0 <= fanout.shard_of(UserId(user), shards) < shards


@pytest.mark.parametrize("shards", [2, 4, 16, 64])
@pytest.mark.parametrize("step", [1, 2**12, 2**22, 1000 << 22])
def test_ids_that_differ_in_few_bits_spread_evenly(shards: int, step: int):
    """Snowflakes of one worker, small ids, and ids minted a second apart."""
    counts = Counter(fanout.shard_of(UserId(1 + n * step), shards) for n in range(shards * 200))

    assert len(counts) == shards
    assert max(counts.values()) < 300
    assert min(counts.values()) > 120


def test_shards_lie_where_they_always_lay():
    """Fixed for ever: another answer here would lose every timeline."""
    places = [fanout.shard_of(UserId(user), 4) for user in (1, 2, 3, 12, 7_654_321, 2**62 + 1)]

    assert places == [1, 2, 0, 0, 2, 2]
