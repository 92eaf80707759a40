"""How a home timeline as served differs from what it must be, and what comparing many found."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from domain.ids import UserId
from ops.homes import Home


class Way(Enum):
    """How an entry came into a home timeline, as far as that can be told afterwards."""

    PUSHED = "pushed"  # by fan-out, into the reader's list
    PULLED = "pulled"  # of an author who is not pushed, merged when the reader came
    OWN = "own"  # the reader's
    REBUILT = "rebuilt"  # there already when a read made the list
    PAST_THE_LIST = "past the list"  # below its end, from PostgreSQL


@dataclass(frozen=True, slots=True)
class Difference:
    """A home timeline that is not what it must be."""

    viewer: UserId
    expected: int
    served: int
    missing: list[int]
    extra: list[int]
    position: int
    """The first place where the two are not the same, from 0."""
    flaw: str


@dataclass(slots=True)
class Report:
    """What was found."""

    accounts: int = 0
    entries: int = 0
    pages: int = 0
    ways: Counter[Way] = field(default_factory=Counter[Way])
    differences: list[Difference] = field(default_factory=list[Difference])
    repaired: list[Difference] = field(default_factory=list[Difference])
    """What differed, and does no longer."""
    repaired_ever: int = 0
    """So many timelines were repaired by this run and all before."""


def compare(viewer: UserId, expected: Sequence[int], home: Home, newest: int) -> Difference | None:
    """Returns how a timeline differs from the oracle's, up to the tweet `newest`; None where it
    does not."""
    wanted = [tweet_id for tweet_id in expected if tweet_id <= newest]
    served = [tweet_id for tweet_id in home.ids if tweet_id <= newest]
    if wanted == served and not home.flaw:
        return None
    pairs = enumerate(zip(wanted, served, strict=False))
    position = next(
        (place for place, (one, other) in pairs if one != other), min(len(wanted), len(served))
    )
    return Difference(
        viewer=viewer,
        expected=len(wanted),
        served=len(served),
        missing=sorted(set(wanted) - set(served), reverse=True),
        extra=sorted(set(served) - set(wanted), reverse=True),
        position=position,
        flaw=home.flaw,
    )
