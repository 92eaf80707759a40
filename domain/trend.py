"""The formulas of trends, and the rules of their lists.

A tag at a place has buckets: bucket i is the number of different authors who used it in the minute
that began i minutes ago, this minute being 0. Everything follows from 120 buckets.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from domain import text
from domain.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORLD = "world"
HOUR = 60
DECAY = 0.95  # a minute; half of a use's weight is gone after 13.5 minutes
WEIGHTS = [DECAY**minutes_ago for minutes_ago in range(HOUR)]
# From nothing, a tag's velocity is infinite above this, and else 0: a few uses are no speed.
FROM_NOTHING = 10

LIMIT_DEFAULT, LIMIT_MAX = 10, 50


# One number, or an array of them: the formulas below are written for both.
Numbers = TypeVar("Numbers", float, "NDArray[np.float64]")


class Order(Enum):
    """What a list is ranked by."""

    SCORE = "score"
    RISING = "rising"


class Listed(NamedTuple):
    """A tag in a list. A named tuple, because rankings make tens of thousands a second."""

    name: str
    tag: str
    score: float
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    velocity: float
    authors: int
    surprise: float


class Statistic(Enum):
    """How surprise is measured: see `surprise`."""

    CHI_SQUARED = "chi_squared"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class Rules:
    """What may trend, and how surprise is measured. `Settings` documents each."""

    authors_min: int
    place_tags_min: int
    statistic: Statistic
    baseline_min: float
    overdispersion: float
    surprise_min: float


class Kind(Enum):
    """What became of a tag in a list."""

    ENTERED = 1
    LEFT = 2
    MOVED = 3


class Change(NamedTuple):
    """A tag that entered (no old rank), left (no new rank) or moved; ranks from 1, 0 for none."""

    kind: Kind
    old_rank: int
    new_rank: int
    name: str


def score(buckets: Sequence[int]) -> float:
    """Returns the weighted sum of this hour's buckets."""
    return math.fsum(count * weight for count, weight in zip(buckets, WEIGHTS, strict=False))


def velocity(this_hour: int, last_hour: int) -> float:
    """Returns the growth of this hour over the last."""
    if last_hour == 0:
        return math.inf if this_hour > FROM_NOTHING else 0.0
    return (this_hour - last_hour) / last_hour


def baseline(last_hour: Numbers, rules: Rules) -> Numbers:
    """Returns what a tag's own past makes one expect of this hour: the last hour, and a little for
    a tag that has none."""
    return last_hour + (last_hour < rules.baseline_min) * (rules.baseline_min - last_hour)


def surprise(this_hour: Numbers, expected: Numbers, rules: Rules) -> Numbers:
    """Returns how surprising this hour is, 0 where it is not above what was expected.

    CHI_SQUARED: (observed - expected)^2 / (expected + k expected^2). Pearson's statistic, as
    Mastodon ranks by (`app/models/trends/tags.rb`; k = 0), with the variance of a negative binomial
    instead of a Poisson distribution: people copy each other, so the hours of one tag differ by a
    share of their size, which a Poisson variance takes for news each time (J. Hilbe, Negative
    Binomial Regression, 2011). POISSON: observed ln(observed / expected) - (observed - expected).
    The exponent of Chernoff's bound on the chance that a Poisson variable comes so high
    (M. Mitzenmacher and E. Upfal, Probability and Computing, 2005, theorem 4.4).
    """
    above = (this_hour > expected) * (this_hour - expected)
    if rules.statistic is Statistic.POISSON:
        return (expected + above) * _log1p(above / expected) - above
    return above**2 / (expected + rules.overdispersion * expected**2)


@dataclass(frozen=True, slots=True)
class Explained:
    """All that follows from the 120 buckets of a tag at a place."""

    this_hour: int
    last_hour: int
    score: float
    velocity: float
    baseline: float
    surprise: float
    formula: str


def explain(buckets: Sequence[int], authors: int, rules: Rules) -> Explained:
    """Returns what follows from 120 buckets, and the formulas with the numbers filled in."""
    this, last = sum(buckets[:HOUR]), sum(buckets[HOUR:])
    expected = baseline(float(last), rules)
    surprising = surprise(float(this), expected, rules)
    terms = [f"{count}*0.95^{i}" for i, count in enumerate(buckets[:HOUR]) if count]
    if last:
        speed = f"({this} - {last}) / {last} = {velocity(this, last):.9g}"
    else:
        above = "over" if this > FROM_NOTHING else "not over"
        speed = f"{velocity(this, last):g} (last hour is 0, {this} is {above} {FROM_NOTHING})"
    if rules.statistic is Statistic.POISSON:
        surprised = f"{this} ln({this} / {expected:g}) - ({this} - {expected:g})"
    else:
        surprised = (
            f"({this} - {expected:g})^2 / "
            f"({expected:g} + {rules.overdispersion:g} * {expected:g}^2)"
        )
    if this <= expected:
        surprised = f"not above {expected:g}"
    formula = (
        f"score = {' + '.join(terms) or '0'} = {score(buckets):.9g}; velocity = {speed}; "
        f"baseline = max({last}, {rules.baseline_min:g}) = {expected:g}; "
        f"surprise = {surprised} = {surprising:.9g}, needed to rise = {rules.surprise_min:g}; "
        f"different authors = {authors}, needed = {rules.authors_min}"
    )
    return Explained(
        this, last, score(buckets), velocity(this, last), expected, surprising, formula
    )


def choose_place(slug: str, tags_at: Callable[[str], int], rules: Rules) -> str:
    """Returns the place whose lists answer: this one, or where too few tags trend there (by score:
    that few rise does not make a place sparse) its parent, or the world."""
    place = slug
    while place != WORLD and tags_at(place) < rules.place_tags_min:
        place = text.parent_location(place) or WORLD
    return place


def changes(old: Sequence[str], new: Sequence[str]) -> list[Change]:
    """Returns what changed between two lists of names: those that left by their old rank, then
    those that entered or moved by their new one. Empty where nothing did."""
    old_ranks = _ranks(old)
    new_ranks = _ranks(new)
    left = [
        Change(Kind.LEFT, rank, 0, name)
        for name, rank in old_ranks.items()
        if name not in new_ranks
    ]
    came = [
        Change(
            Kind.MOVED if name in old_ranks else Kind.ENTERED, old_ranks.get(name, 0), rank, name
        )
        for name, rank in new_ranks.items()
        if old_ranks.get(name) != rank
    ]
    return left + came


def order(value: str) -> Order:
    """Returns the order by its name; the default for the empty one."""
    try:
        return Order(value or Order.SCORE.value)
    except ValueError:
        raise InvalidArgument.of("order", "must be `score` or `rising`") from None


def place(value: str) -> str:
    """Returns a place's slug; `world` for the empty one."""
    return WORLD if value in ("", WORLD) else text.location("location", value)


def limit(value: int | None) -> int:
    """Returns how many trends to answer; the default for None."""
    if value is None:
        return LIMIT_DEFAULT
    if value < 1:
        raise InvalidArgument.of("limit", "must be at least 1")
    return min(value, LIMIT_MAX)


def _log1p(value: Numbers) -> Numbers:
    if isinstance(value, float):
        return math.log1p(value)
    import numpy as np  # only who has arrays needs it

    return np.log1p(value)


def _ranks(names: Sequence[str]) -> Mapping[str, int]:
    return {name: rank for rank, name in enumerate(names, start=1)}
