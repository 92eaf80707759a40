"""NotificationService: the stream. Notifications are kept in PostgreSQL, so a stream is a place in
the caller's box from which on it reads; the event log only wakes it.

A slow reader holds nothing up: what it has not taken waits in the database. A place rises in the
order of commits, so nothing ever appears behind one that a stream has passed.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from chirp.v1 import graph_pb2, graph_pb2_grpc, notification_pb2

from domain import notification
from domain.ids import UserId
from mesh.rpc import Call
from mesh.streams import HEARTBEAT, RESYNC_REQUIRED, Answers, Ended
from mesh.tasks import raise_if_cancelled
from servers.log_tail import LogTail, Seen
from servers.notification_presenter import NotificationPresenter
from storage import notifications
from storage.database import Pool
from storage.notifications import NotificationRow

READ_EACH = 50


class NotificationStreams:
    """The open streams of notifications, woken by what `tail` sees."""

    def __init__(
        self,
        pool: Pool,
        presenter: NotificationPresenter,
        blocks: "graph_pb2_grpc.BlockDirectoryServiceAsyncStub",
        tail: LogTail,
    ) -> None:
        self._pool = pool
        self._presenter = presenter
        self._blocks = blocks
        self._tail = tail
        tail.listen(self._on_seen, self._on_begin)
        self._wakes: dict[UserId, set[asyncio.Event]] = {}

    async def StreamNotifications(
        self, request: notification_pb2.StreamNotificationsRequest, call: Call
    ) -> Answers:
        """Streams what is new for the caller."""
        user = call.caller
        place = notification.decode_token(request.resume_token)
        with self._tail.attended(), self._waking(user) as wake:
            box = await notifications.fetch_box(self._pool, user)
            if place is None:
                place = box.last_id
            elif not box.pruned_to <= place <= box.last_id:
                raise Ended(RESYNC_REQUIRED)
            call.stream.resume_token = notification.encode_token(place)
            yield HEARTBEAT
            while True:
                raise_if_cancelled()
                wake.clear()
                page = await notifications.fetch_newer(
                    self._pool, user, than=place, count=READ_EACH
                )
                rows = await self._without_hidden(user, page.rows)
                messages = await self._presenter.present(rows, read_to=page.box.read_to)
                for message in messages:
                    token = notification.encode_token(message.id)
                    call.stream.resume_token = token
                    yield notification_pb2.StreamNotificationsResponse(
                        item=message, resume_token=token
                    )
                place = max((row.id for row in page.rows), default=place)
                call.stream.resume_token = notification.encode_token(place)
                if len(page.rows) < READ_EACH:
                    await wake.wait()

    def _on_seen(self, batch: list[Seen]) -> None:
        """Wakes the streams of accounts that have something new."""
        for seen in batch:
            if seen.event.HasField("notifications_changed"):
                for wake in self._wakes.get(UserId(seen.event.notifications_changed.user_id), ()):
                    wake.set()

    def _on_begin(self) -> None:
        """Wakes all: what the log said before is not known."""
        for wakes in self._wakes.values():
            for wake in wakes:
                wake.set()

    async def _without_hidden(
        self, user: UserId, rows: Sequence[NotificationRow]
    ) -> list[NotificationRow]:
        """Leaves out actors that were blocked or muted just now: the worker may not know yet."""
        actors = {actor for row in rows for actor in row.actors}
        if not actors:
            return []
        answer = await self._blocks.BatchGetBlocks(
            graph_pb2.BatchGetBlocksRequest(user_id=user, other_ids=actors),
        )
        hidden = {*answer.blocked_ids, *answer.muted_ids}
        if hidden.isdisjoint(actors):
            return list(rows)
        shown: list[NotificationRow] = []
        for row in rows:
            left = [actor for actor in row.actors if actor not in hidden]
            if left:
                count = row.actor_count - (len(row.actors) - len(left))
                shown.append(replace(row, actors=left, actor_count=count))
        return shown

    @contextmanager
    def _waking(self, user: UserId) -> Generator[asyncio.Event]:
        wake = asyncio.Event()
        self._wakes.setdefault(user, set()).add(wake)
        try:
            yield wake
        finally:
            self._wakes[user].discard(wake)
            if not self._wakes[user]:
                del self._wakes[user]
