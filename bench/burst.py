"""A simulated population, what its posts cost to deliver, and how long that takes.

Follower counts follow a bounded Pareto law: a density that falls with count ** -2.276, as Kwak and
others found for Twitter ("What is Twitter, a social network or a news media?", 2010), up to a
greatest count, from a least one that gives the mean: what accounts follow. Beside it stands one
question that changes everything, who posts: everybody alike, or those with many followers more.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.http2 import percentile

SEED = 20_261_121
CLASSES = 4_000  # of follower counts, at even steps of their logarithm
SIMULATED_S = 30.0
EVEN, LIKELY, BY_FOLLOWERS = 0.0, 0.25, 0.5
WEIGHTS = {
    EVEN: "all alike",
    LIKELY: "with followers, to the power 0.25",
    BY_FOLLOWERS: "with followers, to the power 0.5",
}


@dataclass(frozen=True, slots=True)
class Population:
    """Accounts by followers."""

    mean: float = 200.0
    """Followers, and so followees: the second design document's."""
    greatest: float = 150e6
    """The second document's largest account."""
    exponent: float = 1.276
    """Of the distribution function: that of the density, less one."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """How an author's posts go, by followers."""

    influencer: float = 10_000
    celebrity: float = 1_000_000
    active: float = 0.1
    """Followers of an influencer who read within the last hour, and so are pushed to."""


ALL_PUSHED = Tiers(influencer=float("inf"), celebrity=float("inf"))


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the posts of a population."""

    deliveries: float
    """For a post, in the mean."""
    largest: float
    pulled_part: float
    """Posts that reach some followers by being pulled only."""
    pulled_followees: float
    """Authors with pulled tweets among those whom an account follows, in the mean."""


@dataclass(frozen=True, slots=True)
class Delay:
    """From a post to its last delivery."""

    p50_s: float
    p99_s: float
    worst_s: float


def mean_of(exponent: float, least: float, greatest: float) -> float:
    """Returns the mean of a bounded Pareto law with this exponent, not 1."""
    ratio = (least / greatest) ** exponent
    return (
        exponent / (1 - exponent) * least
        * ((greatest / least) ** (1 - exponent) - 1) / (1 - ratio)
    )  # fmt: skip


def least_for(population: Population) -> float:
    """Returns the least follower count, which gives the mean, by halving the interval."""
    low, high = 1e-3, population.mean
    for _ in range(80):
        middle = (low + high) / 2
        if mean_of(population.exponent, middle, population.greatest) < population.mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def classes(population: Population) -> list[tuple[float, float]]:
    """Returns follower counts, and the part of the accounts that has about so many. Not random, so
    the few largest, on whom most depends, are there in their proportion."""
    least, exponent = least_for(population), population.exponent
    step = (population.greatest / least) ** (1 / CLASSES)
    whole = 1 - (least / population.greatest) ** exponent
    found: list[tuple[float, float]] = []
    for place in range(CLASSES):
        low = least * step**place
        part = ((least / low) ** exponent - (least / (low * step)) ** exponent) / whole
        found.append((mean_of(exponent, low, low * step), part))
    return found


def deliveries(followers: float, tiers: Tiers) -> float:
    """Returns how many windows fan-out writes for one post; the author's own is among them."""
    if followers >= tiers.celebrity:
        return 1.0
    if followers >= tiers.influencer:
        return 1.0 + followers * tiers.active
    return 1.0 + followers


def summarise(population: Population, tiers: Tiers, weight: float) -> Summary:
    """Returns the means over posts, where an author with n followers posts n**weight as often."""
    accounts = classes(population)
    weights = [part * count**weight for count, part in accounts]
    costs = [deliveries(count, tiers) for count, _ in accounts]
    large = [place for place, (count, _) in enumerate(accounts) if count >= tiers.influencer]
    # Whoever has n followers is n times as likely to be among somebody's followees.
    followed = sum(accounts[place][0] * accounts[place][1] for place in large)
    total = sum(weights)
    return Summary(
        deliveries=sum(w * c for w, c in zip(weights, costs, strict=True)) / total,
        largest=max(costs),
        pulled_part=sum(weights[place] for place in large) / total,
        pulled_followees=followed,
    )


def simulate(
    population: Population, tiers: Tiers, weight: float, *, posts_s: float, deliveries_s: float
) -> Delay:
    """Posts arrive at random moments; all shards together deliver at a rate, in order.

    Deliveries of a post are spread evenly over the shards by a hash, so all queues grow and shrink
    together, and one queue stands for all. In Chirp large authors take turns with small ones, so
    what a small author waits is less than this says, and the largest more."""
    draw = random.Random(SEED)  # noqa: S311 -- not a secret
    accounts = classes(population)
    costs = [deliveries(count, tiers) / deliveries_s for count, _ in accounts]
    weights = [part * count**weight for count, part in accounts]
    drawn = draw.choices(costs, weights=weights, k=int(posts_s * SIMULATED_S))
    now = free = 0.0
    delays: list[float] = []
    for cost in drawn:
        now += draw.expovariate(posts_s)
        free = max(now, free) + cost
        delays.append(free - now)
    return _delay(sorted(delays))


def _delay(ordered: Sequence[float]) -> Delay:
    return Delay(percentile(ordered, 0.5), percentile(ordered, 0.99), ordered[-1])
