"""Fan-out into one shard of the cache Valkey.

How a batch is applied:
 1. It is parted in rounds, so that of each author what is put into windows, what is taken out, and
    what changes the follower list come in the order in which they happened. Authors do not wait for
    each other.
 2. A large round is parted, the oldest entries first: what is held in memory is bounded, and
    nothing comes late. In a part, windows that authors with few deliveries write to come first, so
    that a small author does not wait for a large one.
 3. The deliveries of a part are gathered by window (storage/gathering.py) and go to a server-side
    function (storage/functions/followers.lua), so many in a call, and the function counts what they
    cost: no call holds Valkey for long.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import redis.exceptions

from domain.ids import UserId
from mesh.settings import Settings
from storage.follower_lists import FollowerLists, LoadFollowers
from storage.gathering import Gathered, Ids, Parts
from storage.timelines import leased_s, load_functions
from storage.valkey import Valkey, is_missing_function
from storage.valkey_connection import Command, HotConnection

GATHERED_MAX = 400_000  # deliveries held in memory at once, some 30 MB; one tweet may have more
FOLLOWS_MAX = 64  # in one call
# Calls under way at once: Valkey must not wait for Python, nor a reader for many calls. With two of
# 400 windows an influencer's tweet was a fifth later at the p99 (decision 27).
CALLS_MAX = 4
TO_FOLLOWERS = {"push", "push_active", "remove"}
TO_ONE = {"timeline": "push", "recent": "recent", "untimeline": "remove", "unrecent": "remove"}
# Gathered apart, because they are counted apart.
FUNCTIONS = {"recent": "push", "push_active": "push"}
RECENT = {"recent", "unrecent"}
PUT_IN = {"push", "push_active", "timeline", "recent"}
FOLLOWS = {"follow", "unfollow"}


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
    """Applies changes. Raises FencedOut, and ConnectionError where Valkey is away; whatever was
    applied by then may be applied again."""

    def __init__(
        self,
        hot: HotConnection,
        valkey: Valkey,
        settings: Settings,
        *,
        calls_max: int = CALLS_MAX,
    ) -> None:
        self._hot = hot
        self._valkey = valkey
        self._length = settings.timeline_length
        self._budget = settings.fanout_chunk_deliveries
        self._leased_s = leased_s(settings)
        self._gathering = asyncio.Lock()
        self._under_way = asyncio.Semaphore(calls_max)
        self.put_in: Counter[str] = Counter()
        """Entries that were inserted since the start: `push`, `push_active`, `recent`."""

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
        here = _Shard(
            tag,
            {f"fence:{tag}:{partition}": fence for partition, fence in fences.items()},
            [f"timeline:{tag}:".encode(), f"recent:{tag}:".encode()],
        )
        lists = FollowerLists(self._call, tag, here.fences, load)
        applied = 0
        for entries, follows in _rounds(changes):
            authors = list(dict.fromkeys(c.author for c in entries if c.op in TO_FOLLOWERS))
            followers = await lists.fetch(authors, GATHERED_MAX)
            sizes = {author: len(ids) for author, ids in followers.items()}
            if len(followers) < len(authors):
                followers, sizes = None, await lists.sizes(authors)
            totals = _totals(entries, sizes)
            for part in _parts(entries, sizes):
                known = followers
                if known is None:
                    needed = dict.fromkeys(c.author for c in part if c.op in TO_FOLLOWERS)
                    known = await lists.fetch(list(needed))
                applied += await self._deliver(here, _by_op(part, known, totals))
            for start in range(0, len(follows), FOLLOWS_MAX):
                await lists.change(follows[start : start + FOLLOWS_MAX])
        return applied

    async def _deliver(self, shard: "_Shard", by_op: Mapping[str, Parts]) -> int:
        calls: list[asyncio.Task[int]] = []
        failed = asyncio.Event()

        def ended(call: asyncio.Task[int]) -> None:
            self._under_way.release()
            if call.cancelled() or call.exception() is not None:
                failed.set()

        try:
            # One shard at a time: while this is computed Valkey works on what others have sent.
            async with self._gathering:
                for op, parts in by_op.items():
                    gathered = Gathered(parts, timeline=shard.prefixes[0], recent=shard.prefixes[1])
                    for begin in range(0, len(gathered), self._budget):
                        end = min(begin + self._budget, len(gathered))
                        await self._under_way.acquire()
                        call = self._deliver_some(shard, op, gathered, begin, end)
                        calls.append(asyncio.create_task(call))
                        calls[-1].add_done_callback(ended)
                        if failed.is_set():
                            break
            return sum(await asyncio.gather(*calls))
        finally:
            # None may run beside the repetition of a batch that failed.
            await asyncio.gather(*calls, return_exceptions=True)

    async def _deliver_some(
        self, shard: "_Shard", op: str, gathered: Gathered, begin: int, end: int
    ) -> int:
        applied = 0
        while begin < end:
            changed, done = await self._call(
                "chirp_deliver_v2",
                list(shard.fences),
                [
                    *shard.fences.values(), FUNCTIONS.get(op, op), self._length, self._budget,
                    self._leased_s if op == "push_active" else 0,
                    *gathered.arguments(begin, end),
                ],
            )  # fmt: skip
            applied += changed
            begin += done
        if op in PUT_IN:
            self.put_in[op] += applied
        return applied

    async def _call(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        # By redis-py a tweet for a few followers costs this process twice as much.
        command: Command = ("FCALL", name, len(keys), *keys, *arguments)
        (reply,) = await self._hot.call([command])
        if is_missing_function(reply):
            await load_functions(self._valkey)
            (reply,) = await self._hot.call([command])
        if not isinstance(reply, Exception):
            return reply
        if "FENCED" in str(reply):
            raise FencedOut("a newer owner of this partition was here")
        raise redis.exceptions.ResponseError(str(reply))


class _Shard(NamedTuple):
    tag: str
    fences: Mapping[str, int]
    prefixes: Sequence[bytes]


Follows = list[tuple[str, UserId, bytes]]


def _rounds(changes: Sequence[Change]) -> list[tuple[Sequence[Change], Follows]]:
    """Parts changes so that those of one author that do not commute are in different rounds."""
    if {change.op for change in changes} <= PUT_IN:
        return [(changes, [])]
    rounds: list[tuple[list[Change], Follows]] = []
    reached: dict[UserId, tuple[int, int]] = {}
    for change in changes:
        kind = 2 if change.op in FOLLOWS else int(change.op not in PUT_IN)
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
    return [(entries, follows) for entries, follows in rounds]


def _totals(entries: Sequence[Change], sizes: Mapping[UserId, int]) -> dict[UserId, int]:
    """Returns how many deliveries each author has."""
    totals: dict[UserId, int] = {}
    for op, author, _ in entries:
        totals[author] = totals.get(author, 0) + (sizes[author] if op in TO_FOLLOWERS else 1)
    return totals


def _parts(entries: Sequence[Change], sizes: Mapping[UserId, int]) -> Iterator[Sequence[Change]]:
    """Yields changes in parts that fit into memory, older entries before newer ones."""
    part: list[Change] = []
    held = 0
    # They come partition by partition. Entries sort by their tweet's id.
    for change in sorted(entries, key=attrgetter("argument")):
        size = sizes[change.author] if change.op in TO_FOLLOWERS else 1
        if part and held + size > GATHERED_MAX:
            yield part
            part, held = [], 0
        part.append(change)
        held += size
    yield part


def _by_op(
    changes: Sequence[Change], followers: Mapping[UserId, Ids], totals: Mapping[UserId, int]
) -> dict[str, Parts]:
    own = np.array(
        [-c.author if c.op in RECENT else c.author for c in changes if c.op in TO_ONE], np.int64
    )
    by_op: dict[str, Parts] = defaultdict(Parts)
    next_own = 0
    for op, author, entry in changes:
        if op in TO_FOLLOWERS:
            by_op[op].add(entry, followers[author], totals[author])
        else:
            by_op[TO_ONE[op]].add(entry, own[next_own : next_own + 1], totals[author])
            next_own += 1
    return by_op
