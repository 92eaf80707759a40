"""What happens in a history: made from its seed alone, so that the same seed gives the same plan.

Choices are numbers; the player takes them modulo what there is when the step comes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

CHOICE_MAX = 1_000_000
# A short history is compared before a later drop of a timeline has mended what went wrong.
LENGTHS = (60, 120, 240, 500)
STEPS_PER_FAULT = 40
LAST_FAULTS = ("rush", "stutter", "kill a worker")
LAST_STEPS = 15
LAST_SHARE = 0.7
RELATING = ("follow", "unfollow", "block", "unblock", "mute", "unmute")

# How often each operation comes, relative to the others.
OPERATIONS: Mapping[str, float] = {
    "post": 18,
    "reply": 8,
    "quote": 4,
    "retweet": 11,
    "undo retweet": 5,
    "like": 4,
    "unlike": 2,
    "delete": 6,
    "follow": 8,
    "unfollow": 5,
    "block": 1.5,
    "unblock": 2,
    "mute": 1.5,
    "unmute": 2,
    "read": 20,
    "read on": 4,  # with a cursor that was saved before
    "read whole": 2,
}

# Killed is with -9. A frozen process goes on later, as one that the system paused. Processes that
# stutter are paused again and again for a moment each, so that what rarely overlaps does.
FAULTS = {
    "kill a worker": 5,
    "kill a server": 4,
    "stutter": 8,
    "rush": 4,  # the cache is emptied, all read at once, and while timelines are made, pauses
    "freeze a worker": 3,
    "freeze a server": 2,
    "empty the cache": 2,
    "kill the cache": 2,
    "kill the event log": 2,
    "lose the event log": 0.5,
    "kill PostgreSQL": 0.7,
    "rebuild": 2,  # all timelines, by the command of that name
    "let readers go cold": 2,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of somebody, on something or somebody."""

    operation: str
    actor: int
    choice: int
    detail: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Something breaks when so many steps have begun."""

    after_steps: int
    what: str
    choice: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A history."""

    seed: int
    follow_share: float
    """How many of all pairs follow each other at first."""
    first_posts: int
    """Posts before the first step, delivered when it comes."""
    steps: list[Step]
    faults: list[Fault]


def make(seed: int) -> Plan:
    """Returns the plan of a seed."""
    random = Random(seed)
    share, posts = random.uniform(0.2, 0.7), random.randrange(10, 60)
    steps = random.choice(LENGTHS)
    # In some histories people hardly change whom they follow, in some they do little else.
    restless = random.choice((0.1, 1.0, 1.0, 3.0))
    weights = {name: w * restless if name in RELATING else w for name, w in OPERATIONS.items()}
    faults = _faults(random, steps, 1 + steps // STEPS_PER_FAULT)
    return Plan(seed, share, posts, operations(random, weights, steps), faults)


def operations(random: Random, weights: Mapping[str, float], count: int) -> list[Step]:
    """Returns random steps."""
    names = random.choices(list(weights), list(weights.values()), k=count)
    return [Step(name, *(random.randrange(CHOICE_MAX) for _ in range(3))) for name in names]


def _faults(random: Random, steps: int, count: int) -> list[Fault]:
    names = random.choices(list(FAULTS), list(FAULTS.values()), k=count)
    times = sorted(random.randrange(steps - LAST_STEPS) for _ in range(count))
    if random.random() < LAST_SHARE:
        # What it breaks, nothing mends before all is compared.
        names[-1], times[-1] = random.choice(LAST_FAULTS), steps - LAST_STEPS
    return [
        Fault(time, name, random.randrange(CHOICE_MAX))
        for time, name in zip(times, names, strict=True)
    ]
