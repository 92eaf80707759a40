"""TimelineService: the RPCs of timeline_server."""

from collections.abc import Sequence

from chirp.v1 import timeline_pb2

from domain import paging
from domain.errors import InvalidArgument, UserNotFound
from domain.ids import UserId
from domain.timeline import COUNT_NEWER_MAX
from mesh.rpc import Call
from servers import tweet_records
from servers.home_skeleton import Asked, HomeSkeleton
from servers.purge_feed import PurgeFeed
from servers.tweet_hydrator import TweetHydrator
from servers.tweet_records import Record
from servers.user_names import UserNames
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
        names: UserNames,
        feed: PurgeFeed,
    ) -> None:
        self._pool = pool
        self._skeleton = skeleton
        self._hydrator = hydrator
        self._names = names
        self._feed = feed

    async def GetHomeTimeline(
        self, request: timeline_pb2.GetHomeTimelineRequest, call: Call
    ) -> bytes:
        """Gets a page of the caller's home timeline."""
        asked = Asked(
            below=paging.decode_cursor(request.cursor),
            above=_tweet_id("sinceId", request.since_id),
            limit=paging.limit(request.limit if request.HasField("limit") else None),
        )
        deleted: set[int] = set()
        while True:
            # skeleton, with the rules that need no tweet
            page = await self._skeleton.page(call.caller, asked, deleted)
            ids = [entry[0] for entry in page.entries]
            # hydrate
            records = await self._hydrator.hydrate(ids, trusted=self._feed.fresh)
            # rules: a candidate may have been deleted; then the page moves up
            gone = _gone(ids, records)
            if not gone:
                break
            deleted |= gone
        # present
        return await self._present([records[i] for i in ids], has_more=page.has_more)

    async def CountNewer(
        self, request: timeline_pb2.CountNewerRequest, call: Call
    ) -> timeline_pb2.CountNewerResponse:
        """Counts the entries newer than an id."""
        if request.since_id < 1:
            raise InvalidArgument.of("sinceId", "must be a tweet id")
        asked = Asked(below=None, above=request.since_id, limit=COUNT_NEWER_MAX)
        page = await self._skeleton.page(call.caller, asked, self._hydrator.deleted)
        return timeline_pb2.CountNewerResponse(count=len(page.entries))

    async def GetUserTimeline(
        self, request: timeline_pb2.GetUserTimelineRequest, call: Call
    ) -> bytes:
        """Gets a page of what one account posted."""
        if request.id < 1:
            raise InvalidArgument.of("id", "must be an account's id")
        below = paging.decode_cursor(request.cursor)
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        user = UserId(request.id)
        if not await candidates.user_exists(self._pool, user):
            raise UserNotFound("no such account")
        kept: list[Record] = []
        while True:
            # One more than asked for tells whether there is a next page.
            wanted = limit + 1 - len(kept)
            ids = await candidates.fetch_by_author(self._pool, user, below=below, limit=wanted)
            records = await self._hydrator.hydrate(ids, trusted=self._feed.fresh)
            gone = _gone(ids, records)
            kept += [records[i] for i in ids if i not in gone]
            if len(ids) < wanted or len(kept) > limit:
                break
            below = ids[-1]
        return await self._present(kept[:limit], has_more=len(kept) > limit)

    async def _present(self, records: Sequence[Record], *, has_more: bool) -> bytes:
        # Frames hold as long as no name changed; looking each name up costs a tenth of a page.
        generation, fresh = self._names.generation, self._feed.fresh
        if fresh and {record.framed_at for record in records} == {generation}:
            self._names.hits += len(records)
        else:
            await self._frame(records, generation, trusted=fresh)
        return tweet_records.page_bytes(
            [record.kept_frame for record in records],
            next_cursor=records[-1].cursor() if has_more else "",
            has_more=has_more,
        )

    async def _frame(self, records: Sequence[Record], generation: int, *, trusted: bool) -> None:
        authors = {record.author_id for record in records}
        fields = await self._names.fields(authors, trusted=trusted)
        for record in records:
            record.frame(fields[record.author_id])
            kept = trusted and self._names.keeps(record.author_id)
            record.framed_at = generation if kept else -1


def _gone(ids: Sequence[int], records: dict[int, Record]) -> set[int]:
    return {i for i in ids if (record := records.get(i)) is None or record.deleted}


def _tweet_id(field: str, value: int) -> int:
    if value < 0:
        raise InvalidArgument.of(field, "must be a tweet id")
    return value
