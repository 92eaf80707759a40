"""Calls by gRPC through the gateway: for many operations a second from one process."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
from chirp.v1 import (
    graph_pb2,
    graph_pb2_grpc,
    timeline_pb2,
    timeline_pb2_grpc,
    tweet_pb2,
    tweet_pb2_grpc,
)

from tests.soak import api
from tests.soak.api import TIMEOUT_S, Counts, Page, Person, Post, Posted
from tests.soak.model import Outcome, Shown

Code = grpc.StatusCode
T = TypeVar("T")

# What is answered to a call that is right, while others change what it speaks of.
REFUSED = {Code.PERMISSION_DENIED, Code.NOT_FOUND, Code.ALREADY_EXISTS}
# What a client may meet while parts are down.
AWAY = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.CANCELLED}


class GrpcApi:
    """See Api."""

    def __init__(self, channel: grpc.aio.Channel, counts: Counts) -> None:
        self._tweets = tweet_pb2_grpc.TweetServiceStub(channel)
        self._graph = graph_pb2_grpc.GraphServiceStub(channel)
        self._timelines = timeline_pb2_grpc.TimelineServiceStub(channel)
        self._counts = counts
        self.flaws: list[str] = []

    async def post(self, person: Person, post: Post) -> Posted:
        """See Api."""
        request = tweet_pb2.CreateTweetRequest(
            content=post.content,
            request_id=post.request_id,
            reply_to=post.target if post.operation == "reply" else 0,
            quote_of=post.target if post.operation == "quote" else 0,
        )
        call = self._tweets.CreateTweet(request, metadata=_bearer(person), timeout=TIMEOUT_S)
        outcome, tweet = await self._call(post.operation, call)
        return Posted(outcome, tweet.id if tweet else 0)

    async def delete(self, person: Person, tweet: int) -> Outcome:
        """See Api."""
        request = tweet_pb2.DeleteTweetRequest(id=tweet)
        call = self._tweets.DeleteTweet(request, metadata=_bearer(person), timeout=TIMEOUT_S)
        return (await self._call("delete", call))[0]

    async def change(self, operation: str, person: Person, other: int) -> Outcome:
        """See Api."""
        metadata = _bearer(person)
        tweets, graph = self._tweets, self._graph
        match operation:
            case "like":
                call = tweets.CreateLike(
                    tweet_pb2.CreateLikeRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "unlike":
                call = tweets.DeleteLike(
                    tweet_pb2.DeleteLikeRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "retweet":
                call = tweets.CreateRetweet(
                    tweet_pb2.CreateRetweetRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "undo retweet":
                call = tweets.DeleteRetweet(
                    tweet_pb2.DeleteRetweetRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "follow":
                call = graph.FollowUser(
                    graph_pb2.FollowUserRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "unfollow":
                call = graph.UnfollowUser(
                    graph_pb2.UnfollowUserRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "block":
                call = graph.BlockUser(
                    graph_pb2.BlockUserRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "unblock":
                call = graph.UnblockUser(
                    graph_pb2.UnblockUserRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "mute":
                call = graph.MuteUser(
                    graph_pb2.MuteUserRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case "unmute":
                call = graph.UnmuteUser(
                    graph_pb2.UnmuteUserRequest(id=other), metadata=metadata, timeout=TIMEOUT_S
                )
            case _:
                raise ValueError(operation)
        return (await self._call(operation, call))[0]

    async def home_page(self, person: Person, *, limit: int, cursor: str = "") -> Page | None:
        """See Api."""
        asked_at = asyncio.get_running_loop().time()
        request = timeline_pb2.GetHomeTimelineRequest(limit=limit, cursor=cursor)
        call = self._timelines.GetHomeTimeline(request, metadata=_bearer(person), timeout=TIMEOUT_S)
        _, answer = await self._call("read", call)
        if answer is None:
            return None
        tweets = [_shown(tweet) for tweet in answer.tweets]
        return api.page(tweets, answer.next_cursor, answer.has_more, limit, asked_at)

    async def _call(self, operation: str, call: Awaitable[T]) -> tuple[Outcome, T | None]:
        """Awaits a call. An internal error, or an answer to a right call as if it were wrong, is a
        flaw."""
        counts = self._counts
        counts.calls[operation] += 1
        try:
            return Outcome.DONE, await call
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code in REFUSED:
                counts.refused[f"{operation}: {code.name}"] += 1
                return Outcome.REFUSED, None
            counts.failed[f"{operation}: {code.name}"] += 1
            if code not in AWAY:
                self.flaws.append(f"{operation} is answered {code.name}: {error.details()}")
            return Outcome.FAILED, None


@asynccontextmanager
async def open_api(url: str, counts: Counts) -> AsyncGenerator[GrpcApi]:
    """Opens a client of a gateway."""
    async with grpc.aio.insecure_channel(url.removeprefix("http://")) as channel:
        yield GrpcApi(channel, counts)


def _bearer(person: Person) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {person.token}"),)


def _shown(tweet: tweet_pb2.Tweet) -> Shown:
    repeated = tweet.retweeted_tweet if tweet.HasField("retweeted_tweet") else None
    outer = repeated or tweet
    quoted = outer.quoted_tweet if outer.HasField("quoted_tweet") else None
    return Shown(
        id=tweet.id,
        author=tweet.author_id,
        original=tweet.retweet_of,
        original_author=repeated.author_id if repeated else 0,
        reply_to=tweet.reply_to,
        quoted=quoted.id if quoted else 0,
        quoted_author=quoted.author_id if quoted else 0,
    )
