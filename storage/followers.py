"""Fan-out into one shard of the cache Valkey: follower lists beside the timelines they feed.

A batch of changes goes to a server-side function (storage/functions/followers.lua), so that no
follower's id travels through Python. What a call may cost is bounded, and one tweet gets a part of
it: large authors take turns with small ones, and no call holds Valkey for long.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import redis.exceptions

from domain.ids import UserId
from mesh.settings import Settings
from storage.timelines import call_function
from storage.valkey import Valkey

CHANGES_MAX = 256  # in one call: a few more than it can serve where authors have few followers
# Among many, a tweet gets this part of a call's deliveries, then it is another's turn. What is left
# of it comes late, behind newer tweets, and costs twice as much: so the parts are not smaller.
TURNS = 2
LOAD_PART = 1_000  # followers sent in one call
LOADS_MAX = 5  # of one author's list in one batch, before Valkey is taken to be too small

LoadFollowers = Callable[[UserId], Awaitable[Sequence[int]]]


class FencedOut(ConnectionError):
    """A newer owner of the log's partition has been here. Counts as an outage: the runner waits,
    finds that the partition is no longer its own, and drops what it has in hand."""


class Change(NamedTuple):
    """One change to apply, see the function for the ops."""

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
        inserted or removed. `fences` has the fence of each partition that they come from. Entries
        in order of their ids cost least: what is older than what a timeline has is looked up."""
        owner = _Owner(shard, fences)
        queue = _Queue(changes)
        applied = 0
        loads: dict[UserId, int] = {}
        while sent := queue.first_in_line():
            arguments: list[Any] = [
                *owner.fences, owner.tag, self._length, self._budget, self._turn(sent),
            ]  # fmt: skip
            for waiting in sent:
                arguments += waiting
            inserted, replies = await self._call("chirp_fanout", owner.keys, arguments)
            applied += inserted
            for author in queue.note(replies):
                loads[author] = loads.get(author, 0) + 1
                if loads[author] > LOADS_MAX:
                    raise ConnectionError("follower lists are evicted as fast as they are loaded")
                await self._load(owner, author, await load(author))
        return applied

    def _turn(self, sent: "Sequence[_Waiting]") -> int:
        return max(1, self._budget // min(len({waiting[1] for waiting in sent}), TURNS))

    async def _load(self, owner: "_Owner", author: UserId, followers: Sequence[int]) -> None:
        generation = secrets.token_hex(4)
        keys = [*owner.keys, f"followers:{owner.tag}:{author}"]
        starts = range(0, max(1, len(followers)), LOAD_PART)
        for start in starts:
            first, last = start == 0, start == starts[-1]
            part = followers[start : start + LOAD_PART]
            arguments = [*owner.fences, int(last), int(first), generation, *part]
            await self._call("chirp_load_followers", keys, arguments)

    async def _call(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        try:
            return await call_function(self._valkey, name, keys, arguments)
        except redis.exceptions.ResponseError as error:
            if "FENCED" in str(error):
                raise FencedOut("a newer owner of this partition was here") from error
            raise


class _Owner:
    """Under which fences a shard is changed."""

    def __init__(self, shard: int, fences: Mapping[int, int]) -> None:
        self.tag = f"{{s{shard}}}"
        self.keys = [f"fence:{self.tag}:{partition}" for partition in fences]
        self.fences = list(fences.values())


# op, author, argument, and the function's progress: as the function takes them
_Waiting = tuple[str, UserId, bytes, bytes]


class _Queue:
    """What is not done yet, in the order in which it is to be sent."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._waiting: list[_Waiting] = [
            (change.op, change.author, change.argument, b"") for change in changes
        ]
        self._sent: list[int] = []

    def first_in_line(self) -> list[_Waiting]:
        """Returns what to send next. Behind a change that is not done its author's others wait, so
        they take no place in the call."""
        self._sent = []
        begun: set[UserId] = set()
        for place, (_, author, _, progress) in enumerate(self._waiting):
            if author in begun:
                continue
            if progress:
                begun.add(author)
            self._sent.append(place)
            if len(self._sent) == CHANGES_MAX:
                break
        return [self._waiting[place] for place in self._sent]

    def note(self, replies: Sequence[bytes]) -> list[UserId]:
        """Takes in the replies for what was sent; returns the authors whose lists are missing."""
        waiting, missing, served = self._waiting, dict[UserId, None](), set[UserId]()
        left: list[_Waiting] = []
        for place, reply in zip(self._sent, replies, strict=True):
            op, author, argument, progress = waiting[place]
            if reply == b"done":
                continue
            if reply == b"missing":
                missing[author] = None
                reply = b""
            elif reply != progress:
                served.add(author)
            left.append((op, author, argument, reply))
        sent = set(self._sent)
        left += [other for place, other in enumerate(waiting) if place not in sent]
        # Authors take turns: one that was served and is not done goes behind those that wait.
        self._waiting = [other for other in left if other[1] not in served]
        self._waiting += [other for other in left if other[1] in served]
        return list(missing)
