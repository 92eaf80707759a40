"""Fan-out into one shard of the cache Valkey: follower lists beside the timelines they feed.

A batch of changes goes to a server-side function (storage/functions/timelines.lua), so that no
follower's id travels through Python. A call tries a bounded number of deliveries, and one tweet
only a part of them: large authors take turns with small ones, and no call holds Valkey for long.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis.exceptions

from domain.ids import UserId
from mesh.settings import Settings
from storage.timelines import call_function
from storage.valkey import Valkey

CHANGES_MAX = 64  # in one call; more would cost more to send than to wait for the next
TURNS = 4  # a tweet gets this part of a call's deliveries, then it is another's turn
LOAD_PART = 1_000  # followers sent in one call
LOADS_MAX = 5  # of one author's list in one batch, before Valkey is taken to be too small

LoadFollowers = Callable[[UserId], Awaitable[Sequence[int]]]


class FencedOut(ConnectionError):
    """A newer owner of the log's partition has been here. Counts as an outage: the runner waits,
    finds that the partition is no longer its own, and drops what it has in hand."""


@dataclass(slots=True)
class Change:
    """One change to apply, see the function for the ops; `progress` is the function's."""

    op: str
    author: UserId
    argument: bytes
    progress: bytes = b""


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
        partition: int,
        fence: int,
        changes: Sequence[Change],
        load: LoadFollowers,
    ) -> int:
        """Applies changes of one partition to one shard, those of one author in order; returns how
        many entries were inserted or removed."""
        tag, fence_key = f"{{s{shard}}}", f"fence:{{s{shard}}}:{partition}"
        pending, applied = list(changes), 0
        loads: dict[UserId, int] = {}
        while pending:
            sent = pending[:CHANGES_MAX]
            arguments: list[Any] = [fence, tag, self._length, self._budget, self._turn()]
            for change in sent:
                arguments += (change.op, change.author, change.argument, change.progress)
            inserted, replies = await self._call("chirp_fanout", [fence_key], arguments)
            applied += inserted
            waiting: list[Change] = []
            missing: dict[UserId, None] = {}
            for change, progress in zip(sent, replies, strict=True):
                if progress == b"done":
                    continue
                if progress == b"missing":
                    missing[change.author] = None
                    progress = b""
                change.progress = progress
                waiting.append(change)
            for author in missing:
                loads[author] = loads.get(author, 0) + 1
                if loads[author] > LOADS_MAX:
                    raise ConnectionError("follower lists are evicted as fast as they are loaded")
                await self._load(fence_key, tag, fence, author, await load(author))
            pending[: len(sent)] = waiting
        return applied

    def _turn(self) -> int:
        return max(1, self._budget // TURNS)

    async def _load(
        self, fence_key: str, tag: str, fence: int, author: UserId, followers: Sequence[int]
    ) -> None:
        generation = secrets.token_hex(4)
        key = f"followers:{tag}:{author}"
        starts = range(0, max(1, len(followers)), LOAD_PART)
        for start in starts:
            first, last = start == 0, start == starts[-1]
            part = followers[start : start + LOAD_PART]
            arguments = [fence, int(last), int(first), generation, *part]
            await self._call("chirp_load_followers", [fence_key, key], arguments)

    async def _call(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        try:
            return await call_function(self._valkey, name, keys, arguments)
        except redis.exceptions.ResponseError as error:
            if "FENCED" in str(error):
                raise FencedOut("a newer owner of this partition was here") from error
            raise
