"""Named places in the code where a test makes what passes crash, wait, or find the cache away."""

import asyncio
import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import redis.exceptions

from eventlog.contract import Record
from eventlog.valkey_consumer import ValkeyConsumer
from servers.announcer import Announcer
from storage import outbox, posts
from storage.followers import FollowerStore
from storage.messages import Connection, Rows, Statement
from storage.timelines import TimelineStore, WindowKind
from storage.tweets import TweetRow
from storage.valkey_connection import Command
from workers.fanout_worker import FanoutWorker

RELAY_CRASHES = ("appended, not marked", "marked")
FANOUT_CRASHES = ("caches told, nothing pushed", "one shard pushed", "all pushed, not committed")
REBUILD_HOLDS = ("relations read", "rebuild begun", "snapshot read")
COMMIT_HOLD = "outbox row taken, not committed"
LOSABLE = ("drop", "push_own", "remove_own", "drop_marks", "drop_pulled_token")
DELAY_MS = 3_600_000


class Crash(BaseException):
    """The process dies here. No Exception: nothing that handles errors may handle it."""


@dataclass
class Gate:
    """Holds the first that comes, until it is opened."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class Points:
    """What is to happen where. Each crash and each gate is for one passage."""

    def __init__(self) -> None:
        self.reset()
        self._consumer: ValkeyConsumer | None = None

    def reset(self) -> None:
        """Nothing is to happen any more."""
        self.crash_at: str | None = None
        self.lose_cache_calls = False
        self.late_partitions: set[int] = set()
        self._gates: dict[tuple[str, int], Gate] = {}

    def hold(self, point: str, who: int) -> Gate:
        """Makes the next of `who` to reach a point wait there."""
        gate = self._gates[point, who] = Gate()
        return gate

    def deliver_all(self) -> None:
        """Ends the delay of all partitions."""
        if self._consumer is not None:
            for partition in self.late_partitions:
                self._consumer.pause(partition, 0)
        self.late_partitions.clear()

    async def reach(self, point: str, who: int = 0) -> None:
        """Passes a point."""
        if self.crash_at == point:
            self.crash_at = None
            raise Crash(point)
        gate = self._gates.pop((point, who), None)
        if gate is not None:
            gate.arrived.set()
            await gate.opened.wait()

    def lose(self, what: str) -> None:
        """Passes a call to the cache."""
        if self.lose_cache_calls:
            raise redis.exceptions.ConnectionError(f"{what} is lost")

    def deliverable(self, consumer: ValkeyConsumer, records: list[Record]) -> list[Record]:
        """Keeps back the records of late partitions."""
        self._consumer = consumer
        for partition in {r.partition for r in records} & self.late_partitions:
            consumer.pause(partition, DELAY_MS)
        return [r for r in records if r.partition not in self.late_partitions]


@contextmanager
def installed() -> Generator[Points]:
    """Puts the points into the code."""
    points = Points()
    with pytest.MonkeyPatch.context() as patch:
        _around(patch, outbox, "mark_sent", points, RELAY_CRASHES[0], RELAY_CRASHES[1])
        _around(patch, FanoutWorker, "_set_aside", points, None, FANOUT_CRASHES[0])
        _around(patch, FollowerStore, "apply", points, None, FANOUT_CRASHES[1])
        _around(patch, FanoutWorker, "handle", points, None, FANOUT_CRASHES[2])
        _around(
            patch, TimelineStore, "begin_rebuild", points, "relations read", "rebuild begun",
            _viewer,
        )  # fmt: skip
        _around(patch, TimelineStore, "commit_rebuild", points, "snapshot read", None, _viewer)
        _around(
            patch, outbox, "insert", points, None, COMMIT_HOLD,
            lambda _, rest: int(rest["partition_key"]),
        )  # fmt: skip
        _before_commits(patch, points)
        for name in LOSABLE:
            _losable(patch, name, points)
        _losable_news(patch, points)
        poll = ValkeyConsumer.poll

        async def delayed(self: ValkeyConsumer, max_records: int, wait_ms: int) -> list[Record]:
            return points.deliverable(self, await poll(self, max_records, wait_ms))

        patch.setattr(ValkeyConsumer, "poll", delayed)
        yield points


def _nobody(_args: tuple[Any, ...], _rest: dict[str, Any]) -> int:
    return 0


def _viewer(args: tuple[Any, ...], _rest: dict[str, Any]) -> int:
    _, kind, user = args[:3]
    return user if kind is WindowKind.TIMELINE else 0


def _around(
    patch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    points: Points,
    before: str | None,
    after: str | None,
    who: Callable[[tuple[Any, ...], dict[str, Any]], int] = _nobody,
) -> None:
    call = getattr(owner, name)

    @functools.wraps(call)
    async def passing(*args: Any, **rest: Any) -> Any:
        if before is not None:
            await points.reach(before, who(args, rest))
        result = await call(*args, **rest)
        if after is not None:
            await points.reach(after, who(args, rest))
        return result

    patch.setattr(owner, name, passing)


def _before_commits(patch: pytest.MonkeyPatch, points: Points) -> None:
    """The commit's gate for tweets that are written together."""
    commit = posts.commit

    async def passing(
        connection: Connection,
        tweets: Sequence[tuple[TweetRow, str]],
        events: Sequence[bytes],
        **rest: Any,
    ) -> None:
        class Holding:
            async def together(self, statements: Sequence[Statement]) -> list[Rows]:
                rows = await connection.together(statements[:-1])
                for row, _ in tweets:
                    await points.reach(COMMIT_HOLD, row.author_id)
                return rows + await connection.together(statements[-1:])

        await commit(cast(Connection, Holding()), tweets, events, **rest)

    patch.setattr(posts, "commit", passing)


def _losable(patch: pytest.MonkeyPatch, name: str, points: Points) -> None:
    call = getattr(TimelineStore, name)

    @functools.wraps(call)
    async def losing(*args: Any, **rest: Any) -> Any:
        points.lose(name)
        return await call(*args, **rest)

    patch.setattr(TimelineStore, name, losing)


def _losable_news(patch: pytest.MonkeyPatch, points: Points) -> None:
    """Of new tweets the cache hears by the connection that calls share."""
    sent = Announcer._sent  # pyright: ignore[reportPrivateUsage]

    async def losing(self: Announcer, commands: Sequence[Command]) -> bool:
        return points.lose_cache_calls or await sent(self, commands)

    patch.setattr(Announcer, "_sent", losing)
