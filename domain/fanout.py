"""How a tweet reaches its readers.

The way is stamped on the tweet when it commits, from the tier that its author has then. Fan-out and
readers obey the stamp, so an author who crosses a line needs no coordination.
"""

from enum import IntEnum

from domain.ids import UserId
from domain.tier import Tier


class Delivery(IntEnum):
    """The numbers stand in the tweets table and in the events."""

    PUSH = 1  # into the followers' materialised timelines
    PULL = 2  # from the author's recent entries, when a timeline is read
    PUSH_ACTIVE = 3  # into the timelines of followers who read of late; the others' are dropped


def plan(tier: Tier) -> Delivery:
    """Returns the way that a tweet of an author of this tier goes."""
    match tier:
        case Tier.NORMAL:
            return Delivery.PUSH
        case Tier.INFLUENCER:
            return Delivery.PUSH_ACTIVE
        case Tier.CELEBRITY:
            return Delivery.PULL


def shard_of(user: UserId, shards: int) -> int:
    """Returns the logical shard that holds a user's timeline, follower entry and recent tweets.

    Snowflakes end in a sequence number that is mostly 0, so the bits are mixed first (the finaliser
    of splitmix64). Fixed for ever: timelines lie where this says.
    """
    mixed = (user ^ (user >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 31)) % shards
