"""`chirp watch`: streams in the terminal, through the gateway. When the line breaks it comes back,
and says nothing twice: each message says where to go on from."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import grpc
from chirp.v1 import (
    notification_pb2,
    notification_pb2_grpc,
    timeline_pb2,
    timeline_pb2_grpc,
    trend_pb2,
    trend_pb2_grpc,
    tweet_pb2,
)

from mesh.settings import Settings
from mesh.streams import RESYNC_REQUIRED, TOKEN_EXPIRED
from ops import mint

BACK_FIRST_S, BACK_LAST_S = 0.2, 5.0
SILENCE_S = 30.0  # twice what a living stream may be silent
# What an open stream fails with when it is nobody's fault; anything else is told, and the end.
BROKEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)

Open = Callable[[str, tuple[tuple[str, str], ...]], Any]
"""Opens a stream, given a resume token and metadata."""


def home(settings: Settings, gateway: str, user: str, count: int | None) -> None:
    """Shows an account's home stream until Ctrl-C."""

    def opener(channel: grpc.aio.Channel) -> Open:
        stub = timeline_pb2_grpc.TimelineServiceStub(channel)
        return lambda token, metadata: stub.StreamHomeTimeline(
            timeline_pb2.StreamHomeTimelineRequest(resume_token=token), metadata=metadata
        )

    _run(gateway, opener, lambda: mint.token(settings, user), _tweet, count)


def notifications(settings: Settings, gateway: str, user: str, count: int | None) -> None:
    """Shows an account's notifications until Ctrl-C."""

    def opener(channel: grpc.aio.Channel) -> Open:
        stub = notification_pb2_grpc.NotificationServiceStub(channel)
        return lambda token, metadata: stub.StreamNotifications(
            notification_pb2.StreamNotificationsRequest(resume_token=token), metadata=metadata
        )

    _run(gateway, opener, lambda: mint.token(settings, user), _notification, count)


def trends(gateway: str, location: str, count: int | None) -> None:
    """Shows what trends at a place until Ctrl-C."""

    def opener(channel: grpc.aio.Channel) -> Open:
        stub = trend_pb2_grpc.TrendServiceStub(channel)
        return lambda _, metadata: stub.StreamTrends(
            trend_pb2.StreamTrendsRequest(location=location), metadata=metadata
        )

    _run(gateway, opener, None, _trends, count)


def _run(
    gateway: str,
    opener: Callable[[grpc.aio.Channel], Open],
    sign_in: Callable[[], Any] | None,
    render: Callable[[Any], list[str]],
    count: int | None,
) -> None:
    async def show() -> None:
        left = count
        async with grpc.aio.insecure_channel(urlsplit(gateway).netloc) as channel:
            async for item in _items(opener(channel), sign_in):
                for line in render(item):
                    print(line, flush=True)
                left = None if left is None else left - 1
                if left == 0:
                    return

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(show())


async def _items(open_stream: Open, sign_in: Callable[[], Any] | None) -> AsyncIterator[Any]:
    """Items for ever: comes back when the line breaks, less and less often while nobody answers."""
    token, access, wait_s = "", "", BACK_FIRST_S
    told = False
    while True:
        if sign_in is not None and not access:
            access = await sign_in()
        metadata = (("authorization", f"Bearer {access}"),) if access else ()
        reason = ""
        try:
            async for message in _until_silent(open_stream(token, metadata)):
                wait_s = BACK_FIRST_S
                if not told:
                    told = True
                    _say("watching; Ctrl-C stops")
                if message.HasField("end"):
                    reason, token = message.end.reason, message.end.resume_token or token
                    break
                token = getattr(message, "resume_token", "") or token
                if message.HasField("item"):
                    yield message.item
        except grpc.aio.AioRpcError as error:
            if error.code() not in BROKEN:
                raise OSError(f"the gateway says: {error.details()}") from None
        if reason == TOKEN_EXPIRED:
            access = ""
        if reason == RESYNC_REQUIRED:
            _say("what came meanwhile is no longer kept; beginning anew")
            token = ""
            continue
        _say(f"the stream ended{f' ({reason})' if reason else ''}; coming back")
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, BACK_LAST_S)


async def _until_silent(call: Any) -> AsyncIterator[Any]:
    """Messages, until there are no more or the stream is silent for too long to be alive."""
    try:
        while True:
            async with asyncio.timeout(SILENCE_S):
                message = await call.read()
            if message is grpc.aio.EOF:
                return
            yield message
    except TimeoutError:
        return
    finally:
        call.cancel()


def _tweet(tweet: tweet_pb2.Tweet) -> list[str]:
    who = f"@{tweet.author.username}"
    if tweet.HasField("retweeted_tweet"):
        original = tweet.retweeted_tweet
        return [_line(f"{who} retweeted @{original.author.username}: {_flat(original.content)}")]
    quoted = f'  "{_flat(tweet.quoted_tweet.content)}"' if tweet.HasField("quoted_tweet") else ""
    return [_line(f"{who}: {_flat(tweet.content)}{quoted}")]


_DID = {
    notification_pb2.Notification.MENTION: "mentioned you",
    notification_pb2.Notification.REPLY: "answered you",
    notification_pb2.Notification.LIKE: "liked your tweet",
    notification_pb2.Notification.RETWEET: "retweeted your tweet",
    notification_pb2.Notification.QUOTE: "quoted your tweet",
    notification_pb2.Notification.FOLLOW: "followed you",
}


def _notification(item: notification_pb2.Notification) -> list[str]:
    named = [f"@{actor.username}" for actor in item.actors[:3]]
    others = item.actor_count - len(named)
    if others:
        named.append(f"{others} more")
    who = (
        ", ".join(named[:-1]) + (" and " if named[1:] else "") + named[-1] if named else "somebody"
    )
    about = f" {item.tweet_id}" if item.tweet_id else ""
    return [_line(f"{who} {_DID.get(item.kind, 'did something')}{about}")]


def _trends(update: trend_pb2.TrendUpdate) -> list[str]:
    lines = [_line(f"{trend.rank:>2}. #{trend.tag} ({trend.count})") for trend in update.trends]
    for change in update.changes:
        tag = f"#{change.trend.tag}"
        if change.kind == trend_pb2.TREND_CHANGE_KIND_ENTERED:
            lines.append(_line(f"{tag} enters at {change.new_rank}"))
        elif change.kind == trend_pb2.TREND_CHANGE_KIND_LEFT:
            lines.append(_line(f"{tag} leaves from {change.old_rank}"))
        else:
            lines.append(_line(f"{tag} moves from {change.old_rank} to {change.new_rank}"))
    return lines


def _line(text: str) -> str:
    return f"{time.strftime('%H:%M:%S')}  {text}"


def _flat(text: str) -> str:
    """A tweet on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _say(text: str) -> None:
    print(f"chirp: {text}", file=sys.stderr, flush=True)
