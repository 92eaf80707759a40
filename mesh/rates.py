"""What the RPC layer asks of rate limits. `servers/rate_limits.py` is what answers."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from domain.ids import UserId
from domain.rate import Kind

Admit = Callable[[UserId], Awaitable[None] | None]
"""Counts one call of a user. Returns None where it may go on at once, else what is to be awaited
before it does; either may raise domain.errors.RateLimited."""


class Rates(Protocol):
    """The limits of one process."""

    def gate(self, kind: Kind) -> Admit:
        """Returns what counts the calls of one kind; asked once for each method."""
        ...
