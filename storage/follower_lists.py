"""Follower lists in one shard of the cache Valkey, each a string of numbers.

Structure (see storage/functions/timelines.lua):
    follower_ids:{sN}:<author>   8 bytes each, little-endian: 0, so that an empty list stands; then
                              who came, and, negative, who went. Of one's numbers the last counts.

So a follow and an unfollow append, whatever the list's length, and a reader has an array at once. A
list that holds more of the past than of the present is written anew when it is read.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from domain.fanout import shard_of
from domain.ids import UserId
from storage.gathering import Ids

NUMBER_BYTES = 8
HEAD = bytes(NUMBER_BYTES)
LOAD_PART = 8_000  # followers sent in one call
# In one call: lists, which are all over Valkey's memory (512 of them took it 1.4 to 4.5 ms, so many
# 0.5 to 1.6), and what they hold.
READ_KEYS = 128
READ_BYTES = 256 * 1024
LOADS_MAX = 5  # of one author's list in one batch, before Valkey is taken to be too small
PAST = 16  # numbers that a list may hold beyond twice its followers before it is written anew

LoadFollowers = Callable[[UserId], Awaitable[Ids]]
Call = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]


class FollowerLists:
    """The lists of one shard, for one batch. Only the owner of an author's partition changes the
    author's list, so what was read holds until the owner changes it, or is refused."""

    def __init__(
        self, call: Call, tag: str, fences: Mapping[str, int], load: LoadFollowers
    ) -> None:
        self._call = call
        self._tag = tag
        self._fence_keys, self._fences = list(fences), list(fences.values())
        self._load = load
        self._loads: dict[UserId, int] = {}

    async def sizes(self, authors: Sequence[UserId]) -> dict[UserId, int]:
        """Returns about how many followers each has; loads the lists that are not there."""
        sizes: dict[UserId, int] = {}
        for start in range(0, len(authors), READ_KEYS):
            some = authors[start : start + READ_KEYS]
            found = await self._call("chirp_follower_sizes", [self._key(a) for a in some], [])
            for author, size in zip(some, found, strict=True):
                if not size:
                    size = NUMBER_BYTES * (1 + len(await self._load_list(author)))
                sizes[author] = size // NUMBER_BYTES - 1
        return sizes

    async def fetch(self, authors: Sequence[UserId], most: int | None = None) -> dict[UserId, Ids]:
        """Returns the followers of each, loading lists that are not there; of the first of them
        only, where these have more than `most` in all."""
        parts: dict[UserId, bytes] = {}
        room = sys.maxsize if most is None else NUMBER_BYTES * most
        waiting, begun = list(authors), b""
        while waiting and room > 0:
            some = waiting[:READ_KEYS]
            found: list[bytes]
            found, cut = await self._call(
                "chirp_follower_parts", [self._key(a) for a in some], [READ_BYTES, len(begun)]
            )
            if missing := [author for author, part in zip(some, found, strict=False) if not part]:
                for author in missing:
                    await self._load_list(author)
                begun = b""
                continue
            found[0] = begun + found[0]
            begun = found.pop() if cut == b"1" else b""
            parts.update(zip(some, found, strict=False))
            room -= sum(map(len, found))
            del waiting[: len(found)]
        lists = {author: np.frombuffer(part, "<i8")[1:] for author, part in parts.items()}
        if parts and np.frombuffer(b"".join(parts.values()), "<i8").min() < 0:
            for author, numbers in lists.items():
                if len(numbers) and numbers.min() < 0:
                    lists[author] = await self._present(author, numbers)
        return lists

    async def change(self, changes: Sequence[tuple[str, UserId, bytes]]) -> None:
        """Applies follows and unfollows: op, author, and the follower in digits. A list that is not
        there stays so. The follower's timeline is dropped."""
        arguments: list[Any] = [*self._fences, self._tag]
        for op, author, follower in changes:
            number = int(follower)
            came, went = (n.to_bytes(8, "little", signed=True) for n in (number, -number))
            arguments += (author, follower, came, went, int(op == "follow"))
        await self._call("chirp_change_followers", self._fence_keys, arguments)

    async def _present(self, author: UserId, numbers: Ids) -> Ids:
        present = resolve(numbers)
        if len(numbers) > 2 * len(present) + PAST:
            await self._store(author, present)
        return present

    async def _load_list(self, author: UserId) -> Ids:
        self._loads[author] = self._loads.get(author, 0) + 1
        if self._loads[author] > LOADS_MAX:
            raise ConnectionError("follower lists are evicted as fast as they are loaded")
        followers = await self._load(author)
        await self._store(author, followers)
        return followers

    async def _store(self, author: UserId, followers: Ids) -> None:
        keys = [*self._fence_keys, self._key(author)]
        starts = range(0, max(1, len(followers)), LOAD_PART)
        for start in starts:
            first, last = start == 0, start == starts[-1]
            part = followers[start : start + LOAD_PART].astype("<i8").tobytes()
            content = HEAD + part if first else part
            arguments = [*self._fences, int(last), int(first), content]
            if not await self._call("chirp_load_followers", keys, arguments):
                raise ConnectionError("follower lists are evicted while they are made")

    def _key(self, author: UserId) -> str:
        return f"follower_ids:{self._tag}:{author}"


def by_shard(users: Ids, shards: int) -> list[Ids]:
    """Parts accounts by the shard that holds their timelines."""
    # Takes arrays, too: unsigned, they wrap where a number is cut off.
    place = cast(Any, shard_of)(users.astype(np.uint64), shards)
    return [users[place == shard] for shard in range(shards)]


def resolve(numbers: Ids) -> Ids:
    """Returns who follows now, of those who came and, negative, went; in the order of the list."""
    backwards = numbers[::-1]
    _, last = np.unique(np.abs(backwards), return_index=True)
    kept = backwards[np.sort(last)[::-1]]
    return kept[kept > 0]
