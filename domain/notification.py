"""Who is told of what, how it is grouped, and the cursors and tokens of notifications."""

import base64
import binascii
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from domain.errors import InvalidArgument
from domain.ids import MAX_ID

ACTORS_NAMED_MAX = 10
ALL_FOLLOWS = 0
"""The subject of follows, which are one group."""

CURSOR_VERSION = 2  # version 1 stands at one id (domain/paging.py)
TOKEN_VERSION = 1
_CURSOR = struct.Struct(">BQQ")
_TOKEN = struct.Struct(">BQ")


class Kind(IntEnum):
    """What was done; the numbers are those of the contract and stand in the table."""

    MENTION = 1
    REPLY = 2
    LIKE = 3
    RETWEET = 4
    QUOTE = 5
    FOLLOW = 6


BY_TWEET = (Kind.LIKE, Kind.RETWEET)
"""Kinds whose subject is a tweet of the recipient, and not one of the actor."""


class Deed(NamedTuple):
    """Somebody did something that concerns another. Recipient, kind and subject name its group; the
    subject is the tweet that was liked or retweeted, or that mentions, answers or quotes."""

    recipient: int
    kind: Kind
    subject: int
    actor: int


class Group(NamedTuple):
    """What is told as one notification."""

    recipient: int
    kind: Kind
    subject: int


class RelationKind(IntEnum):
    """Why somebody's doings are not shown; the numbers stand in the table."""

    BLOCK = 1
    MUTE = 2


class Relation(NamedTuple):
    """An account blocks or mutes another."""

    owner: int
    other: int
    kind: RelationKind


@dataclass(frozen=True, slots=True)
class State:
    """What an event says of a deed or a relation: that it stands, or that it was taken back."""

    standing: bool
    sequence: int
    at: datetime


@dataclass(slots=True)
class Changes:
    """What a batch of events says; of several about one thing, the newest."""

    deeds: dict[Deed, State] = field(default_factory=dict[Deed, State])
    relations: dict[Relation, State] = field(default_factory=dict[Relation, State])
    deleted: dict[int, tuple[int, datetime]] = field(
        default_factory=dict[int, tuple[int, datetime]]
    )
    """Deleted tweet -> its author, and when."""
    erased: set[int] = field(default_factory=set[int])
    """Accounts that were deleted."""

    def note_deeds(self, deeds: Iterable[Deed], state: State) -> None:
        """Takes down deeds of one event."""
        for deed in deeds:
            known = self.deeds.get(deed)
            if known is None or known.sequence <= state.sequence:
                self.deeds[deed] = state

    def note_relation(self, relation: Relation, state: State) -> None:
        """Takes down a relation."""
        known = self.relations.get(relation)
        if known is None or known.sequence <= state.sequence:
            self.relations[relation] = state

    def leave_out(self, recipients: Collection[int]) -> None:
        """Drops the deeds that nobody is told of any more."""
        if recipients:
            kept = {d: state for d, state in self.deeds.items() if d.recipient not in recipients}
            self.deeds = kept

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.deeds or self.relations or self.deleted or self.erased)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ends. `newest` is the newest place when the first page was read: what came since
    does not exist for the pages of that reading, so a group that grows keeps its place in them."""

    newest: int
    below: int


def of_tweet(
    *,
    tweet: int,
    author: int,
    replied_author: int,
    quoted_author: int,
    mentions: Collection[int],
    refused_mentions: Collection[int],
) -> list[Deed]:
    """Returns whom a tweet, reply or quote concerns: each account once. Who is answered is not told
    of the quote or the mention in the same tweet, who is quoted not of the mention."""
    kinds: dict[int, Kind] = {}
    for mentioned in mentions:
        if mentioned not in refused_mentions:
            kinds[mentioned] = Kind.MENTION
    if quoted_author:
        kinds[quoted_author] = Kind.QUOTE
    if replied_author:
        kinds[replied_author] = Kind.REPLY
    return [
        Deed(recipient, kind, tweet, author)
        for recipient, kind in kinds.items()
        if recipient != author
    ]


def of_retweet(*, original: int, original_author: int, actor: int) -> list[Deed]:
    """Returns whom a retweet concerns."""
    return _unless_own(Deed(original_author, Kind.RETWEET, original, actor))


def of_like(*, tweet: int, author: int, actor: int) -> list[Deed]:
    """Returns whom a like concerns."""
    return _unless_own(Deed(author, Kind.LIKE, tweet, actor))


def of_follow(*, follower: int, followee: int) -> list[Deed]:
    """Returns whom a follow concerns."""
    return _unless_own(Deed(followee, Kind.FOLLOW, ALL_FOLLOWS, follower))


def hides(relation: Relation) -> list[tuple[int, int]]:
    """Returns (recipient, actor) of whom is shown nothing by whom while the relation stands: a
    block hides both ways, a mute one."""
    pairs = [(relation.owner, relation.other)]
    if relation.kind is RelationKind.BLOCK:
        pairs.append((relation.other, relation.owner))
    return pairs


def encode_cursor(cursor: Cursor) -> str:
    """Returns the cursor as text."""
    return _encode(_CURSOR.pack(CURSOR_VERSION, cursor.newest, cursor.below))


def decode_cursor(text: str) -> Cursor | None:
    """Returns a cursor, None for the first page (an empty one); raises InvalidArgument for what
    `encode_cursor` does not write."""
    if not text:
        return None
    content = _decode(text, _CURSOR.size)
    if content:
        version, newest, below = _CURSOR.unpack(content)
        if version == CURSOR_VERSION and 1 <= below <= newest <= MAX_ID:
            return Cursor(newest, below)
    raise InvalidArgument.of("cursor", "is not the nextCursor of an earlier page")


def encode_token(place: int) -> str:
    """Returns the resume token that stands behind a place."""
    return _encode(_TOKEN.pack(TOKEN_VERSION, place))


def decode_token(text: str) -> int | None:
    """Returns the place that a resume token stands behind, None for an empty one; raises
    InvalidArgument for what `encode_token` does not write."""
    if not text:
        return None
    content = _decode(text, _TOKEN.size)
    if content:
        version, place = _TOKEN.unpack(content)
        if version == TOKEN_VERSION and place <= MAX_ID:
            return place
    raise InvalidArgument.of("resumeToken", "is not the resumeToken of an earlier message")


def _unless_own(deed: Deed) -> list[Deed]:
    return [] if deed.actor == deed.recipient or not deed.recipient else [deed]


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decode(text: str, size: int) -> bytes:
    """Returns the bytes of a text that `_encode` wrote; none for any other."""
    if len(text) != -(-size * 8 // 6):
        return b""
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
    return content if _encode(content) == text else b""
