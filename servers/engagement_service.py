"""TweetService: likes and retweets, and who made them. What is done to a retweet is done to its
original."""

from collections.abc import Sequence

from chirp.v1 import events_pb2, tweet_pb2, user_pb2, user_pb2_grpc

from domain import paging
from domain.errors import TweetNotFound, Unauthenticated
from domain.ids import MAX_ID, TweetId, UserId
from mesh.rpc import Call
from servers import tweet_records, tweet_writer
from servers.announcer import Announcer
from servers.tweet_reader import TweetReader
from servers.tweet_service import check_id, new_row
from servers.tweet_writer import Written
from storage import likes, outbox, retweets, tweets
from storage.database import Connection, Pool
from storage.likes import Listed
from storage.snowflakes import IdMinter
from storage.tweets import CountChange, Target


class EngagementService:
    """Every change is idempotent and commits with its count and its event, or not at all."""

    def __init__(
        self,
        *,
        pool: Pool,
        ids: IdMinter,
        reader: TweetReader,
        announcer: Announcer,
        directory: "user_pb2_grpc.UserDirectoryServiceAsyncStub",
    ) -> None:
        self._pool = pool
        self._ids = ids
        self._reader = reader
        self._announcer = announcer
        self._directory = directory

    async def CreateLike(self, request: tweet_pb2.CreateLikeRequest, call: Call) -> bytes:
        """Likes a tweet."""
        target = await self._target(request.id)
        await self._reader.refuse_blocked(call.caller, target.author_id)
        return await self._change_like(target, call.caller, liked=True)

    async def DeleteLike(self, request: tweet_pb2.DeleteLikeRequest, call: Call) -> bytes:
        """Takes a like back."""
        return await self._change_like(await self._target(request.id), call.caller, liked=False)

    async def CreateRetweet(self, request: tweet_pb2.CreateRetweetRequest, call: Call) -> bytes:
        """Retweets a tweet."""
        target = await self._target(request.id)
        await self._reader.refuse_blocked(call.caller, target.author_id)
        async with self._pool.connection() as connection, connection.transaction():
            written = await self._retweet(connection, target, call.caller)
        await self._announcer.created(written, tweet_records.from_row(written.row))
        return await self._reader.answer_id(target.id, call.caller)

    async def DeleteRetweet(self, request: tweet_pb2.DeleteRetweetRequest, call: Call) -> bytes:
        """Undoes a retweet."""
        target = await self._target(request.id, undone=True)
        async with self._pool.connection() as connection, connection.transaction():
            written = await self._undo(connection, target, call.caller)
        if written is not None:
            await self._announcer.deleted(written)
        else:
            await self._announcer.marked(call.caller)
        return await self._reader.answer_id(target.id, call.caller)

    async def ListLikers(
        self, request: tweet_pb2.ListLikersRequest, call: Call
    ) -> tweet_pb2.ListLikersResponse:
        """Lists who likes a tweet, the newest like first."""
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        below = paging.decode_cursor(request.cursor) or MAX_ID
        target = await self._target(request.id)
        listed = await likes.fetch_likers(
            self._pool, TweetId(target.id), below=below, count=limit + 1
        )
        return tweet_pb2.ListLikersResponse(
            users=await self._users(listed[:limit], call),
            next_cursor=_next_cursor(listed, limit),
            has_more=len(listed) > limit,
        )

    async def ListRetweeters(
        self, request: tweet_pb2.ListRetweetersRequest, call: Call
    ) -> tweet_pb2.ListRetweetersResponse:
        """Lists who retweeted a tweet, the newest retweet first."""
        limit = paging.limit(request.limit if request.HasField("limit") else None)
        below = paging.decode_cursor(request.cursor) or MAX_ID
        target = await self._target(request.id)
        listed = await retweets.fetch_retweeters(
            self._pool, TweetId(target.id), below=below, count=limit + 1
        )
        return tweet_pb2.ListRetweetersResponse(
            users=await self._users(listed[:limit], call),
            next_cursor=_next_cursor(listed, limit),
            has_more=len(listed) > limit,
        )

    async def _target(self, tweet_id: int, *, undone: bool = False) -> Target:
        check_id("id", tweet_id)
        return await self._reader.target(tweet_id, undone=undone)

    async def _change_like(self, target: Target, user: UserId, *, liked: bool) -> bytes:
        async with self._pool.connection() as connection, connection.transaction():
            version = await self._write_like(connection, target, user, liked=liked)
        if version is not None:
            await self._announcer.counted(target.id, version)
        await self._announcer.marked(user)
        return await self._reader.answer_id(target.id, user)

    async def _write_like(
        self, connection: Connection, target: Target, user: UserId, *, liked: bool
    ) -> int | None:
        """Returns the tweet's new version, or None where nothing changed."""
        if not await tweets.lock_user(connection, user):
            raise Unauthenticated("the account of this token is gone")
        tweet = TweetId(target.id)
        if liked:
            like_id = self._ids.mint()
            changed = await likes.insert(connection, user=user, tweet=tweet, like_id=like_id)
        else:
            changed = await likes.delete(connection, user=user, tweet=tweet)
        if not changed:
            return None
        change = CountChange(likes=1 if liked else -1)
        counted = await tweets.change_counts(connection, {target.id: change}, living=True)
        if not counted:
            raise TweetNotFound("no such tweet")
        event = tweet_writer.new_event()
        kind = event.tweet_liked if liked else event.tweet_unliked
        _fill(kind, user, target)
        kind.changed.extend(await tweet_writer.purge(connection, counted))
        await outbox.insert(connection, partition_key=user, payload=event.SerializeToString())
        return counted[0][1]

    async def _retweet(self, connection: Connection, target: Target, user: UserId) -> Written:
        """Returns the retweet that was there where there was one."""
        if not await tweets.lock_user(connection, user):
            raise Unauthenticated("the account of this token is gone")
        own = await retweets.fetch_own(connection, user, TweetId(target.id))
        if own is not None:
            return Written(own, ())
        row = new_row(TweetId(self._ids.mint()), user)._replace(
            retweet_of=target.id,
            original_author_id=target.author_id,
        )
        return await tweet_writer.insert(connection, row, request_id="", location="")

    async def _undo(self, connection: Connection, target: Target, user: UserId) -> Written | None:
        if not await tweets.lock_user(connection, user):
            raise Unauthenticated("the account of this token is gone")
        own = await retweets.fetch_own(connection, user, TweetId(target.id))
        return None if own is None else await tweet_writer.delete(connection, own)

    async def _users(self, listed: Sequence[Listed], call: Call) -> list[user_pb2.User]:
        if not listed:
            return []
        answer = await self._directory.BatchGetUsers(
            user_pb2.BatchGetUsersRequest(
                ids=[each.user_id for each in listed], viewer_id=call.user_id or 0
            ),
        )
        users = {user.id: user for user in answer.users}
        return [users[each.user_id] for each in listed if each.user_id in users]


def _fill(
    kind: events_pb2.TweetLiked | events_pb2.TweetUnliked, user: UserId, target: Target
) -> None:
    kind.user_id = user
    kind.tweet_id = target.id
    kind.author_id = target.author_id


def _next_cursor(listed: Sequence[Listed], limit: int) -> str:
    return paging.encode_cursor(listed[limit - 1].position) if len(listed) > limit else ""
