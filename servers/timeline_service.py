"""TimelineService: the RPCs of timeline_server."""

from collections.abc import Collection, Container, Sequence

from chirp.v1 import timeline_pb2

from domain import paging
from domain.errors import InvalidArgument, UserNotFound
from domain.ids import UserId
from domain.timeline import COUNT_NEWER_MAX, Viewer
from mesh.rpc import Call
from servers import tweet_records
from servers.home_skeleton import Asked, HomeSkeleton
from servers.purge_feed import PurgeFeed
from servers.quick_pages import QuickPages
from servers.tweet_hydrator import TweetHydrator
from servers.tweet_presenter import ANONYMOUS, Marks, TweetPresenter, View
from servers.tweet_records import Record
from servers.viewer_marks import ViewerMarks
from storage import candidates
from storage.database import Pool


class TimelineService:
    """Reads home and user timelines."""

    def __init__(
        self,
        *,
        pool: Pool,
        skeleton: HomeSkeleton,
        hydrator: TweetHydrator,
        presenter: TweetPresenter,
        marks: ViewerMarks,
        feed: PurgeFeed,
        quick: QuickPages,
    ) -> None:
        self._pool = pool
        self._skeleton = skeleton
        self._hydrator = hydrator
        self._presenter = presenter
        self._marks = marks
        self._feed = feed
        self._quick = quick

    async def GetHomeTimeline(
        self, request: timeline_pb2.GetHomeTimelineRequest, call: Call
    ) -> bytes:
        """Gets a page of the caller's home timeline."""
        asked = Asked(
            below=paging.decode_cursor(request.cursor),
            above=_tweet_id("sinceId", request.since_id),
            limit=paging.limit(request.limit if request.HasField("limit") else None),
        )
        quick = await self._quick.page(call.caller, asked)
        if quick is not None:
            return quick
        deleted: set[int] = set()
        while True:
            # skeleton, with the rules that need no tweet
            skeleton = await self._skeleton.page(call.caller, asked, deleted)
            page = skeleton.page
            ids = [entry[0] for entry in page.entries]
            # hydrate
            records = await self._hydrate([*ids, *page.originals])
            # rules: a candidate, or what it repeats, may have been deleted; then the page moves up
            gone = _gone([*ids, *page.originals], records)
            if not gone:
                break
            deleted |= gone
        # present
        view = _Viewing(skeleton.viewer, self._marks, skeleton.marks_token)
        return await self._present([records[i] for i in ids], view, has_more=page.has_more)

    async def CountNewer(
        self, request: timeline_pb2.CountNewerRequest, call: Call
    ) -> timeline_pb2.CountNewerResponse:
        """Counts the entries newer than an id."""
        if request.since_id < 1:
            raise InvalidArgument.of("sinceId", "must be a tweet id")
        asked = Asked(below=None, above=request.since_id, limit=COUNT_NEWER_MAX)
        deleted = set(self._hydrator.deleted)
        while True:
            page = (await self._skeleton.page(call.caller, asked, deleted)).page
            gone = _gone(page.originals, await self._hydrate(page.originals))
            if not gone:
                return timeline_pb2.CountNewerResponse(count=len(page.entries))
            deleted |= gone

    async def GetUserTimeline(
        self, request: timeline_pb2.GetUserTimelineRequest, call: Call
    ) -> bytes:
        """Gets a page of what one account posted."""
        if request.id < 1:
            raise InvalidArgument.of("id", "must be an account's id")
        below = paging.decode_cursor(request.cursor)
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        user = UserId(request.id)
        kept: list[Record] = []
        while True:
            # One more than asked for tells whether there is a next page.
            wanted = limit + 1 - len(kept)
            ids = await candidates.fetch_by_author(self._pool, user, below=below, limit=wanted)
            if ids is None:
                raise UserNotFound("no such account")
            records = await self._hydrate(ids)
            gone = _gone(ids, records)
            kept += [records[i] for i in ids if i not in gone]
            if len(ids) < wanted or len(kept) > limit:
                break
            below = ids[-1]
        view = ANONYMOUS if call.user_id is None else await self._view(call.user_id)
        return await self._present(kept[:limit], view, has_more=len(kept) > limit)

    async def _hydrate(self, ids: Sequence[int]) -> dict[int, Record]:
        return await self._hydrator.hydrate(ids, trusted=self._feed.fresh) if ids else {}

    async def _view(self, user: UserId) -> View:
        viewer, marks_token = await self._skeleton.viewing(user)
        return _Viewing(viewer, self._marks, marks_token)

    async def _present(self, records: Sequence[Record], view: View, *, has_more: bool) -> bytes:
        return tweet_records.page_bytes(
            await self._presenter.frames(records, view, self._hydrate),
            next_cursor=records[-1].cursor() if has_more else "",
            has_more=has_more,
        )


class _Viewing:
    """The view of a viewer whose relations are known."""

    def __init__(self, viewer: Viewer, marks: ViewerMarks, token: bytes | None) -> None:
        self._viewer = viewer
        self._marks = marks
        self._token = token

    async def marks(self, ids: Collection[int]) -> Marks | None:
        """See View."""
        return await self._marks.of(self._viewer.id, ids, self._token)

    async def hidden(self, accounts: Collection[int]) -> Container[int]:
        """See View."""
        return self._viewer.hidden


def _gone(ids: Sequence[int], records: dict[int, Record]) -> set[int]:
    return {i for i in ids if (record := records.get(i)) is None or record.deleted}


def _tweet_id(field: str, value: int) -> int:
    if value < 0:
        raise InvalidArgument.of(field, "must be a tweet id")
    return value
