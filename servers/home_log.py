"""The newest tweets of the event log, kept in a timeline server's memory by author: a home stream
that comes back after a short break is served from here, and not by reading the log again."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from domain import stream_token
from domain.ids import TweetId, UserId
from domain.timeline import Entry
from eventlog import positions
from servers.log_tail import Reach, Seen, Spot

KEPT_MAX = 20_000  # about 400 bytes each


class Behind(Protocol):
    """Something that a stream has got behind."""

    at: int
    """When it happened, in seconds since 1970."""

    def reach(self) -> Reach:
        """Returns how far the log was read."""
        ...

    def text(self) -> str:
        """Returns the beginning of the resume tokens of streams that are just behind it."""
        ...


@dataclass(slots=True, eq=False)
class Sighting:
    """A tweet's creation, seen in the log. One object for all streams that deliver it."""

    spot: Spot
    entry: Entry
    sequence: int
    at: int
    """When it happened, in seconds since 1970."""
    trace: str = ""
    """The `traceparent` that its event brought along; empty where it is not sampled."""
    number: int = 0
    """Its place in the order in which this server saw events."""
    _base: "Base | None" = None

    def reach(self) -> Reach:
        """See Behind; made once."""
        return self._as_base().reach()

    def text(self) -> str:
        """See Behind; made once."""
        return self._as_base().text()

    def _as_base(self) -> "Base":
        if self._base is None:
            self._base = Base(self.spot.reach(), self.at)
        return self._base


class Base:
    """How far a server had read at some time, or a stream."""

    def __init__(self, reach: Reach, at: int) -> None:
        self._reach = reach
        self.at = at
        self._text = ""

    def reach(self) -> Reach:
        """See Behind."""
        return self._reach

    def text(self) -> str:
        """See Behind; made once."""
        if not self._text:
            reach = self._reach
            self._text = stream_token.encode_reach(
                at=self.at, positions=reach.positions, floors=reach.floors
            )
        return self._text


class HomeLog:
    """The newest sightings. `start` says behind which positions it has everything."""

    def __init__(self, begin: Sequence[str]) -> None:
        self.start = list(begin)
        self._all: deque[Sighting] = deque()
        self._by_author: dict[UserId, deque[Sighting]] = {}
        self._number = 0

    def add(self, sighting: Sighting) -> None:
        """Adds what was seen last; forgets the oldest where there is no room."""
        self._number += 1
        sighting.number = self._number
        self._all.append(sighting)
        self._by_author.setdefault(sighting.entry[1], deque()).append(sighting)
        if len(self._all) > KEPT_MAX:
            self._forget(self._all.popleft())

    def covers(self, after: Sequence[str]) -> bool:
        """Whether it has everything behind these positions."""
        return all(
            positions.order(start) <= positions.order(at)
            for start, at in zip(self.start, after, strict=True)
        )

    def newer(self, after: Sequence[str], authors: Iterable[UserId]) -> list[Sighting]:
        """Returns what these authors posted behind these positions, in the order of seeing."""
        known = [positions.order(at) for at in after]
        found: list[Sighting] = []
        for author in authors:
            for sighting in reversed(self._by_author.get(author, ())):
                spot = sighting.spot
                if positions.order(spot.position) <= known[spot.partition]:
                    break  # an author's events are all in one partition, in order
                found.append(sighting)
        found.sort(key=lambda sighting: sighting.number)
        return found

    def _forget(self, sighting: Sighting) -> None:
        self.start[sighting.spot.partition] = sighting.spot.position
        of_author = self._by_author[sighting.entry[1]]
        of_author.popleft()
        if not of_author:
            del self._by_author[sighting.entry[1]]


def sighting_of(seen: Seen) -> Sighting | None:
    """Returns the sighting of a tweet's creation; None for any other event."""
    if not seen.event.HasField("tweet_created"):
        return None
    entry = seen.event.tweet_created.entry
    other = entry.original_author_id or entry.replied_author_id
    return Sighting(
        seen.spot,
        (
            TweetId(entry.tweet_id),
            UserId(entry.author_id),
            TweetId(entry.original_id),
            UserId(other),
        ),
        seen.event.sequence,
        seen.event.occurred_at.seconds,
        seen.event.trace,
    )
