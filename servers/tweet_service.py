"""TweetService and TweetRecordService: the RPCs of tweet_server."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from chirp.v1 import events_pb2, tweet_pb2, user_pb2, user_pb2_grpc

from domain import fanout
from domain import tweet as rules
from domain.errors import InvalidArgument, NotYours, TweetNotFound, Unauthenticated
from domain.fanout import Delivery
from domain.ids import TweetId, UserId, minted_at_ms
from mesh.clients import Metadata
from mesh.rpc import Call
from servers import tweet_records
from servers.purge_feed import PurgeFeed
from servers.user_names import UserNames
from storage import outbox, purges, tweet_cache, tweets
from storage.database import Connection, Pool
from storage.snowflakes import IdMinter
from storage.timelines import TimelineStore, tweet_entry
from storage.tweets import TweetRow
from storage.valkey import Valkey, best_effort

BATCH_MAX = 100
RECORDS_MAX = 1_000


class _AlreadyPosted(Exception):
    """The author used this request id before; raised to roll the transaction back."""


class TweetService:
    """Creates, reads and deletes tweets. Every change commits with its event, or not at all."""

    def __init__(
        self,
        *,
        pool: Pool,
        ids: IdMinter,
        timelines: TimelineStore,
        cache: Valkey,
        directory: "user_pb2_grpc.UserDirectoryServiceAsyncStub",
        names: UserNames,
        feed: PurgeFeed,
        metadata: Metadata,
    ) -> None:
        self._pool = pool
        self._ids = ids
        self._timelines = timelines
        self._cache = cache
        self._directory = directory
        self._names = names
        self._feed = feed
        self._metadata = metadata

    async def CreateTweet(self, request: tweet_pb2.CreateTweetRequest, call: Call) -> bytes:
        """Creates a tweet; the same request id answers the same tweet."""
        draft = rules.draft(
            content=request.content,
            media_urls=request.media_urls,
            location=request.location,
            reply_to=request.reply_to,
            quote_of=request.quote_of,
            request_id=request.request_id,
        )
        mentions = await self._resolve(draft.mentioned_names)
        try:
            async with self._pool.connection() as connection, connection.transaction():
                row, changed = await self._insert(connection, call.caller, draft, mentions)
        except _AlreadyPosted:
            # What follows is done again: it may be why the client did not get the first answer.
            row, changed = await self._posted(call.caller, draft.request_id), []
        record = tweet_records.from_row(row)
        stored = {change.tweet_id: tweet_cache.stale(change.version) for change in changed}
        stored[row.id] = tweet_cache.encode(row.version, record.SerializeToString())
        await best_effort(
            "putting a tweet into its author's timeline",
            self._timelines.push_own(call.caller, _entry(row)),
        )
        await best_effort("caching a tweet", tweet_cache.put(self._cache, stored))
        return await self._answer(row)

    async def GetTweet(self, request: tweet_pb2.GetTweetRequest, call: Call) -> bytes:
        """Gets a tweet that is not deleted."""
        _check_id("id", request.id)
        for row in await tweets.fetch_by_ids(self._pool, [request.id]):
            if row.deleted_at is None:
                return await self._answer(row)
        raise TweetNotFound("no such tweet")

    async def BatchGetTweets(self, request: tweet_pb2.BatchGetTweetsRequest, call: Call) -> bytes:
        """Gets tweets in the order asked for, unknown and deleted ones left out."""
        if not 1 <= len(request.ids) <= BATCH_MAX:
            raise InvalidArgument.of("ids", f"must hold 1 to {BATCH_MAX} ids")
        for position, tweet_id in enumerate(request.ids):
            _check_id(f"ids[{position}]", tweet_id)
        rows = {row.id: row for row in await tweets.fetch_by_ids(self._pool, request.ids)}
        found = [rows[tweet_id] for tweet_id in request.ids if tweet_id in rows]
        living = [row for row in found if row.deleted_at is None]
        frames = map(tweet_records.frame, await self._bytes_of(living))
        return tweet_records.page_bytes(frames, next_cursor="", has_more=False)

    async def DeleteTweet(
        self, request: tweet_pb2.DeleteTweetRequest, call: Call
    ) -> tweet_pb2.DeleteTweetResponse:
        """Deletes the caller's own tweet."""
        _check_id("id", request.id)
        rows = await tweets.fetch_by_ids(self._pool, [request.id])
        if not rows or rows[0].deleted_at is not None:
            raise TweetNotFound("no such tweet")
        if rows[0].author_id != call.caller:
            raise NotYours("only its author can delete a tweet")
        async with self._pool.connection() as connection, connection.transaction():
            gone, changed = await self._delete(connection, call.caller, rows[0])
        await best_effort(
            "taking a tweet out of its author's timeline",
            self._timelines.remove_own(call.caller, _entry(gone)),
        )
        stored = {change.tweet_id: tweet_cache.stale(change.version) for change in changed}
        await best_effort("caching a deletion", tweet_cache.put(self._cache, stored))
        return tweet_pb2.DeleteTweetResponse()

    async def _insert(
        self, connection: Connection, author: UserId, draft: rules.Draft, mentions: Sequence[int]
    ) -> tuple[TweetRow, list[events_pb2.TweetVersion]]:
        """The transaction of CreateTweet. The author's row is locked first: from there on, ids in
        the outbox grow in the order of this author's commits."""
        stamp = await tweets.count_tweet(connection, author, +1)
        if stamp is None:
            raise Unauthenticated("the account of this token is gone")
        # Before anything else is looked at: what the tweet refers to may be gone since.
        if await tweets.was_posted(connection, author, draft.request_id):
            raise _AlreadyPosted
        tweet_id = TweetId(self._ids.mint())
        delivery = fanout.plan(stamp.tier)
        row = _new_row(tweet_id, author, draft, mentions)
        row = replace(row, delivery=int(delivery), location=draft.location or stamp.location)
        row, changed = await self._refer(connection, row)
        await tweets.insert(connection, row, draft.request_id or None)
        first_pulled = delivery is Delivery.PULL and stamp.first_pulled_tweet_id is None
        if first_pulled:
            await tweets.mark_pulled(connection, author, tweet_id)
        event = _event()
        created = event.tweet_created
        created.entry.CopyFrom(_entry_message(row))
        created.delivery = events_pb2.Delivery.ValueType(row.delivery)
        created.first_pulled = first_pulled
        created.hashtags.extend(row.hashtags)
        created.mentions.extend(row.mentions)
        created.reply_to = row.reply_to or 0
        created.quote_of = row.quote_of or 0
        created.location = row.location
        created.changed.extend(changed)
        await outbox.insert(connection, partition_key=author, payload=event.SerializeToString())
        return row, changed

    async def _posted(self, author: UserId, request_id: str) -> TweetRow:
        row = await tweets.fetch_by_request(self._pool, author, request_id)
        if row is None or row.deleted_at is not None:
            raise TweetNotFound("the tweet of this requestId was deleted")
        return row

    async def _refer(
        self, connection: Connection, row: TweetRow
    ) -> tuple[TweetRow, list[events_pb2.TweetVersion]]:
        """Fills in what a reply or a quote refers to, and counts it there. What refers to a retweet
        refers to its original."""
        asked = [target for target in (row.reply_to, row.quote_of) if target is not None]
        if not asked:
            return row, []
        targets = await tweets.fetch_targets(connection, asked)
        for field, target in (("replyTo", row.reply_to), ("quoteOf", row.quote_of)):
            if target is not None and target not in targets:
                raise TweetNotFound(f"{field}: no such tweet")
        parent = targets[row.reply_to] if row.reply_to is not None else None
        quoted = targets[row.quote_of] if row.quote_of is not None else None
        row = replace(
            row,
            reply_to=parent.id if parent else None,
            replied_author_id=parent.author_id if parent else None,
            conversation_id=parent.conversation_id if parent else row.id,
            quote_of=quoted.id if quoted else None,
        )
        counted = await tweets.count_answers(
            connection, reply_to=row.reply_to, quote_of=row.quote_of, change=+1
        )
        if len(counted) != len({row.reply_to, row.quote_of} - {None}):
            raise TweetNotFound("the tweet referred to was deleted")
        return row, await _purge(connection, counted)

    async def _delete(
        self, connection: Connection, author: UserId, row: TweetRow
    ) -> tuple[TweetRow, list[events_pb2.TweetVersion]]:
        """The transaction of DeleteTweet; locks in the order of storage/tweets.py: the author, then
        what the tweet refers to, which is older, then the tweet."""
        if not await tweets.lock_living(connection, author, TweetId(row.id)):
            raise TweetNotFound("no such tweet")
        await tweets.count_tweet(connection, author, -1)
        counted = await tweets.count_answers(
            connection, reply_to=row.reply_to, quote_of=row.quote_of, change=-1
        )
        gone = await tweets.delete(connection, TweetId(row.id))
        changed = await _purge(connection, [*counted, (gone.id, gone.version)])
        event = _event()
        event.tweet_deleted.entry.CopyFrom(_entry_message(gone))
        event.tweet_deleted.delivery = events_pb2.Delivery.ValueType(gone.delivery)
        event.tweet_deleted.changed.extend(changed)
        await outbox.insert(connection, partition_key=author, payload=event.SerializeToString())
        return gone, changed

    async def _resolve(self, names: Sequence[str]) -> list[int]:
        """Returns the accounts mentioned, in order of appearance."""
        if not names:
            return []
        answer = await self._directory.ResolveUsernames(
            user_pb2.ResolveUsernamesRequest(usernames=names), metadata=self._metadata
        )
        by_name = {user.username.lower(): user.id for user in answer.users}
        return [by_name[name] for name in names if name in by_name]

    async def _answer(self, row: TweetRow) -> bytes:
        return (await self._bytes_of([row]))[0]

    async def _bytes_of(self, rows: Sequence[TweetRow]) -> list[bytes]:
        fields = await self._names.fields({row.author_id for row in rows}, trusted=self._feed.fresh)
        return [
            tweet_records.tweet_bytes(
                tweet_records.from_proto(tweet_records.from_row(row)), fields[row.author_id]
            )
            for row in rows
        ]


class TweetRecordService:
    """Gives other servers the stored form of tweets."""

    def __init__(self, *, pool: Pool, cache: Valkey) -> None:
        self._pool = pool
        self._cache = cache

    async def BatchGetTweetRecords(
        self, request: tweet_pb2.BatchGetTweetRecordsRequest, call: Call
    ) -> tweet_pb2.BatchGetTweetRecordsResponse:
        """Gets records from PostgreSQL, and puts them into the shared cache."""
        if not 1 <= len(request.ids) <= RECORDS_MAX:
            raise InvalidArgument.of("ids", f"must hold 1 to {RECORDS_MAX} ids")
        rows = await tweets.fetch_by_ids(self._pool, request.ids)
        records = [tweet_records.from_row(row) for row in rows]
        stored = {
            record.id: tweet_cache.encode(record.version, record.SerializeToString())
            for record in records
        }
        if stored:
            await best_effort("caching tweets", tweet_cache.put(self._cache, stored))
        return tweet_pb2.BatchGetTweetRecordsResponse(records=records)


async def _purge(
    connection: Connection, counted: Sequence[tuple[int, int]]
) -> list[events_pb2.TweetVersion]:
    """Tells all servers to forget what they keep of changed tweets."""
    for tweet_id, version in counted:
        await purges.insert(connection, purges.Kind.TWEET, tweet_id, version)
    return [events_pb2.TweetVersion(tweet_id=t, version=version) for t, version in counted]


def _new_row(
    tweet_id: TweetId, author: UserId, draft: rules.Draft, mentions: Sequence[int]
) -> TweetRow:
    return TweetRow(
        id=tweet_id,
        author_id=author,
        content=draft.content,
        media_urls=list(draft.media_urls),
        hashtags=list(draft.hashtags),
        mentions=list(mentions),
        reply_to=draft.reply_to or None,
        replied_author_id=None,
        retweet_of=None,
        original_author_id=None,
        quote_of=draft.quote_of or None,
        conversation_id=tweet_id,
        location=draft.location,
        like_count=0,
        retweet_count=0,
        reply_count=0,
        quote_count=0,
        delivery=int(Delivery.PUSH),
        version=1,
        # The id and the time tell the same story: a timeline by id is a timeline by time.
        created_at=datetime.fromtimestamp(minted_at_ms(tweet_id) / 1000, UTC),
        deleted_at=None,
    )


def _entry(row: TweetRow) -> tuple[TweetId, UserId, TweetId, UserId]:
    other = row.original_author_id or row.replied_author_id
    return tweet_entry(row.id, row.author_id, row.retweet_of, other)


def _entry_message(row: TweetRow) -> events_pb2.TimelineEntry:
    return events_pb2.TimelineEntry(
        tweet_id=row.id,
        author_id=row.author_id,
        original_id=row.retweet_of or 0,
        original_author_id=row.original_author_id or 0,
        replied_author_id=row.replied_author_id or 0,
    )


def _event() -> events_pb2.Event:
    event = events_pb2.Event()
    event.occurred_at.FromMilliseconds(int(time.time() * 1000))
    return event


def _check_id(field: str, value: int) -> None:
    if value < 1:
        raise InvalidArgument.of(field, "must be a tweet id")
