"""Notifications beside a world: the server behind real gRPC, the worker stepped by hand."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from chirp.v1 import notification_pb2, notification_pb2_grpc

from eventlog import runner
from eventlog.runner import Runner
from servers import notification_server
from tests.integration.accounts import Account
from tests.integration.conftest import serving_process
from tests.world import World
from workers import notification_worker
from workers.notification_worker import NotificationWorker

KIND = notification_pb2.Notification
TABLES = (
    "notification_boxes",
    "notifications",
    "notification_actors",
    "notification_relations",
)

Told = tuple[str, int, int, frozenset[int]]
"""Kind, tweet, count and actors of a notification."""


@dataclass(slots=True)
class Notified:
    """Notifications, and what tests do with them."""

    world: World
    stub: "notification_pb2_grpc.NotificationServiceAsyncStub"
    worker: NotificationWorker
    group: Runner

    async def drain(self) -> None:
        """Moves everything committed through the log and into notifications."""
        deadline = time.monotonic() + 20
        while True:
            await self.world.relay_all()
            await self.group.step(20)
            if not sum((await self.group.lag()).values()):
                await self.world.relay_all()
                if not sum((await self.group.lag()).values()):
                    return
            assert time.monotonic() < deadline, "the event log does not drain"

    async def rewind(self) -> None:
        """Lets the group begin again with the oldest record of the log."""
        await self.world.event_log.rewind(notification_worker.GROUP)

    async def page(
        self, user: Account, *, limit: int = 20, cursor: str = ""
    ) -> notification_pb2.ListNotificationsResponse:
        """Returns one page."""
        return await self.stub.ListNotifications(
            notification_pb2.ListNotificationsRequest(limit=limit, cursor=cursor),
            metadata=user.metadata,
        )

    async def all(self, user: Account, *, limit: int = 20) -> list[notification_pb2.Notification]:
        """Returns all pages laid end to end."""
        found: list[notification_pb2.Notification] = []
        cursor = ""
        while True:
            page = await self.page(user, limit=limit, cursor=cursor)
            found += page.notifications
            assert page.has_more == bool(page.next_cursor)
            if not page.has_more:
                return found
            assert len(page.notifications) == limit
            cursor = page.next_cursor

    async def told(self, user: Account) -> list[Told]:
        """Returns what somebody is told, the newest first."""
        return [told(each) for each in await self.all(user)]

    async def mark(self, user: Account, up_to: int) -> int:
        """Marks as read; returns how many are left unread."""
        answer = await self.stub.MarkRead(
            notification_pb2.MarkReadRequest(up_to_id=up_to), metadata=user.metadata
        )
        return answer.unread_count

    async def unread(self, user: Account) -> int:
        """Returns how many are unread."""
        return (await self.page(user)).unread_count

    async def dump(self) -> list[list[tuple[Any, ...]]]:
        """Returns everything that is kept."""
        return [
            await self.world.accounts.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4")
            for table in TABLES
        ]

    async def check_counts(self) -> None:
        """Every number that is kept equals a recount."""
        wrong = await self.world.accounts.rows(
            "SELECT b.user_id, b.unread_count FROM notification_boxes AS b WHERE b.unread_count <>"
            " (SELECT count(*) FROM notifications AS n WHERE n.recipient_id = b.user_id"
            "  AND n.head_id > 0 AND n.head_id > b.read_to)"
        )
        wrong += await self.world.accounts.rows(
            "SELECT n.*, r.actors, r.head FROM notifications AS n CROSS JOIN LATERAL ("
            "  SELECT count(*) AS actors, coalesce(max(id), 0) AS head"
            "  FROM notification_actors AS a"
            "  WHERE (a.recipient_id, a.kind, a.subject_id) ="
            "   (n.recipient_id, n.kind, n.subject_id) AND a.standing AND NOT a.hidden) AS r"
            " WHERE n.actor_count <> r.actors"
            " OR n.head_id <> CASE WHEN n.gone THEN 0 ELSE r.head END"
        )
        assert wrong == []


def told(message: notification_pb2.Notification) -> Told:
    """Returns what a notification says."""
    actors = [actor.id for actor in message.actors]
    assert len(set(actors)) == len(actors) == min(message.actor_count, 10)
    return KIND.Kind.Name(message.kind), message.tweet_id, message.actor_count, frozenset(actors)


@asynccontextmanager
async def open_notified(world: World) -> AsyncGenerator[Notified]:
    """Opens notifications beside a world."""
    async with (
        serving_process(world.settings, notification_server.open_process) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        notification_worker.open_worker(world.settings) as worker,
        runner.open_runner(world.settings, notification_worker.GROUP, worker) as group,
    ):
        yield Notified(world, notification_pb2_grpc.NotificationServiceStub(channel), worker, group)
