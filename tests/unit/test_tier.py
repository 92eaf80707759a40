import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.tier import Thresholds, Tier, falls_below, next_tier, rises_at

THRESHOLDS = Thresholds(influencer=100, celebrity=1_000, hysteresis=0.9)


@pytest.mark.parametrize(
    ("tier", "followers", "expected"),
    [
        (Tier.NORMAL, 0, Tier.NORMAL),
        (Tier.NORMAL, 99, Tier.NORMAL),
        (Tier.NORMAL, 100, Tier.INFLUENCER),
        (Tier.NORMAL, 1_000, Tier.CELEBRITY),
        (Tier.INFLUENCER, 90, Tier.INFLUENCER),
        (Tier.INFLUENCER, 89, Tier.NORMAL),
        (Tier.INFLUENCER, 999, Tier.INFLUENCER),
        (Tier.INFLUENCER, 1_000, Tier.CELEBRITY),
        (Tier.CELEBRITY, 900, Tier.CELEBRITY),
        (Tier.CELEBRITY, 899, Tier.INFLUENCER),
        (Tier.CELEBRITY, 89, Tier.NORMAL),
    ],
)
def test_tier_rises_at_its_line_and_falls_below_a_part_of_it(
    tier: Tier, followers: int, expected: Tier
) -> None:
    assert next_tier(tier, followers, THRESHOLDS) == expected


@given(st.sampled_from(Tier), st.integers(0, 2_000), st.floats(0.01, 1))
def test_tier_that_was_reached_stays_while_nobody_comes_or_goes(
    tier: Tier, followers: int, hysteresis: float
) -> None:
    thresholds = Thresholds(100, 1_000, hysteresis)

    reached = next_tier(tier, followers, thresholds)

    assert next_tier(reached, followers, thresholds) == reached


@given(st.sampled_from(Tier), st.integers(0, 2_000))
def test_equal_lines_leave_out_the_middle_on_the_way_up(tier: Tier, followers: int) -> None:
    reached = next_tier(tier, followers, Thresholds(100, 100, 1.0))

    assert reached == (Tier.CELEBRITY if followers >= 100 else Tier.NORMAL)


@given(st.sampled_from(Tier), st.floats(0.01, 1))
def test_lines_are_where_the_tier_changes(tier: Tier, hysteresis: float) -> None:
    thresholds = Thresholds(100, 1_000, hysteresis)
    up, down = rises_at(tier, thresholds), falls_below(tier, thresholds)

    assert (up is None, down is None) == (tier is Tier.CELEBRITY, tier is Tier.NORMAL)
    if up is not None:
        assert next_tier(tier, up - 1, thresholds) <= tier < next_tier(tier, up, thresholds)
    if down is not None:
        assert next_tier(tier, down - 1, thresholds) < tier <= next_tier(tier, down, thresholds)
