"""How much of each window a home read asks for.

A page of 20 mostly needs 60 visible entries: a retweet is only sure when the 40 below it are known
(visibility rule 4), and some are hidden. Those stand in the heads of the windows. A head that was
too short costs a second look, never a wrong page. Eighty entries of each of ten pulled authors in
place of a third of them cost 80 us a read more, which had 270 in all: to receive, to make objects
of, and to sort. But an author of few may have written more than a third: with a third of each, 8 %
of the reads of the real graph took a second look.
"""

from functools import lru_cache
from typing import NamedTuple

from domain import paging

SPARE = 60  # entries beyond the page: the look-ahead, and hidden ones
RECENT_SHARE = 3  # of a head, more than one of many pulled authors fills
RECENT_HEADS = 1  # of all pulled authors together, where they are few
FURTHER = 3  # times as much at the second look
ALL_ENTRIES = 1 << 31  # more than any window has


class Heads(NamedTuple):
    """How many entries are read of the viewer's window, and at least of each pulled author's."""

    home: int
    least: int

    def recent(self, pulled: int) -> int:
        """Returns how many are read of each of so many pulled authors."""
        return min(self.home, max(self.least, RECENT_HEADS * self.home // max(1, pulled)))


ALL = Heads(ALL_ENTRIES, ALL_ENTRIES)


def looks(below: int | None, limit: int) -> tuple[Heads, ...]:
    """Returns what to read at first, and then, as long as the page is not complete."""
    # A page that begins somewhere below the top has no use for heads.
    return _from_top(limit) if below is None else (ALL,)


@lru_cache(paging.LIMIT_MAX)
def _from_top(limit: int) -> tuple[Heads, ...]:
    head = limit + SPARE
    return Heads(head, head // RECENT_SHARE), Heads(FURTHER * head, FURTHER * head), ALL


FIRST = _from_top(paging.LIMIT_DEFAULT)[0]
"""Of a page of the usual length: what a viewer's commands are kept packed for."""
