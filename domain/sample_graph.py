"""The sample world's people and follows: a follower graph as grown ones are, small and made up.

All of it follows from the `Random` that is handed in, so one seed gives one world.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Followers fall off as rank ** -FAME: a few whom most people follow, and a long tail.
FAME = 0.8
ZEAL = 0.6  # likewise how many each follows
HEAD = 3  # added to the rank, so that the first few are not everything

# Whom a first look meets: the most followed, in this order. The first one also follows many.
NAMED = (
    ("ada", "Ada", "Notes on the engine, with my own appendix."),
    ("grace", "Grace", "I keep a nanosecond in my purse."),
    ("alan", "Alan", "Can it think? Ask it nicely."),
    ("hedy", "Hedy", "Hopping frequencies since 1942."),
    ("katherine", "Katherine", "I check the numbers that the computer gives."),
    ("edsger", "Edsger", "Goto is not here."),
    ("dorothy", "Dorothy", "Crystals, mostly."),
    ("emmy", "Emmy", "What stays the same, and why."),
    ("mary", "Mary", "Fossils from the beach, in all weathers."),
    ("annie", "Annie", "Sorting stars."),
    ("george", "George", "True, false, and little else."),
    ("joan", "Joan", "Crosswords and other ciphers."),
)
_ADJECTIVES = _words(
    "amber brave calm clever cosy curious dapper early eager fair gentle happy humble jolly keen"
    " late lively lucky mellow merry mild modern neat nimble odd patient plain proud quick quiet"
    " rapid rosy rusty shy silent sunny swift tidy warm witty"
)
_NOUNS = _words(
    "acorn badger beetle birch bison cedar comet coral crane daisy dingo eagle ember falcon fern"
    " finch fox gecko harbor heron ibis juniper kite lark lemur lynx maple meadow moth newt otter"
    " owl panda pebble pine puffin quail raven robin sparrow tiger violet walnut willow wren yak"
)
_BIOS = (
    "Mostly here for the {noun} pictures.",
    "Bread, bicycles, and a {adjective} {noun}.",
    "Opinions are my {noun}'s.",
    "{adjective} by day, {noun} by night.",
    "",
)
_LOCATIONS = ("us", "us-ny", "us-ca", "fr", "de", "gb", "jp", "br", "in", "")
_LOCATION_WEIGHTS = (4, 8, 8, 4, 6, 6, 5, 5, 6, 12)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody to be."""

    username: str
    display_name: str
    bio: str
    location: str


def people(random: Random, count: int) -> list[Person]:
    """Returns `count` people with different usernames, the most followed first."""
    pairs = [(adjective, noun) for adjective in _ADJECTIVES for noun in _NOUNS]
    if count > len(NAMED) + len(pairs):
        raise ValueError(f"there are names for {len(NAMED) + len(pairs)} people")
    made: list[Person] = []
    for username, display_name, bio in NAMED[:count]:
        made.append(Person(username, display_name, bio, _location(random)))
    for adjective, noun in random.sample(pairs, count - len(made)):
        bio = random.choice(_BIOS).format(adjective=adjective, noun=noun).capitalize()
        name = f"{adjective} {noun}".title()
        made.append(Person(f"{adjective}_{noun}", name, bio, _location(random)))
    return made


def follows(random: Random, people: int, count: int) -> list[tuple[int, int]]:
    """Returns `count` different pairs (follower, followee) of ranks from 0, in a random order.

    1. Everybody is given how many to follow: a power law over a shuffled order, but rank 0, the
       sample's guide, comes first in it.
    2. Everybody draws that many others without repetition, weighted by rank ** -FAME: the items of
       the greatest log(u) / weight (Efraimidis and Spirakis, 2006).
    """
    if not 0 <= count <= people * (people - 1):
        raise ValueError(f"{people} people cannot follow {count} times")
    weights = [(rank + HEAD) ** -FAME for rank in range(people)]
    pairs: list[tuple[int, int]] = []
    for follower, degree in enumerate(_degrees(random, people, count)):
        draws = [
            (math.log(1.0 - random.random()) / weight, followee)
            for followee, weight in enumerate(weights)
            if followee != follower
        ]
        pairs += [(follower, followee) for _, followee in heapq.nlargest(degree, draws)]
    random.shuffle(pairs)
    return pairs


def fame(count: int) -> list[float]:
    """Returns cumulative weights of ranks: who is heard more says more."""
    return list(accumulate((rank + HEAD) ** -FAME for rank in range(count)))


def _degrees(random: Random, people: int, count: int) -> Sequence[int]:
    if people < 2:
        return [0] * people
    order = [0, *random.sample(range(1, people), people - 1)]
    raw = {rank: (place + HEAD) ** -ZEAL for place, rank in enumerate(order)}
    scale = count / sum(raw.values())
    degrees = [min(people - 1, round(raw[rank] * scale)) for rank in range(people)]
    # Rounding and the upper bound leave some over or some missing: one each, in turn.
    missing = count - sum(degrees)
    for rank in cycle(order):
        if not missing:
            return degrees
        step = 1 if missing > 0 else -1
        if 0 <= degrees[rank] + step <= people - 1:
            degrees[rank] += step
            missing -= step
    return degrees


def _location(random: Random) -> str:
    return random.choices(_LOCATIONS, weights=_LOCATION_WEIGHTS)[0]
