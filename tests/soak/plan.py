"""What happens in a history: made from its seed alone, so that the same seed gives the same plan.

Choices are numbers; the player takes them modulo what there is when the step comes.
"""

from dataclasses import dataclass
from random import Random

CHOICE_MAX = 1_000_000

# How often each operation comes, relative to the others.
OPERATIONS = {
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

# Killed is with -9. A frozen process goes on later, as one that the system paused.
FAULTS = {
    "kill a worker": 5,
    "kill a server": 4,
    "freeze a worker": 3,
    "freeze a server": 2,
    "empty the cache": 2,
    "kill the cache": 2,
    "kill the event log": 2,
    "lose the event log": 0.5,
    "kill PostgreSQL": 0.7,
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


def make(seed: int, *, steps: int, faults: int) -> Plan:
    """Returns the plan of a seed."""
    random = Random(seed)
    share, posts = random.uniform(0.2, 0.7), random.randrange(10, 60)
    return Plan(seed, share, posts, operations(random, steps), _faults(random, steps, faults))


def operations(random: Random, count: int) -> list[Step]:
    """Returns random steps."""
    names = random.choices(list(OPERATIONS), list(OPERATIONS.values()), k=count)
    return [Step(name, *(random.randrange(CHOICE_MAX) for _ in range(3))) for name in names]


def _faults(random: Random, steps: int, count: int) -> list[Fault]:
    names = random.choices(list(FAULTS), list(FAULTS.values()), k=count)
    times = sorted(random.randrange(steps) for _ in range(count))
    return [
        Fault(time, name, random.randrange(CHOICE_MAX))
        for time, name in zip(times, names, strict=True)
    ]
