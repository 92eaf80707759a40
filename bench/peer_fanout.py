"""Fan-out with other systems' command mixes beside Chirp's, on the same graph, in the same run.

A mix is the commands that a system sends to Redis to deliver one post, taken from its source:

    Mastodon     app/lib/feed_manager.rb (push_to_home: add_to_feed, trim, push_update_required?):
                 six commands for each follower
    Misskey      packages/backend/src/core/FanoutTimelineService.ts (push): LPUSH, and LTRIM for one
                 in ten, in a pipeline
    DeathStarBench  socialNetwork/src/HomeTimelineService/HomeTimelineHandler.h (WriteHomeTimeline):
                 ZADD NX in a pipeline, never trimmed
    textbook     LPUSH and LTRIM for each follower, in a pipeline

Everything is encoded before the clock starts, and several posts are under way on one connection, so
the client costs next to nothing. The systems' own lookups of followers and their job queues cost
nothing here; Chirp's figure has its log and its lookup in it.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from bench import resp
from bench.resp import Batch
from bench.rows import Row, at_least
from bench.stack import BenchStack
from bench.world import World
from domain.ids import UserId
from storage import bulk, valkey

FOLLOWERS = 10_000  # different ones, whose feeds are made: Mastodon's take 45 kB each
DELIVERIES = 300_000
MASTODON_DELIVERIES = 100_000
ALONE = 1_000
COMMANDS_UNDER_WAY = 4_000
FEED_LENGTH, LIST_LENGTH, TEXTBOOK_LENGTH = 400, 300, 800
FIRST_ID = 114_000_000_000_000_000
PER_PIPELINE = 1_000


def mastodon(post: Batch, follower: bytes, tweet: bytes, draw: random.Random) -> None:
    """The commands for a post that is no reblog, of a follower whose feed is full."""
    feed = b"peer:feed:" + follower
    post.add(b"ZSCORE", feed + b":reblogs", tweet)
    post.add(b"ZADD", feed, tweet, tweet)
    post.add(b"ZREMRANGEBYRANK", feed, b"0", b"-%d" % (FEED_LENGTH + 1))
    post.add(b"ZREVRANGE", feed, b"40", b"40", b"WITHSCORES")
    post.add(b"ZRANGEBYSCORE", feed + b":reblogs", b"0", b"%d" % FIRST_ID)
    post.add(b"EXISTS", b"subscribed:timeline:" + follower)


def misskey(post: Batch, follower: bytes, tweet: bytes, draw: random.Random) -> None:
    """The commands for a note that was written less than three minutes ago."""
    key = b"peer:feed:" + follower
    post.add(b"LPUSH", key, tweet)
    if draw.random() < 0.1:
        post.add(b"LTRIM", key, b"0", b"%d" % (LIST_LENGTH - 1))


def deathstarbench(post: Batch, follower: bytes, tweet: bytes, draw: random.Random) -> None:
    """The command for a post."""
    post.add(b"ZADD", b"peer:feed:" + follower, b"NX", tweet, tweet)


def textbook(post: Batch, follower: bytes, tweet: bytes, draw: random.Random) -> None:
    """The commands of the usual first design."""
    key = b"peer:feed:" + follower
    post.add(b"LPUSH", key, tweet)
    post.add(b"LTRIM", key, b"0", b"%d" % (TEXTBOOK_LENGTH - 1))


Deliver = Callable[[Batch, bytes, bytes, random.Random], None]


@dataclass(frozen=True, slots=True)
class Mix:
    """A system's way to deliver."""

    deliver: Deliver
    deliveries: int
    kind: str
    """What a feed is: `zset` or `list`."""
    length: int
    """How many entries a feed holds before."""
    what: str


MIXES = {
    "mastodon": Mix(
        mastodon, MASTODON_DELIVERIES, "zset", FEED_LENGTH,
        "Mastodon's six commands for each follower, but in pipelines",
    ),
    "misskey": Mix(
        misskey, DELIVERIES, "list", LIST_LENGTH,
        "Misskey's LPUSH, and LTRIM for one in ten, in pipelines",
    ),
    "deathstarbench": Mix(
        deathstarbench, DELIVERIES, "zset", FEED_LENGTH,
        "DeathStarBench's ZADD NX in pipelines, never trimmed",
    ),
    "textbook": Mix(
        textbook, DELIVERIES, "list", TEXTBOOK_LENGTH,
        "LPUSH and LTRIM 0 799 for each follower, in pipelines",
    ),
}  # fmt: skip


async def measure(stack: BenchStack, world: World, ours: float) -> list[Row]:
    """The rows; `ours` is Chirp's fan-out in this run, in deliveries a second."""
    audiences = await _audiences(stack, world)
    keys = sorted({b"peer:feed:" + follower for each in audiences for follower in each})
    url = stack.settings.valkey_url
    rows: list[Row] = []
    for name, mix in MIXES.items():
        await _fill(stack, keys, mix.kind, mix.length)
        encoded = list(encode(audiences, mix.deliver, mix.deliveries))
        delivered = sum(count for count, _ in encoded)
        seconds = await resp.pump(url, [post for _, post in encoded], COMMANDS_UNDER_WAY)
        alone = ""
        if mix.deliver is mastodon:
            some = sorted({follower for each in audiences for follower in each})[:ALONE]
            alone_s = await resp.pump(url, _singly(some), under_way=1)
            alone = f" (one command at a time, as it does it: {len(some) / alone_s:,.0f})"
        rate = delivered / seconds
        rows.append(
            at_least(
                f"peer_{name}_fanout", rate, "deliveries/s", ratio=rate / ours,
                against=f"Chirp's fan-out {ours:,.0f}",
                how=f"command mix: {mix.what}{alone}; {len(encoded):,} posts by"
                f" {len(audiences)} authors drawn by followers, {delivered / len(encoded):.0f}"
                f" deliveries each, into {len(keys):,} feeds that hold {mix.length} entries;"
                " encoded before the clock starts, one connection, several posts under way; no"
                " follower lookup, no queue, client on the same cores; Chirp's figure has its log"
                " and its lookup in it",
            )
        )  # fmt: skip
        await _drop(stack, keys)
    return rows


def encode(
    audiences: Sequence[Sequence[bytes]], deliver: Deliver, wanted: int
) -> Iterator[tuple[int, Batch]]:
    """Yields posts to these audiences in turns, each with how many it goes to, until there are
    `wanted` deliveries."""
    draw = random.Random(6)  # noqa: S311 -- not a secret
    delivered = 0
    for number, audience in enumerate(itertools.cycle(audiences)):
        post, tweet = Batch(), b"%d" % (FIRST_ID + 1_000 + number)
        for follower in audience:
            deliver(post, follower, tweet, draw)
        yield len(audience), post
        delivered += len(audience)
        if delivered >= wanted:
            return


def _singly(audience: Sequence[bytes]) -> list[Batch]:
    """Mastodon's commands, each as a post of its own."""
    whole = Batch()
    for follower in audience:
        mastodon(whole, follower, b"%d" % (FIRST_ID + 900_000), random.Random(6))  # noqa: S311
    return [Batch(1, [part]) for part in whole.parts]


async def _audiences(stack: BenchStack, world: World) -> list[list[bytes]]:
    """The followers of authors who are drawn by their followers, until enough different ones."""
    draw = random.Random(2)  # noqa: S311 -- not a secret
    counts = list(accumulate(world.follower_counts))
    audiences: list[list[bytes]] = []
    seen: set[UserId] = set()
    async with bulk.connect(stack.settings) as connection:
        while len(seen) < FOLLOWERS:
            (author,) = draw.choices(world.accounts, cum_weights=counts)
            cursor = await connection.execute(
                "SELECT follower_id FROM follows WHERE followee_id = %s", (author,)
            )
            followers = [UserId(row[0]) for row in await cursor.fetchall()]
            seen.update(followers)
            audiences.append([b"%d" % follower for follower in followers])
    return audiences


async def _fill(stack: BenchStack, keys: Sequence[bytes], kind: str, length: int) -> None:
    """Gives every follower a full feed of older entries."""
    template = "peer:template"
    ids = [FIRST_ID - number for number in range(length)]
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        await cache.delete(template)
        if kind == "zset":
            await cache.zadd(template, {str(one): one for one in ids})
        else:
            await cache.rpush(template, *ids)
        for start in range(0, len(keys), PER_PIPELINE):
            pipeline = cache.pipeline(transaction=False)
            for key in keys[start : start + PER_PIPELINE]:
                pipeline.copy(template, key.decode(), replace=True)
            await pipeline.execute()
        await cache.delete(template)


async def _drop(stack: BenchStack, keys: Sequence[bytes]) -> None:
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        for start in range(0, len(keys), PER_PIPELINE):
            await cache.unlink(*keys[start : start + PER_PIPELINE])
