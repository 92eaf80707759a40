"""Fan-out into one shard of the cache Valkey: follower lists beside the timelines they feed.

A batch of changes goes to a server-side function (storage/functions/followers.lua), so that no
follower's id travels through Python. What a call may cost is bounded, and one tweet gets a part of
it: large authors take turns with small ones, and no call holds Valkey for long.
"""

import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis.exceptions

from domain.ids import UserId
from mesh.settings import Settings
from storage.timelines import call_function
from storage.valkey import Valkey

CHANGES_MAX = 64  # in one call; more would cost more to send than to wait for the next
TURNS = 4  # among many, a tweet gets this part of a call's deliveries, then it is another's turn
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
        # Authors take turns: one that is not done goes behind those that wait.
        queues: dict[UserId, deque[Change]] = {}
        for change in changes:
            queues.setdefault(change.author, deque()).append(change)
        applied = 0
        loads: dict[UserId, int] = {}
        while queues:
            sent = _first_in_line(queues)
            turn = self._turn(len({change.author for change in sent}))
            arguments: list[Any] = [fence, tag, self._length, self._budget, turn]
            for change in sent:
                arguments += (change.op, change.author, change.argument, change.progress)
            inserted, replies = await self._call("chirp_fanout", [fence_key], arguments)
            applied += inserted
            missing: dict[UserId, None] = {}
            for change, progress in zip(sent, replies, strict=True):
                queue = queues[change.author]
                if progress == b"done":
                    queue.popleft()
                    if not queue:
                        del queues[change.author]
                elif progress == b"missing":
                    missing[change.author] = None
                    change.progress = b""
                elif progress != change.progress:
                    change.progress = progress
                    queues[change.author] = queues.pop(change.author)
            for author in missing:
                loads[author] = loads.get(author, 0) + 1
                if loads[author] > LOADS_MAX:
                    raise ConnectionError("follower lists are evicted as fast as they are loaded")
                await self._load(fence_key, tag, fence, author, await load(author))
        return applied

    def _turn(self, authors: int) -> int:
        return max(1, self._budget // min(authors, TURNS))

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


def _first_in_line(queues: dict[UserId, deque[Change]]) -> list[Change]:
    """Returns what to send next. Behind a change that is not done its author's others wait, so they
    take no place in the call."""
    sent: list[Change] = []
    for queue in queues.values():
        sent += islice(queue, 1 if queue[0].progress else CHANGES_MAX - len(sent))
        if len(sent) == CHANGES_MAX:
            break
    return sent
