"""Many clients at once, on two tweet servers: whatever the interleaving, every count equals a
recount from the rows, every change is told once, and nobody waits for nobody."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest_asyncio
from chirp.v1 import tweet_pb2, tweet_pb2_grpc

from mesh.settings import Settings
from servers import tweet_server
from tests.integration.accounts import Account
from tests.integration.conftest import serving_process
from tests.integration.recount import assert_counts_are_exact, assert_the_log_gives_the_tables
from tests.world import World, open_world

# What a call may run into when others delete and block; a deadlock or an outage is none of these.
EXPECTED = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED}


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    async with open_world(settings) as opened:
        yield opened


@dataclass
class Crowd:
    """People who use one tweet server or the other, and what they know of."""

    world: World
    people: list[Account]
    servers: "list[tweet_pb2_grpc.TweetServiceAsyncStub]"
    tweets: list[tuple[Account, int]] = field(default_factory=list[tuple[Account, int]])
    liked: list[tuple[Account, int]] = field(default_factory=list[tuple[Account, int]])
    refusals: Counter[grpc.StatusCode] = field(default_factory=Counter[grpc.StatusCode])

    async def trying(self, call: Awaitable[Any]) -> Any:
        """Awaits a call that may be refused."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if error.code() not in EXPECTED:
                raise
            self.refusals[error.code()] += 1
            return None

    async def post(self, chance: random.Random, who: Account, **fields: Any) -> None:
        """Posts, and remembers it for the others."""
        request = tweet_pb2.CreateTweetRequest(content="at once", **fields)
        call = chance.choice(self.servers).CreateTweet(request, metadata=who.metadata)
        tweet = await self.trying(call)
        if tweet is not None:
            self.tweets.append((who, tweet.id))

    async def engage(self, chance: random.Random) -> None:
        """Does one thing to one tweet, often to the same one as everybody else."""
        who, server = chance.choice(self.people), chance.choice(self.servers)
        author, tweet = chance.choice(self.tweets[-4:] if chance.random() < 0.7 else self.tweets)
        call: Any
        request: Any
        match chance.choices(range(8), weights=(5, 4, 5, 4, 3, 3, 1, 2))[0]:
            case 0:
                self.liked.append((who, tweet))
                call, request = server.CreateLike, tweet_pb2.CreateLikeRequest
            case 1:
                who, tweet = chance.choice(self.liked or [(who, tweet)])
                call, request = server.DeleteLike, tweet_pb2.DeleteLikeRequest
            case 2:
                call, request = server.CreateRetweet, tweet_pb2.CreateRetweetRequest
            case 3:
                call, request = server.DeleteRetweet, tweet_pb2.DeleteRetweetRequest
            case 4:
                return await self.post(
                    chance, who, reply_to=tweet, quote_of=chance.choice([0, tweet])
                )
            case 5:
                other = chance.choice(self.tweets)[1]
                return await self.post(chance, who, reply_to=other, quote_of=tweet)
            case 6:
                who = author
                call, request = server.DeleteTweet, tweet_pb2.DeleteTweetRequest
            case _:
                return await self.relate(chance, who)
        # The same call twice at once, now and then.
        await asyncio.gather(
            *(
                self.trying(call(request(id=tweet), metadata=who.metadata))
                for _ in range(chance.choice((1, 1, 2)))
            )
        )
        return None

    async def relate(self, chance: random.Random, who: Account) -> None:
        """Follows, unfollows, blocks or unblocks."""
        other = chance.choice([each for each in self.people if each is not who])
        accounts = self.world.accounts
        calls = (accounts.follow, accounts.unfollow, accounts.block, accounts.unblock)
        (call,) = chance.choices(calls, weights=(4, 2, 1, 3))
        await self.trying(call(who, other))


@pytest_asyncio.fixture
async def crowd(world: World) -> AsyncGenerator[Crowd]:
    async with (
        serving_process(
            world.settings.model_copy(update={"listen": "127.0.0.1:0"}), tweet_server.open_process
        ) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        people = await world.accounts.insert(6)
        crowd = Crowd(world, people, [world.tweets, tweet_pb2_grpc.TweetServiceStub(channel)])
        for who in people:
            crowd.tweets.append((who, (await world.post(who)).id))
        yield crowd


async def test_counts_equal_a_recount_after_everything_at_once(crowd: Crowd):
    async def client(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(25):
            await crowd.engage(chance)

    await asyncio.gather(*(client(seed) for seed in range(24)))

    await assert_counts_are_exact(crowd.world.accounts)
    await assert_the_log_gives_the_tables(crowd.world.accounts)
    assert set(crowd.refusals) == EXPECTED, "nobody met a deletion, or a block"
    kinds = {event.WhichOneof("kind") for _, event in await crowd.world.accounts.events()}
    assert kinds >= {"tweet_liked", "tweet_unliked", "tweet_created", "tweet_deleted"}


async def test_counts_that_are_answered_equal_the_rows_too(crowd: Crowd):
    chance = random.Random(5)
    await asyncio.gather(*(crowd.engage(chance) for _ in range(200)))
    await crowd.world.drain()

    stored = {
        row[0]: row[1:]
        for row in await crowd.world.accounts.rows(
            "SELECT id, like_count, retweet_count, reply_count, quote_count FROM tweets"
            " WHERE deleted_at IS NULL"
        )
    }
    seen = 0
    for who in crowd.people:
        for tweet in (await crowd.world.home_page(who, limit=100)).tweets:
            counts = (
                tweet.like_count, tweet.retweet_count, tweet.reply_count, tweet.quote_count,
            )  # fmt: skip
            assert counts == stored[tweet.id]
            seen += any(counts)
    assert seen > 0


async def test_same_call_from_many_clients_at_once_counts_once(crowd: Crowd):
    one, other = crowd.servers
    (_, tweet), who = crowd.tweets[0], crowd.people[1]
    told = len(await crowd.world.accounts.events())

    async def many(name: str, request: Any) -> list[tweet_pb2.Tweet]:
        return await asyncio.gather(
            *(
                getattr(server, name)(request, metadata=who.metadata)
                for server in (one, other)
                for _ in range(10)
            )
        )

    for name, counts in (
        ("CreateLike", (1, 0)),
        ("CreateRetweet", (1, 1)),
        ("DeleteLike", (0, 1)),
        ("DeleteRetweet", (0, 0)),
    ):
        for answer in await many(name, getattr(tweet_pb2, f"{name}Request")(id=tweet)):
            assert (answer.like_count, answer.retweet_count) == counts

    kinds = [event.WhichOneof("kind") for _, event in await crowd.world.accounts.events()]
    assert kinds[told:] == ["tweet_liked", "tweet_created", "tweet_unliked", "tweet_deleted"]
    await assert_counts_are_exact(crowd.world.accounts)


async def test_likes_race_the_deletion_of_their_tweet(crowd: Crowd):
    async def race(author: Account, tweet: int) -> None:
        delete = tweet_pb2.DeleteTweetRequest(id=tweet)
        calls: list[Awaitable[Any]] = []
        for number, who in enumerate(crowd.people):
            server = crowd.servers[number % 2]
            like = tweet_pb2.CreateLikeRequest(id=tweet)
            retweet = tweet_pb2.CreateRetweetRequest(id=tweet)
            calls.append(crowd.trying(server.CreateLike(like, metadata=who.metadata)))
            calls.append(crowd.trying(server.CreateRetweet(retweet, metadata=who.metadata)))
            if number == 2:
                gone = crowd.servers[0].DeleteTweet(delete, metadata=author.metadata)
                calls.append(crowd.trying(gone))
        await asyncio.gather(*calls)

    await asyncio.gather(*(race(author, tweet) for author, tweet in crowd.tweets))

    (living,) = (await crowd.world.accounts.rows(
        "SELECT count(*) FROM tweets WHERE retweet_of IS NULL AND deleted_at IS NULL"
    ))  # fmt: skip
    assert living == (0,)
    await assert_counts_are_exact(crowd.world.accounts)
    await assert_the_log_gives_the_tables(crowd.world.accounts)


async def test_replies_of_somebody_whom_many_follow_at_once_do_not_wait_for_each_other(
    settings: Settings,
):
    # Both need the author's row, and graph_server has fewer connections than followers wait.
    few = settings.model_copy(update={"database_pool_max": 2, "deadline_factor": 5})
    async with open_world(few) as world:
        author, *fans = await world.accounts.insert(20)
        root = await world.post(fans[0])

        await asyncio.gather(
            *(world.follow(fan, author) for fan in fans),
            *(world.post(author, reply_to=root.id) for _ in range(10)),
        )

        await assert_counts_are_exact(world.accounts)


async def test_deletion_waits_for_no_reply_that_also_quotes_what_it_answered(crowd: Crowd):
    (_, root), *_ = crowd.tweets
    middles = [
        (who, (await crowd.world.post(who, reply_to=root)).id) for who in crowd.people for _ in "ab"
    ]

    async def meet(author: Account, middle: int) -> None:
        # Both change the counts of the root and of the middle.
        replies = [
            tweet_pb2.CreateTweetRequest(content="x", reply_to=middle, quote_of=root),
            tweet_pb2.CreateTweetRequest(content="x", reply_to=root, quote_of=middle),
        ]
        delete = tweet_pb2.DeleteTweetRequest(id=middle)
        calls = [
            crowd.trying(server.CreateTweet(reply, metadata=who.metadata))
            for who, server, reply in zip(crowd.people, crowd.servers * 3, replies * 3, strict=True)
        ]
        calls.insert(
            3, crowd.trying(crowd.servers[0].DeleteTweet(delete, metadata=author.metadata))
        )
        await asyncio.gather(*calls)

    await asyncio.gather(*(meet(author, middle) for author, middle in middles))

    await assert_counts_are_exact(crowd.world.accounts)
    await assert_the_log_gives_the_tables(crowd.world.accounts)


async def test_nothing_that_begins_after_a_block_was_answered_is_written(crowd: Crowd):
    star, *fans = crowd.people
    _, tweet = crowd.tweets[0]
    answered: set[int] = set()
    late: list[int] = []

    async def insist(fan: Account) -> None:
        """Likes and replies until it is refused."""
        metadata = fan.metadata
        for number, server in enumerate(itertools.cycle(crowd.servers)):
            began_late = fan.id in answered
            if number % 3:
                reply = tweet_pb2.CreateTweetRequest(content="x", reply_to=tweet)
                written = await crowd.trying(server.CreateTweet(reply, metadata=metadata))
            else:
                like = tweet_pb2.CreateLikeRequest(id=tweet)
                written = await crowd.trying(server.CreateLike(like, metadata=metadata))
            if written is None:
                return
            if began_late:
                late.append(fan.id)
            assert len(late) < len(fans), "the block refuses nothing"

    async def block(fan: Account) -> None:
        await crowd.world.block(star, fan)
        answered.add(fan.id)

    await asyncio.gather(*map(insist, fans), *map(block, fans))

    assert late == []
    for fan in fans:
        # Taking back what came through before is no new engagement.
        await crowd.world.like(fan, tweet, undo=True)
    await assert_counts_are_exact(crowd.world.accounts)
