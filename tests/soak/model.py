"""What a client of Chirp knows for sure while many of its calls are under way, and what a page may
therefore not show. Pure: times are given in seconds of any clock that only grows.

A call that failed may have been done or not, and of two calls that overlap either may have been the
last: then nothing is known, until a call that stands alone is answered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

PROMISED_S = 2.0  # what was deleted, blocked, muted or unfollowed is gone from pages within

Relation = tuple[str, int, int]
"""What holds between two: ("follow" | "block" | "mute" | "retweet" | "like", who, whom or what)."""


class Outcome(Enum):
    """How a call ended."""

    DONE = "done"
    REFUSED = "refused"  # nothing was changed
    FAILED = "failed"  # nobody knows


@dataclass(slots=True)
class Register:
    """What is known of one relation: `value`, surely since `since`; None where nothing is."""

    value: bool | None = None
    since: float = float("-inf")
    under_way: int = 0
    overlapped: bool = False
    before: tuple[bool | None, float] = (None, 0.0)

    def begin(self) -> None:
        """A call that may change it leaves."""
        self.overlapped |= self.under_way > 0
        if self.under_way == 0:
            self.before = (self.value, self.since)
        self.under_way += 1
        self.value = None

    def end(self, outcome: Outcome, wanted: bool, now: float) -> None:
        """Its answer comes."""
        self.under_way -= 1
        if not self.overlapped:
            if outcome is Outcome.DONE:
                self.value, self.since = wanted, now
            elif outcome is Outcome.REFUSED:
                self.value, self.since = self.before
        if self.under_way == 0:
            self.overlapped = False

    def sure(self, wanted: bool, since: float) -> bool:
        """Whether it was `wanted` all the time from `since` to now."""
        return self.value is wanted and self.since <= since


@dataclass(frozen=True, slots=True)
class Shown:
    """A tweet as it stands on a page; 0 where there is none."""

    id: int
    author: int
    original: int = 0
    original_author: int = 0
    reply_to: int = 0
    quoted: int = 0
    quoted_author: int = 0


@dataclass(slots=True)
class Model:
    """Everything known. `initial` is what every relation is that was never touched; None where
    that is not known."""

    registers: dict[Relation, Register] = field(default_factory=dict[Relation, Register])
    authors: dict[int, int] = field(default_factory=dict[int, int])
    """Tweet -> author, of the posts that were acknowledged."""
    deleting: set[int] = field(default_factory=set[int])
    """Tweets that somebody tried to delete."""
    deleted: dict[int, float] = field(default_factory=dict[int, float])
    """Tweet -> when its deletion was acknowledged."""
    changes: dict[int, int] = field(default_factory=dict[int, int])
    """Viewer -> how many calls began that change what the viewer may see."""

    def register(self, relation: Relation) -> Register:
        """Returns the register of a relation."""
        if relation not in self.registers:
            self.registers[relation] = Register()
        return self.registers[relation]

    def begin(self, relation: Relation, wanted: bool) -> None:
        """A call leaves that is to make a relation hold, or not hold."""
        kind, one, other = relation
        for touched in _touched(relation, wanted):
            self.register(touched).begin()
        for viewer in (one, other) if kind == "block" else (one,):
            self.changes[viewer] = self.changes.get(viewer, 0) + 1

    def end(self, relation: Relation, outcome: Outcome, wanted: bool, now: float) -> None:
        """Its answer comes."""
        for touched in _touched(relation, wanted):
            self.register(touched).end(outcome, wanted and touched == relation, now)

    def hidden(self, viewer: int, other: int, since: float) -> bool:
        """Whether the viewer surely may see nothing of another since a time."""
        known = self.registers
        return viewer != other and any(
            relation in known and known[relation].sure(True, since)
            for relation in (
                ("block", viewer, other),
                ("block", other, viewer),
                ("mute", viewer, other),
            )
        )

    def gone(self, tweet: int, since: float) -> bool:
        """Whether a tweet was surely deleted before a time."""
        return self.deleted.get(tweet, float("inf")) <= since

    def flaws(self, viewer: int, page: Sequence[Shown], asked_at: float) -> Iterator[str]:
        """Says what is on a page that was asked for at a time, and should not be. Call it when the
        answer is there, before anything else is begun."""
        since = asked_at - PROMISED_S
        ids = [shown.id for shown in page]
        if ids != sorted(set(ids), reverse=True):
            yield f"out of order or twice: {ids}"
        for shown in page:
            for reason in self._flaws_of(viewer, shown, since):
                yield f"{shown} {reason}"

    def known_relations(self) -> Iterator[tuple[Relation, bool]]:
        """What the database must say now."""
        for relation, register in self.registers.items():
            if register.value is not None:
                yield relation, register.value

    def _flaws_of(self, viewer: int, shown: Shown, since: float) -> Iterator[str]:
        if self.gone(shown.id, since) or self.gone(shown.original, since):
            yield "is deleted"
        if self.gone(shown.quoted, since):
            yield "shows a quoted tweet that is deleted"
        if shown.quoted and self.hidden(viewer, shown.quoted_author, since):
            yield "shows a quoted tweet of somebody blocked or muted"
        if shown.author == viewer:
            undone = self.registers.get(("retweet", viewer, shown.original))
            if shown.original and undone is not None and undone.sure(False, since):
                yield "is a retweet that was undone"
            return
        replied = self.authors.get(shown.reply_to, 0)
        for account in (shown.author, shown.original_author, replied):
            if account and self.hidden(viewer, account, since):
                yield f"is of, repeats or answers {account}, who is blocked or muted"
        follow = self.registers.get(("follow", viewer, shown.author))
        if follow is not None and follow.sure(False, since):
            yield "is of somebody who is not followed"
        retweet = self.registers.get(("retweet", shown.author, shown.original))
        if shown.original and retweet is not None and retweet.sure(False, since):
            yield "is a retweet that was undone"


def _touched(relation: Relation, wanted: bool) -> list[Relation]:
    """A block ends the follows in both directions; taking it back does not bring them back."""
    kind, one, other = relation
    if kind != "block" or not wanted:
        return [relation]
    return [relation, ("follow", one, other), ("follow", other, one)]
