"""NotificationService: the list and its mark. `notification_streams.py` has the stream."""

from chirp.v1 import notification_pb2

from domain import notification, paging
from domain.errors import InvalidArgument
from domain.notification import Cursor
from mesh.rpc import Call
from servers.notification_presenter import NotificationPresenter
from storage import notifications
from storage.database import Pool


class NotificationService:
    """Reads notifications, and marks them as read."""

    def __init__(self, pool: Pool, presenter: NotificationPresenter) -> None:
        self._pool = pool
        self._presenter = presenter

    async def ListNotifications(
        self, request: notification_pb2.ListNotificationsRequest, call: Call
    ) -> notification_pb2.ListNotificationsResponse:
        """Gets a page of the caller's notifications, and how many are unread."""
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        cursor = notification.decode_cursor(request.cursor)
        page = await notifications.fetch_page(self._pool, call.caller, cursor, count=limit + 1)
        rows = page.rows[:limit]
        answer = notification_pb2.ListNotificationsResponse(
            notifications=await self._presenter.present(rows, read_to=page.box.read_to),
            unread_count=page.box.unread_count,
        )
        if len(page.rows) > limit:
            newest = cursor.newest if cursor else page.box.last_id
            answer.next_cursor = notification.encode_cursor(Cursor(newest, rows[-1].place))
            answer.has_more = True
        return answer

    async def MarkRead(
        self, request: notification_pb2.MarkReadRequest, call: Call
    ) -> notification_pb2.MarkReadResponse:
        """Marks what stands at an id or below."""
        if request.up_to_id < 1:
            raise InvalidArgument.of("upToId", "must be a notification's id")
        unread = await notifications.mark_read(self._pool, call.caller, up_to=request.up_to_id)
        return notification_pb2.MarkReadResponse(unread_count=unread)
