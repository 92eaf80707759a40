"""Fan-out into one shard of the cache Valkey.

How a batch is applied:
 1. It is parted in rounds, so that of each author what is put into windows, what is taken out, and
    what changes the follower list come in the order in which they happened. Authors do not wait for
    each other.
 2. In a round, authors with few deliveries come first, and large rounds are parted: what is held in
    memory is bounded, and a small author does not wait for a large one.
 3. The deliveries of a part are gathered by window (storage/gathering.py) and go to a server-side
    function (storage/functions/followers.lua), so many in a call, and the function counts what they
    cost: no call holds Valkey for long.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import redis.exceptions

from domain.ids import UserId
from mesh.settings import Settings
from storage.follower_lists import FollowerLists, LoadFollowers
from storage.gathering import Gathered, Part
from storage.timelines import call_function
from storage.valkey import Valkey

GATHERED_MAX = 200_000  # deliveries held in memory at once, some 15 MB; one tweet may have more
FOLLOWS_MAX = 64  # in one call
TO_FOLLOWERS = {"push": "push", "push_active": "push_active", "remove": "remove"}
TO_ONE = {"timeline": "push", "recent": "push", "untimeline": "remove", "unrecent": "remove"}
FOLLOWS = {"follow", "unfollow"}
PUT_IN = {"push", "push_active"}


class FencedOut(ConnectionError):
    """A newer owner of the log's partition has been here. Counts as an outage: the runner waits,
    finds that the partition is no longer its own, and drops what it has in hand."""


class Change(NamedTuple):
    """One change to apply.

    `push`, `push_active`, `remove`: an entry into or out of the timelines of the author's followers
    (of those with a lease, and the others' are dropped). `timeline`, `untimeline`, `recent`,
    `unrecent`: an entry into or out of the author's own window. `follow`, `unfollow`: a follower of
    the author, in digits.
    """

    op: str
    author: UserId
    argument: bytes


class FollowerStore:
    """Applies changes. Raises FencedOut, and redis' ConnectionError where Valkey is away; whatever
    was applied by then may be applied again."""

    def __init__(self, valkey: Valkey, settings: Settings) -> None:
        self._valkey = valkey
        self._length = settings.timeline_length
        self._budget = settings.fanout_chunk_deliveries

    async def apply(
        self,
        *,
        shard: int,
        fences: Mapping[int, int],
        changes: Sequence[Change],
        load: LoadFollowers,
    ) -> int:
        """Applies changes to one shard, those of one author in order; returns how many entries were
        inserted or removed. `fences` has the fence of each partition that they come from."""
        tag = f"{{s{shard}}}"
        fence_of = {f"fence:{tag}:{partition}": fence for partition, fence in fences.items()}
        lists = FollowerLists(self._call, tag, fence_of, load)
        applied = 0
        for entries, follows in _rounds(changes):
            authors = {c.author: None for c in entries if c.op in TO_FOLLOWERS}
            sizes = await lists.sizes(list(authors)) if authors else {}
            for part in _parts(entries, sizes):
                applied += await self._deliver(tag, fence_of, part, lists)
            for start in range(0, len(follows), FOLLOWS_MAX):
                await lists.change(follows[start : start + FOLLOWS_MAX])
        return applied

    async def _deliver(
        self,
        tag: str,
        fence_of: Mapping[str, int],
        changes: "Sequence[tuple[Change, int]]",
        lists: FollowerLists,
    ) -> int:
        authors = {change.author: None for change, _ in changes if change.op in TO_FOLLOWERS}
        followers = await lists.fetch(list(authors))
        by_op: dict[str, list[Part]] = {}
        for (op, author, entry), urgency in changes:
            if op in TO_FOLLOWERS:
                by_op.setdefault(op, []).append(Part(entry, followers[author], urgency))
            else:
                own = -author if op in ("recent", "unrecent") else author
                part = Part(entry, np.array([own], np.int64), urgency)
                by_op.setdefault(TO_ONE[op], []).append(part)
        applied = 0
        for op, parts in by_op.items():
            gathered = Gathered(
                parts, timeline=f"timeline:{tag}:".encode(), recent=f"recent:{tag}:".encode()
            )
            done = 0
            while done < len(gathered):
                windows = gathered.arguments(done, self._budget)
                changed, now_done = await self._call(
                    "chirp_deliver",
                    list(fence_of),
                    [*fence_of.values(), op, self._length, self._budget, *windows],
                )
                applied += changed
                done += now_done
        return applied

    async def _call(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            return await call_function(self._valkey, name, list(keys), list(arguments))
        except redis.exceptions.ResponseError as error:
            if "FENCED" in str(error):
                raise FencedOut("a newer owner of this partition was here") from error
            raise


Follows = list[tuple[str, UserId, bytes]]


def _rounds(changes: Sequence[Change]) -> list[tuple[list[Change], Follows]]:
    """Parts changes so that those of one author that do not commute are in different rounds."""
    rounds: list[tuple[list[Change], Follows]] = []
    reached: dict[UserId, tuple[int, int]] = {}
    for change in changes:
        kind = 2 if change.op in FOLLOWS else int(change.op not in PUT_IN)
        if change.op in TO_ONE:
            kind = int(TO_ONE[change.op] not in PUT_IN)
        number, last = reached.get(change.author, (0, kind))
        number += kind != last
        reached[change.author] = number, kind
        while len(rounds) <= number:
            rounds.append(([], []))
        entries, follows = rounds[number]
        if kind == 2:
            follows.append((change.op, change.author, change.argument))
        else:
            entries.append(change)
    return rounds


def _parts(
    entries: Iterable[Change], sizes: Mapping[UserId, int]
) -> "Iterator[list[tuple[Change, int]]]":
    """Yields changes in parts that fit into memory, each change with how many deliveries its author
    has in all; authors with few of them come first."""
    totals: dict[UserId, int] = {}
    sized = [(c, sizes[c.author] if c.op in TO_FOLLOWERS else 1) for c in entries]
    for change, size in sized:
        totals[change.author] = totals.get(change.author, 0) + size
    sized.sort(key=lambda each: totals[each[0].author])
    part: list[tuple[Change, int]] = []
    held = 0
    for change, size in sized:
        if part and held + size > GATHERED_MAX:
            yield part
            part, held = [], 0
        part.append((change, totals[change.author]))
        held += size
    if part:
        yield part
