"""servers/one_pass.c."""

from collections.abc import Set

from servers.tweet_records import Record

def bind(record_type: type[Record], /) -> None:
    """Looks where the slots of a record lie. Raises TypeError where it has others."""

def page(
    windows: list[list[bytes]],
    me: int,
    followees: bytes,
    hidden: bytes,
    liked: Set[int],
    retweeted: Set[int],
    marks_floor: int,
    records: dict[int, Record],
    erased: Set[int],
    generation: int,
    above: int,
    limit: int,
    distance: int,
    /,
) -> tuple[bytes | None, int] | None:
    """Returns a first page of a home timeline, the newest `limit` tweets above an id, and how many
    are on it; (None, 0) where windows that reach further down may be enough; None where it takes
    more than what is given here.

    Windows are lists as Valkey has them (storage/windows.py). `followees` and `hidden` are ids in
    ascending order, 8 bytes each, in this machine's order of bytes. `liked` and `retweeted` are all
    marks above `marks_floor`. Records of `erased` authors, and frames made under another
    `generation` of names, do not count. Raises TypeError or OverflowError where an argument or an
    id in a record is none of these.
    """
