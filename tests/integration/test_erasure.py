"""An account is deleted: hidden at once, taken away step by step, and nothing of it is left."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import graph_pb2, timeline_pb2, tweet_pb2, user_pb2

from domain.ids import UserId
from domain.rate import Limit
from mesh.settings import Settings
from servers import relation_eraser, tweet_eraser
from storage import purges
from storage.database import Connection
from tests.integration.accounts import PASSWORD, Account
from tests.integration.bad_input import assert_refused
from tests.integration.recount import assert_counts_are_exact
from tests.planted import found_in_database, found_in_valkey
from tests.refused import failure
from tests.world import World, open_world

WORDS = ("quixotic_wombat", "bioluminescent", "Zaphodine", "tagalong", "halcyonic", "deletedlong")


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    async with open_world(settings) as opened:
        yield opened


@dataclass
class Past:
    """Who is deleted, two others, and what came of them."""

    gone: Account
    friend: Account
    stranger: Account
    tweets: list[int]
    """By who is deleted: a post, a reply, a quote."""
    retweet: int
    target: int
    """A tweet of the friend that who is deleted liked, retweeted, answered and quoted."""
    reply: int
    quote: int
    """By the friend, of the first tweet."""


async def live(world: World) -> Past:
    """Somebody lives through everything that an account can do."""
    answer = await world.accounts.users.CreateUser(
        user_pb2.CreateUserRequest(
            username=WORDS[0], password=PASSWORD, display_name=WORDS[2], bio=WORDS[1]
        )
    )
    gone = Account(UserId(answer.user.id), WORDS[0], answer.access_token)
    friend, stranger = await world.accounts.insert(2)
    await world.follow(gone, friend)
    await world.follow(friend, gone)
    await world.follow(stranger, friend)
    await world.follow(stranger, gone)
    await world.block(gone, (await world.accounts.insert(1))[0])
    await world.mute(gone, stranger)
    await world.block((await world.accounts.insert(1))[0], gone)
    await world.drain()
    for viewer in (gone, friend, stranger):
        await world.home(viewer)
    target = (await world.post(friend, "by the friend")).id
    first = (await world.post(gone, f"{WORDS[4]} #{WORDS[3]}", request_id="hello")).id
    short = (await world.post(gone, WORDS[5])).id
    await world.delete(gone, short)
    reply = (await world.post(gone, WORDS[4], reply_to=target)).id
    quote = (await world.post(gone, WORDS[4], quote_of=target)).id
    await world.like(gone, target)
    await world.retweet(gone, target)
    await world.like(friend, first)
    await world.retweet(stranger, first)
    answered = (await world.post(friend, "an answer", reply_to=first)).id
    quoted = (await world.post(friend, "a quote", quote_of=first)).id
    await world.drain()
    rows = await world.accounts.rows(
        "SELECT id FROM tweets WHERE author_id = %s AND retweet_of IS NOT NULL", gone.id
    )
    past = Past(gone, friend, stranger, [first, reply, quote], rows[0][0], target, answered, quoted)
    for viewer in (gone, friend, stranger):
        assert await world.home(viewer) == await world.oracle(viewer)
    return past


async def read_everything(world: World, past: Past) -> bytes:
    """Returns all that others are answered, by every route where the account may show."""
    friend, everything = past.friend.metadata, b""
    tweets, timelines, graph = world.tweets, world.timelines, world.graph
    for viewer in (past.friend, past.stranger):
        everything += (await world.home_page(viewer, limit=100)).SerializeToString()
    for author in (past.friend, past.stranger):
        everything += (
            await timelines.GetUserTimeline(
                timeline_pb2.GetUserTimelineRequest(id=author.id), metadata=friend
            )
        ).SerializeToString()
    ids = [*past.tweets, past.retweet, past.target, past.reply, past.quote]
    batch = await tweets.BatchGetTweets(tweet_pb2.BatchGetTweetsRequest(ids=ids))
    assert [tweet.id for tweet in batch.tweets] == ids[4:]
    everything += batch.SerializeToString()
    for tweet in (past.target, past.reply, past.quote):
        for call in (
            tweets.GetTweet(tweet_pb2.GetTweetRequest(id=tweet), metadata=friend),
            tweets.GetThread(tweet_pb2.GetThreadRequest(id=tweet), metadata=friend),
            tweets.ListLikers(tweet_pb2.ListLikersRequest(id=tweet), metadata=friend),
            tweets.ListRetweeters(tweet_pb2.ListRetweetersRequest(id=tweet), metadata=friend),
        ):
            everything += (await call).SerializeToString()
    for tweet in (*past.tweets, past.retweet):
        for call in (
            tweets.GetTweet(tweet_pb2.GetTweetRequest(id=tweet), metadata=friend),
            tweets.GetThread(tweet_pb2.GetThreadRequest(id=tweet), metadata=friend),
            tweets.CreateLike(tweet_pb2.CreateLikeRequest(id=tweet), metadata=friend),
            tweets.CreateRetweet(tweet_pb2.CreateRetweetRequest(id=tweet), metadata=friend),
            tweets.CreateTweet(
                tweet_pb2.CreateTweetRequest(content="no", reply_to=tweet), metadata=friend
            ),
        ):
            assert (await failure(call)).reason == "TWEET_NOT_FOUND"
    for request in (graph_pb2.ListFollowersRequest, graph_pb2.ListFollowingRequest):
        name = request.__name__.removesuffix("Request")
        listed = await getattr(graph, name)(request(id=past.friend.id), metadata=friend)
        everything += listed.SerializeToString()
        assert past.gone.id not in [user.id for user in listed.users]
    for call in (
        world.accounts.users.GetUser(user_pb2.GetUserRequest(id=past.gone.id), metadata=friend),
        world.accounts.users.GetUserByUsername(
            user_pb2.GetUserByUsernameRequest(username=WORDS[0])
        ),
        timelines.GetUserTimeline(timeline_pb2.GetUserTimelineRequest(id=past.gone.id)),
        graph.ListFollowers(graph_pb2.ListFollowersRequest(id=past.gone.id)),
        graph.FollowUser(graph_pb2.FollowUserRequest(id=past.gone.id), metadata=friend),
        graph.BlockUser(graph_pb2.BlockUserRequest(id=past.gone.id), metadata=friend),
        graph.MuteUser(graph_pb2.MuteUserRequest(id=past.gone.id), metadata=friend),
    ):
        assert (await failure(call)).reason == "USER_NOT_FOUND"
    return everything


async def assert_hidden(world: World, past: Past) -> None:
    """Nobody is shown a word, and every home timeline is what it must be."""
    for feed in world.feeds:
        await feed.poll()
    everything = await read_everything(world, past)
    assert [word for word in WORDS if word.encode() in everything] == []
    for viewer in (past.friend, past.stranger):
        assert await world.home(viewer, limit=3) == await world.oracle(viewer)


async def test_a_wrong_password_deletes_nothing(world: World):
    person = await world.accounts.sign_up()
    (no_password,) = await world.accounts.insert(1)
    before = await world.accounts.contents()

    for who in (person, no_password):
        refused = await failure(
            world.accounts.users.DeleteMe(
                user_pb2.DeleteMeRequest(password="wrong password"), metadata=who.metadata
            )
        )
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "BAD_CREDENTIALS",
        )

    assert await world.accounts.contents() == before


async def test_a_password_cannot_be_guessed_by_deleting(world: World):
    person = await world.accounts.sign_up()
    quota = Limit.parse(world.settings.sign_in_account).quota

    reasons = [
        (
            await failure(
                world.accounts.users.DeleteMe(
                    user_pb2.DeleteMeRequest(password=f"wrong password {guess}"),
                    metadata=person.metadata,
                )
            )
        ).reason
        for guess in range(quota + 1)
    ]

    assert reasons == ["BAD_CREDENTIALS"] * quota + ["RATE_LIMITED"]


async def test_everything_is_hidden_before_anything_is_taken_away(world: World):
    past = await live(world)

    await world.erase(past.gone)

    await assert_hidden(world, past)
    await world.cache.flushall()
    await assert_hidden(world, past)
    await world.drain()
    await assert_hidden(world, past)
    assert (await world.accounts.rows("SELECT count(*) FROM follows"))[0][0] == 4
    await world.erased()
    await assert_hidden(world, past)


async def test_the_token_of_a_deleted_account_does_nothing(world: World):
    past = await live(world)
    await world.erase(past.gone)
    before = await world.accounts.contents()

    for call in (
        world.accounts.users.GetMe(user_pb2.GetMeRequest(), metadata=past.gone.metadata),
        world.post(past.gone),
        world.post(past.gone, reply_to=past.target),
        world.like(past.gone, past.reply),
        world.retweet(past.gone, past.reply),
        world.delete(past.gone, past.tweets[0]),
        world.follow(past.gone, past.stranger),
        world.block(past.gone, past.friend),
        world.mute(past.gone, past.friend),
    ):
        refused = await failure(call)
        assert refused.reason in ("UNAUTHENTICATED", "TWEET_NOT_FOUND"), refused
    sign_in = user_pb2.CreateSessionRequest(username=WORDS[0], password=PASSWORD)
    assert (await failure(world.accounts.users.CreateSession(sign_in))).reason == "BAD_CREDENTIALS"

    assert await world.accounts.contents() == before


async def test_nothing_is_left_and_the_counts_of_others_are_right_again(world: World):
    past = await live(world)

    await world.erase(past.gone)
    await world.erased()
    await world.drain()

    await assert_hidden(world, past)
    await assert_counts_are_exact(world.accounts)
    assert await found_in_database(world.pool, WORDS) == {}
    assert await found_in_valkey(world.cache, [*WORDS, f":{past.gone.id}"]) == {}
    assert await found_in_valkey(world.eventlog, WORDS) == {}
    seen = await world.tweets.GetTweet(tweet_pb2.GetTweetRequest(id=past.target))
    assert (seen.like_count, seen.retweet_count, seen.reply_count, seen.quote_count) == (0,) * 4
    friend = await world.accounts.seen(past.friend, past.stranger)
    assert (friend.follower_count, friend.following_count) == (1, 0)


async def test_the_name_of_a_deleted_account_is_nobody_elses(world: World):
    past = await live(world)
    await world.erase(past.gone)

    for name in (WORDS[0], WORDS[0].upper()):
        taken = user_pb2.CreateUserRequest(username=name, password=PASSWORD)
        assert (await failure(world.accounts.users.CreateUser(taken))).reason == "USERNAME_TAKEN"


async def test_an_erasure_that_crashes_again_and_again_ends_right(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relation_eraser, "STEP_MAX", 1)
    monkeypatch.setattr(tweet_eraser, "STEP_MAX", 1)
    crashed: set[object] = set()
    insert = purges.insert

    async def crashing(connection: Connection, *purge: int) -> None:
        await insert(connection, *purge)  # type: ignore[arg-type]
        if purge not in crashed:
            crashed.add(purge)
            raise ConnectionError("crashed before the commit")

    past = await live(world)
    await world.erase(past.gone)
    monkeypatch.setattr(purges, "insert", crashing)

    await world.erased()
    await world.drain()

    assert len(crashed) > 10
    await assert_hidden(world, past)
    await assert_counts_are_exact(world.accounts)
    assert await found_in_database(world.pool, WORDS) == {}


async def test_a_password_that_cannot_be_is_named(world: World):
    person = await world.accounts.sign_up()

    for password in ("", "short", "a" * 129, "12345678\x00"):
        request = user_pb2.DeleteMeRequest(password=password)
        call = world.accounts.users.DeleteMe(request, metadata=person.metadata)
        await assert_refused(call, "password")
    request = user_pb2.DeleteMeRequest(password=PASSWORD)
    nobody = await failure(world.accounts.users.DeleteMe(request))
    assert nobody.code == grpc.StatusCode.UNAUTHENTICATED


async def test_two_who_follow_block_and_answer_each_other_go_at_once(world: World):
    past = await live(world)
    await world.block(past.friend, past.stranger)
    await world.mute(past.stranger, past.friend)

    await asyncio.gather(world.erase(past.gone), world.erase(past.friend))
    # Side by side, as replicas take steps.
    await asyncio.gather(*(world.erased() for _ in range(3)))
    await world.drain()

    await assert_counts_are_exact(world.accounts)
    for table in ("follows", "blocks", "mutes", "likes"):
        mine = "user_id, tweet_id" if table == "likes" else "*"
        left = await world.accounts.rows(f"SELECT {mine} FROM {table}")
        assert [row for row in left if {past.gone.id, past.friend.id} & {*row}] == []
    assert await world.home(past.stranger) == await world.oracle(past.stranger) == []


async def test_a_post_beside_the_deletion_is_refused_or_goes_with_the_account(world: World):
    people = [await world.accounts.sign_up() for _ in range(3)]
    (friend,) = await world.accounts.insert(1)
    target = (await world.post(friend)).id

    for person in people:
        await asyncio.gather(
            world.erase(person),
            *(world.post(person, "beside") for _ in range(4)),
            *(world.post(person, "beside", reply_to=target) for _ in range(4)),
            world.like(person, target),
            world.retweet(person, target),
            world.follow(person, friend),
            world.follow(friend, person),
            return_exceptions=True,
        )
    await world.erased()
    await world.drain()

    assert (
        await world.accounts.rows(
            "SELECT id FROM tweets WHERE deleted_at IS NULL AND author_id <> %s", friend.id
        )
        == []
    )
    assert await world.accounts.rows("SELECT * FROM follows") == []
    assert await world.accounts.rows("SELECT * FROM likes") == []
    await assert_counts_are_exact(world.accounts)
