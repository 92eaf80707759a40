"""Presents notifications: rows of our own tables, names from graph_server."""

from collections.abc import Sequence

from chirp.v1 import notification_pb2, user_pb2, user_pb2_grpc

from storage.notifications import NotificationRow

NAMES_EACH = 1_000  # as many as a page of 100 with 10 actors each may hold


class NotificationPresenter:
    """Makes messages of rows."""

    def __init__(self, directory: "user_pb2_grpc.UserDirectoryServiceAsyncStub") -> None:
        self._directory = directory

    async def present(
        self, rows: Sequence[NotificationRow], *, read_to: int
    ) -> list[notification_pb2.Notification]:
        """Returns the messages of rows, in their order; an account that is gone is not named.
        Raises AioRpcError where graph_server is away."""
        names = await self._names({actor for row in rows for actor in row.actors})
        presented: list[notification_pb2.Notification] = []
        for row in rows:
            message = notification_pb2.Notification(
                id=row.id,
                kind=notification_pb2.Notification.Kind.ValueType(row.kind),
                actors=[names[actor] for actor in row.actors if actor in names],
                actor_count=row.actor_count,
                tweet_id=row.subject,
                read=row.id <= read_to,
            )
            message.created_at.FromDatetime(row.head_at)
            presented.append(message)
        return presented

    async def _names(self, actors: set[int]) -> dict[int, user_pb2.UserSummary]:
        names: dict[int, user_pb2.UserSummary] = {}
        asked = list(actors)
        for start in range(0, len(asked), NAMES_EACH):
            answer = await self._directory.BatchGetUserSummaries(
                user_pb2.BatchGetUserSummariesRequest(ids=asked[start : start + NAMES_EACH]),
            )
            names |= {user.id: user for user in answer.users}
        return names
