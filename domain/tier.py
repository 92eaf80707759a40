"""Which tier an account is in, and so how its tweets reach its followers."""

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
    lines = {Tier.INFLUENCER: thresholds.influencer, Tier.CELEBRITY: thresholds.celebrity}
    while tier < Tier.CELEBRITY and follower_count >= lines[Tier(tier + 1)]:
        tier = Tier(tier + 1)
    while tier > Tier.NORMAL and follower_count < thresholds.hysteresis * lines[tier]:
        tier = Tier(tier - 1)
    return tier
