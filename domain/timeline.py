"""What a home timeline is made of, and which entries a reader sees: DESIGN section 1 as code.

An entry says what the rules need without the tweet itself. A *window* is a run of candidates,
newest first, that holds everything above its floor. Rules run when reading; windows hold
candidates.
"""

from collections.abc import Container, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from domain.ids import TweetId, UserId

NOBODY = UserId(0)
NO_TWEET = TweetId(0)
COUNT_NEWER_MAX = 800

Entry = tuple[TweetId, UserId, TweetId, UserId]
"""A candidate: (tweet, author, original, other author). The original is 0 where the tweet is no
retweet. The other author is the original's on a retweet, the one replied to on a reply, else 0; a
retweet of a reply is no reply, so one place serves both. A plain tuple, because a page unpacks
dozens of them."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """A reader and the relations that the rules ask for."""

    id: UserId
    followees: Set[UserId] = field(default_factory=frozenset[UserId])
    hidden: Set[UserId] = field(default_factory=frozenset[UserId])
    """Accounts that the viewer blocks or mutes, or that block the viewer."""


class Window(NamedTuple):
    """Candidates, newest first, complete above `floor`; a floor of 0 reaches the beginning."""

    entries: Sequence[Entry]
    floor: int


class Page(NamedTuple):
    """A page of a timeline. `complete` is False where the window ended too early to be sure:
    ask again with one that reaches further down."""

    entries: Sequence[Entry]
    has_more: bool
    complete: bool
    originals: Sequence[TweetId] = ()
    """The originals of all retweets that the page depends on: on it, left out, or in the
    look-ahead. Where one of them was deleted, the page must be cut again without it."""


_ORIGINAL = itemgetter(2)


def is_visible(entry: Entry, viewer: Viewer) -> bool:
    """Rule 2, apart from deletion: whether a candidate may be shown to the viewer."""
    _, author, original, other = entry
    if author == viewer.id:
        return True
    if author not in viewer.followees:
        return False
    hidden = viewer.hidden
    if hidden and (author in hidden or other in hidden):
        return False
    if other == NOBODY or original != NO_TWEET:
        return True
    return other in (viewer.id, author) or other in viewer.followees


def page(
    window: Window,
    viewer: Viewer,
    *,
    below: int | None,
    above: int = 0,
    limit: int,
    repeat_distance: int,
    deleted: Container[int] = (),
) -> Page:
    """Cuts a page out of a window: the newest `limit` entries with `above` < id < `below`.

    1. Keep what rule 2 lets the viewer see; `deleted` are tweets known to be deleted, whose entries
       and retweets are left out.
    2. Leave out an entry where one of the next `repeat_distance` older ones is of the same key
       (rule 4). Only a retweet can be left out: nothing older than a tweet repeats it. What is
       newer plays no part, so a page never depends on what came above it.
    3. A retweet is only sure when its whole look-ahead lies in the window, or the window reaches
       the beginning; a page that needs an unsure entry is not complete.
    """
    visible = _visible(window.entries, viewer, below, deleted)
    seen = list(islice(visible, limit + 1))  # visible entries, as far as they were needed
    if len(seen) > limit and seen[-1][0] > above and not any(map(_ORIGINAL, seen)):
        # Without a retweet nothing is left out, and nothing below has to be looked at.
        return Page(seen[:limit], has_more=True, complete=True)
    chosen: list[Entry] = []
    position = 0
    has_more = False
    while True:
        if position == len(seen):
            seen.extend(islice(visible, limit + 1))
        if position == len(seen):
            # What is below the floor may still belong here, unless nothing below is asked for.
            complete = window.floor <= above + 1
            break
        entry = seen[position]
        complete = True
        if entry[0] <= above:
            break
        if entry[2] != NO_TWEET:
            missing = position + 1 + repeat_distance - len(seen)
            if missing > 0:
                seen.extend(islice(visible, missing))
            if _repeats_below(seen, position, repeat_distance):
                position += 1
                continue
            if position + repeat_distance >= len(seen) and window.floor != 0:
                complete = False
                break
        if len(chosen) == limit:
            has_more = True
            break
        chosen.append(entry)
        position += 1
    return Page(chosen, has_more, complete, [entry[2] for entry in seen if entry[2] != NO_TWEET])


def _visible(
    entries: Iterable[Entry], viewer: Viewer, below: int | None, deleted: Container[int]
) -> Iterator[Entry]:
    me, followees, hidden = viewer.id, viewer.followees, viewer.hidden
    for entry in entries:
        tweet, author, original, other = entry
        if below is not None and tweet >= below:
            continue
        # Most entries are plain tweets of a followed account: one call less for each of them.
        plain = other == NOBODY and author in followees and author not in hidden
        if (
            (plain or author == me or is_visible(entry, viewer))
            and tweet not in deleted
            and (original == NO_TWEET or original not in deleted)
        ):
            yield entry


def _repeats_below(seen: Sequence[Entry], position: int, repeat_distance: int) -> bool:
    """Rule 4: whether the same tweet stands again within `repeat_distance` entries below."""
    key = seen[position][2] or seen[position][0]
    below = seen[position + 1 : position + 1 + repeat_distance]
    return key in [original or tweet for tweet, _, original, _ in below]
