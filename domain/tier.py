"""Which tier an account is in, and so how its tweets reach its followers."""

import math
from dataclasses import dataclass
from enum import IntEnum


class Tier(IntEnum):
    """The tiers; the numbers stand in the table `users` and in the protos."""

    NORMAL = 1
    INFLUENCER = 2
    CELEBRITY = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From how many followers on an account is in a tier, and the part of that it must keep."""

    influencer: int
    celebrity: int
    hysteresis: float


def next_tier(tier: Tier, follower_count: int, thresholds: Thresholds) -> Tier:
    """Returns the tier of an account that is in `tier` and now has `follower_count` followers.

    An account goes up at a tier's line and comes down only below `hysteresis` of it, so that one
    that hovers at a line does not change its tier with every follow.
    """
    while (line := rises_at(tier, thresholds)) is not None and follower_count >= line:
        tier = Tier(tier + 1)
    while (line := falls_below(tier, thresholds)) is not None and follower_count < line:
        tier = Tier(tier - 1)
    return tier


def rises_at(tier: Tier, thresholds: Thresholds) -> int | None:
    """Returns from how many followers on an account leaves `tier` upward; None for the highest."""
    if tier is Tier.CELEBRITY:
        return None
    return thresholds.influencer if tier is Tier.NORMAL else thresholds.celebrity


def falls_below(tier: Tier, thresholds: Thresholds) -> int | None:
    """Returns how many followers an account must keep to stay in `tier`; None for the lowest."""
    if tier is Tier.NORMAL:
        return None
    line = thresholds.influencer if tier is Tier.INFLUENCER else thresholds.celebrity
    return math.ceil(thresholds.hysteresis * line)
