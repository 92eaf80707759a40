"""TweetService: creating, reading and deleting tweets. Likes, retweets and threads stand in
`engagement_service.py` and `thread_service.py`."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

from chirp.v1 import tweet_pb2, user_pb2, user_pb2_grpc

from domain import tweet as rules
from domain.errors import InvalidArgument, NotYours, TweetNotFound, Unauthenticated
from domain.fanout import Delivery
from domain.ids import TweetId, UserId, minted_at_ms
from mesh.rpc import Call
from servers import tweet_reader, tweet_records, tweet_writer
from servers.announcer import Announcer
from servers.group_commit import GroupCommit, Plain
from servers.tweet_reader import TweetReader
from servers.tweet_writer import AlreadyPosted, Notices, Written
from storage import tweets
from storage.database import Connection, Pool
from storage.snowflakes import IdMinter
from storage.tweets import Target, TweetRow

BATCH_MAX = 100


class TweetService:
    """Creates, reads and deletes tweets. Every change commits with its event, or not at all."""

    def __init__(
        self,
        *,
        pool: Pool,
        ids: IdMinter,
        group_commit: GroupCommit,
        reader: TweetReader,
        announcer: Announcer,
        directory: "user_pb2_grpc.UserDirectoryServiceAsyncStub",
    ) -> None:
        self._pool = pool
        self._ids = ids
        self._group_commit = group_commit
        self._reader = reader
        self._announcer = announcer
        self._directory = directory

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
        referred = await self._look_up(draft, call.caller)
        try:
            written = await self._write(call.caller, draft, referred)
        except AlreadyPosted:
            # What follows is done again: it may be why the client did not get the first answer.
            written = Written(await self._posted(call.caller, draft.request_id), ())
            await self._announcer.created(written, tweet_records.from_row(written.row))
            return await self._reader.answer(written.row, call.caller)
        record = tweet_records.from_row(written.row)
        await self._announcer.created(written, record)
        return await self._reader.answer_new(record, written.author, call.caller)

    async def GetTweet(self, request: tweet_pb2.GetTweetRequest, call: Call) -> bytes:
        """Gets a tweet that is not deleted."""
        check_id("id", request.id)
        return await self._reader.answer_id(request.id, call.user_id)

    async def BatchGetTweets(self, request: tweet_pb2.BatchGetTweetsRequest, call: Call) -> bytes:
        """Gets tweets in the order asked for, unknown and deleted ones left out."""
        if not 1 <= len(request.ids) <= BATCH_MAX:
            raise InvalidArgument.of("ids", f"must hold 1 to {BATCH_MAX} ids")
        for position, tweet_id in enumerate(request.ids):
            check_id(f"ids[{position}]", tweet_id)
        rows = {row.id: row for row in await tweets.fetch_living(self._pool, request.ids)}
        found = [rows[tweet_id] for tweet_id in request.ids if tweet_id in rows]
        frames = await self._reader.frames(found, call.user_id)
        return tweet_records.page_bytes(frames, next_cursor="", has_more=False)

    async def DeleteTweet(
        self, request: tweet_pb2.DeleteTweetRequest, call: Call
    ) -> tweet_pb2.DeleteTweetResponse:
        """Deletes the caller's own tweet; of a retweet, undoes it."""
        check_id("id", request.id)
        rows = await tweets.fetch_by_ids(self._pool, [request.id])
        if not rows or rows[0].deleted_at is not None:
            raise TweetNotFound("no such tweet")
        if rows[0].author_id != call.caller:
            raise NotYours("only its author can delete a tweet")
        async with self._pool.connection() as connection, connection.transaction():
            written = await tweet_writer.delete(connection, rows[0])
        await self._announcer.deleted(written)
        return tweet_pb2.DeleteTweetResponse()

    async def _look_up(self, draft: rules.Draft, author: UserId) -> "_Referred":
        asked = [target for target in (draft.reply_to, draft.quote_of) if target]
        targets = await tweets.fetch_targets(self._pool, asked) if asked else {}
        authors = {target.author_id for target in targets.values()}
        mentions = await self._resolve(draft.mentioned_names)
        blocked = await self._reader.blocked_among(author, authors.union(mentions))
        return _Referred(mentions, targets, blocked)

    async def _write(self, author: UserId, draft: rules.Draft, referred: "_Referred") -> Written:
        if not draft.reply_to and not draft.quote_of:
            plain = Plain(
                author=author,
                request_id=draft.request_id,
                location=draft.location,
                notices=referred.notices(draft),
                row=lambda tweet_id: _new_row(tweet_id, author, draft, referred),
            )
            written = await self._group_commit.write(plain)
            if written is not None:
                return written
        async with self._pool.connection() as connection, connection.transaction():
            return await self._insert(connection, author, draft, referred)

    async def _insert(
        self, connection: Connection, author: UserId, draft: rules.Draft, referred: "_Referred"
    ) -> Written:
        """The transaction of a tweet that goes alone. The author's row is locked first: from there
        on, ids in the outbox grow in the order of this author's commits."""
        if not await tweets.lock_user(connection, author):
            raise Unauthenticated("the account of this token is gone")
        # Before it is refused: what the tweet refers to may be gone, or blocked, since.
        if await tweets.was_posted(connection, author, draft.request_id):
            raise AlreadyPosted
        row = _new_row(TweetId(self._ids.mint()), author, draft, referred)
        if not referred.blocked.isdisjoint(
            target.author_id for target in referred.targets.values()
        ):
            raise tweet_reader.blocked()
        return await tweet_writer.insert(
            connection,
            row,
            request_id=draft.request_id,
            location=draft.location,
            notices=referred.notices(draft),
        )

    async def _posted(self, author: UserId, request_id: str) -> TweetRow:
        row = await tweets.fetch_by_request(self._pool, author, request_id)
        if row is None or row.deleted_at is not None:
            raise TweetNotFound("the tweet of this requestId was deleted")
        return row

    async def _resolve(self, names: Sequence[str]) -> list[int]:
        """Returns the accounts mentioned, in order of appearance."""
        if not names:
            return []
        answer = await self._directory.ResolveUsernames(
            user_pb2.ResolveUsernamesRequest(usernames=names)
        )
        by_name = {user.username.lower(): user.id for user in answer.users}
        return [by_name[name] for name in names if name in by_name]


def check_id(field: str, value: int) -> None:
    """Raises InvalidArgument for what cannot be a tweet's id."""
    if value < 1:
        raise InvalidArgument.of(field, "must be a tweet id")


def new_row(tweet_id: TweetId, author: UserId) -> TweetRow:
    """Returns a tweet that says nothing yet."""
    return TweetRow(
        id=tweet_id,
        author_id=author,
        content="",
        media_urls=[],
        hashtags=[],
        mentions=[],
        reply_to=None,
        replied_author_id=None,
        retweet_of=None,
        original_author_id=None,
        quote_of=None,
        conversation_id=tweet_id,
        location="",
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


@dataclass(frozen=True, slots=True)
class _Referred:
    """What a draft refers to, looked up before the transaction: while it holds the author's row,
    no other server is asked."""

    mentions: Sequence[int]
    targets: Mapping[int, Target]
    blocked: Set[int]
    """Those of the mentioned, and of the targets' authors, that block the author or are blocked."""

    def notices(self, draft: rules.Draft) -> Notices:
        """Returns who is to be notified, and who is not."""
        return Notices(
            quoted_author=self.targets[draft.quote_of].author_id if draft.quote_of else 0,
            refused_mentions=[user for user in self.mentions if user in self.blocked],
        )


def _new_row(
    tweet_id: TweetId, author: UserId, draft: rules.Draft, referred: _Referred
) -> TweetRow:
    """Returns the tweet of a draft; what it answers or quotes is a retweet's original."""
    for field, target in (("replyTo", draft.reply_to), ("quoteOf", draft.quote_of)):
        if target and target not in referred.targets:
            raise TweetNotFound(f"{field}: no such tweet")
    parent = referred.targets[draft.reply_to] if draft.reply_to else None
    quoted = referred.targets[draft.quote_of] if draft.quote_of else None
    return new_row(tweet_id, author)._replace(
        content=draft.content,
        media_urls=list(draft.media_urls),
        hashtags=list(draft.hashtags),
        mentions=list(referred.mentions),
        reply_to=parent.id if parent else None,
        replied_author_id=parent.author_id if parent else None,
        conversation_id=parent.conversation_id if parent else tweet_id,
        quote_of=quoted.id if quoted else None,
    )
