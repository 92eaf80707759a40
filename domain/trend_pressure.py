"""What goes when the window holds more uses than it may.

 1. Whole tags that are on no list, the least used ones first, until a tenth of the room is free. A
    dropped tag begins at nothing with its next use.
 2. Where the listed tags alone take more than there is room for: the oldest minutes. The last hour
    then looks smaller than it was (velocity, surprise), while scores and counts stay exact as long
    as the last hour's minutes suffice.

So no tag that is on any list, of any place, is ever dropped. Both are counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domain.trend_rank import Lists
from domain.trend_window import TrendWindow

FREE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many tags and how many minutes were dropped, and the uses of both."""

    tags: int
    minutes: int
    uses: int


def relieve(window: TrendWindow, ranked: Mapping[str, Lists], uses_max: int) -> Dropped:
    """Makes room in a window that holds more than `uses_max` uses; `ranked` says what is listed."""
    room = uses_max - int(uses_max * FREE_SHARE)
    listed = _listed_tags(window, ranked.values())
    uses = np.bincount(
        window.spellings.tag_of,
        weights=window.spellings.uses,
        minlength=window.spellings.tag_numbers,
    ).astype(np.int64)
    may_go = np.flatnonzero((uses > 0) & ~listed)
    may_go = may_go[np.argsort(uses[may_go], kind="stable")]
    freed = np.cumsum(uses[may_go])
    going = may_go[: int(np.searchsorted(freed, window.size - room)) + 1]
    mask = np.zeros(len(uses), np.bool_)
    mask[going] = True
    dropped = window.forget_tags(mask) if len(going) else 0
    minutes = 0
    while window.size > uses_max and (gone := window.forget_oldest_minute()):
        minutes += 1
        dropped += gone
    return Dropped(tags=len(going), minutes=minutes, uses=dropped)


def _listed_tags(window: TrendWindow, ranked: Iterable[Lists]) -> NDArray[np.bool_]:
    listed = np.zeros(window.spellings.tag_numbers, np.bool_)
    for lists in ranked:
        for entries in lists.values():
            for entry in entries:
                tag = window.spellings.tag(entry.name)
                if tag is not None:
                    listed[tag] = True
    return listed
