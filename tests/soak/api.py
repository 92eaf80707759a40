"""Chirp as its clients see it, through the gateway. What fails is counted, and nothing is raised.

`rest.py` speaks REST as browsers do, `grpc_api.py` gRPC, which costs a client a tenth as much.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.soak.model import Outcome, Shown

TIMEOUT_S = 12.0  # longer than the gateway waits for a server


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token."""

    id: int
    token: str


@dataclass(frozen=True, slots=True)
class Post:
    """A tweet to be."""

    operation: str
    """"post", "reply" or "quote"."""
    content: str
    request_id: str
    target: int
    """What is replied to or quoted, 0 for neither."""


@dataclass(frozen=True, slots=True)
class Posted:
    """How posting ended; the tweet's id where it was done."""

    outcome: Outcome
    tweet: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a home timeline."""

    tweets: Sequence[Shown]
    next_cursor: str
    asked_at: float
    """When it was asked for, in the event loop's time."""
    flaw: str
    """What is wrong with it whatever is on it."""


@dataclass(slots=True)
class Counts:
    """What became of all calls."""

    calls: Counter[str] = field(default_factory=Counter[str])
    """By operation."""
    refused: Counter[str] = field(default_factory=Counter[str])
    """By operation and reason."""
    failed: Counter[str] = field(default_factory=Counter[str])
    """By operation and status or error."""


class Api(Protocol):
    """Calls of anybody."""

    @property
    def flaws(self) -> Sequence[str]:
        """Answers that are wrong whatever happens beside them."""
        ...

    async def post(self, person: Person, post: Post) -> Posted:
        """Posts once."""
        ...

    async def delete(self, person: Person, tweet: int) -> Outcome:
        """Deletes a tweet."""
        ...

    async def change(self, operation: str, person: Person, other: int) -> Outcome:
        """Follows, blocks or mutes an account, likes or retweets a tweet, or takes that back."""
        ...

    async def home_page(self, person: Person, *, limit: int, cursor: str = "") -> Page | None:
        """Reads a page of a home timeline; None where that failed."""
        ...


def page(tweets: Sequence[Shown], next_cursor: str, has_more: bool, limit: int, at: float) -> Page:
    """Returns a page, and what is wrong with its size and its end."""
    flaw = ""
    if has_more is not bool(next_cursor):
        flaw = f"hasMore is {has_more} with the cursor {next_cursor!r}"
    elif has_more and len(tweets) != limit:
        flaw = f"a page of {limit} has {len(tweets)} entries and is not the last"
    return Page(tweets, next_cursor, at, flaw)
