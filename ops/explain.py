"""`chirp explain USER TWEET`: why a tweet is or is not in somebody's home timeline, as a running
timeline_server says it."""

import time
from collections.abc import Iterator

import grpc
from chirp.v1 import timeline_pb2, timeline_pb2_grpc
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from domain.ids import UserId
from mesh import clients
from mesh.settings import Settings
from mesh.tokens import TokenSigner
from ops import accounts
from storage import database

TOKEN_LIFETIME_S = 60
SERVICE = "chirp.v1.TimelineService"

Explanation = timeline_pb2.ExplainHomeTimelineResponse


async def show(settings: Settings, user: str, tweet_id: int) -> RenderableType:
    """Returns the answer for a username or an account's id, for people. Raises LookupError where
    there is no such account, ConnectionError where timeline_server does not answer."""
    async with database.open_pool(settings, size_max=1) as pool, pool.connection() as connection:
        viewer = (await accounts.find(connection, user)).id
    return report(await ask(settings, viewer, tweet_id))


async def ask(settings: Settings, viewer: UserId, tweet_id: int) -> Explanation:
    """Asks timeline_server, as the viewer would. Raises ConnectionError."""
    # Nobody signed in, so there is no session to end: the token lives for a minute.
    token = TokenSigner(settings).sign_user(viewer, 0, lifetime_s=TOKEN_LIFETIME_S, now=time.time())
    async with clients.channel(settings, settings.timeline_target, SERVICE) as channel:
        try:
            return await timeline_pb2_grpc.TimelineServiceStub(channel).ExplainHomeTimeline(
                timeline_pb2.ExplainHomeTimelineRequest(tweet_id=tweet_id),
                metadata=(("authorization", f"Bearer {token}"),),
            )
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(
                f"timeline_server answers {error.code().name}: {error.details()}"
            ) from error


def report(answer: Explanation) -> RenderableType:
    """Returns the sentence, and under it the fields that say something."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for name, value in _fields(answer):
        table.add_row(name, value)
    return Group(Text(answer.sentence), "", table)


def _fields(answer: Explanation) -> Iterator[tuple[str, str]]:
    yield "shown", "yes" if answer.shown else "no"
    reason = timeline_pb2.ExplainReason.Name(answer.reason)
    yield "reason", reason.removeprefix("EXPLAIN_REASON_")
    if answer.way:
        yield "way", timeline_pb2.ExplainWay.Name(answer.way).removeprefix("EXPLAIN_WAY_")
    if answer.account_id:
        yield "account", str(answer.account_id)
    if answer.older_entry_id:
        yield "older entry", str(answer.older_entry_id)
    if answer.lag_ms:
        yield "lag", f"{answer.lag_ms} ms"
