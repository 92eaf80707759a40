"""Text is text, by gRPC: stored in NFC and returned exactly so wherever it shows, or refused with
the field and the reason; never interpreted."""

import unicodedata
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, tweet_pb2, user_pb2

from mesh.settings import Settings
from tests.hostile_texts import BROKEN_UTF8, LOOK_ALIKE_NAMES, NOT_ONE_LINE, REFUSED, TAKEN
from tests.integration.accounts import PASSWORD
from tests.integration.bad_input import assert_not_found, assert_refused
from tests.refused import failure
from tests.world import World, open_world


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    async with open_world(settings) as opened:
        yield opened


async def test_tweets_are_returned_exactly_as_they_were_sent_in_nfc(world: World):
    author, reader = await world.accounts.insert(2)
    await world.follow(reader, author)
    await world.home(reader)
    posted = {
        (await world.post(author, text)).id: unicodedata.normalize("NFC", text)
        for text in TAKEN.values()
    }
    await world.drain()

    page = await world.home_page(reader, limit=100)
    assert {tweet.id: tweet.content for tweet in page.tweets} == posted
    user = await world.timelines.GetUserTimeline(
        timeline_pb2.GetUserTimelineRequest(id=author.id, limit=100)
    )
    assert {tweet.id: tweet.content for tweet in user.tweets} == posted
    batch = await world.tweets.BatchGetTweets(tweet_pb2.BatchGetTweetsRequest(ids=list(posted)))
    assert {tweet.id: tweet.content for tweet in batch.tweets} == posted
    for tweet, text in posted.items():
        quote = await world.post(reader, "look", quote_of=tweet)
        assert quote.quoted_tweet.content == text
    rows = await world.accounts.rows(
        "SELECT id, content FROM tweets WHERE author_id = %s", author.id
    )
    assert dict(rows) == posted


async def test_what_is_no_tweet_is_refused_and_nothing_is_stored(world: World):
    (author,) = await world.accounts.insert(1)

    for text in REFUSED.values():
        await assert_refused(world.post(author, text), "content")

    assert await world.accounts.rows("SELECT id FROM tweets") == []


async def test_profiles_are_returned_exactly_or_refused(world: World):
    person, other = await world.accounts.insert(2)
    users = world.accounts.users

    for name, text in TAKEN.items():
        normal = unicodedata.normalize("NFC", text)
        bio = user_pb2.UpdateMeRequest(bio=text)
        assert (await users.UpdateMe(bio, metadata=person.metadata)).bio == normal
        call = users.UpdateMe(user_pb2.UpdateMeRequest(display_name=text), metadata=person.metadata)
        if name in NOT_ONE_LINE:
            await assert_refused(call, "displayName")
            continue
        assert (await call).display_name == normal
        assert (await world.accounts.seen(person, other)).display_name == normal
    for unseen in ("\u200b", " ", "\u3164"):
        request = user_pb2.UpdateMeRequest(display_name=unseen)
        await assert_refused(users.UpdateMe(request, metadata=person.metadata), "displayName")


async def test_names_that_look_alike_are_no_names(world: World):
    await world.accounts.sign_up("admin")
    await world.accounts.sign_up("kelvin")
    (author,) = await world.accounts.insert(1)
    users = world.accounts.users

    for name in LOOK_ALIKE_NAMES:
        sign_up = user_pb2.CreateUserRequest(username=name, password=PASSWORD)
        await assert_refused(users.CreateUser(sign_up), "username")
        sign_in = user_pb2.CreateSessionRequest(username=name, password=PASSWORD)
        await assert_refused(users.CreateSession(sign_in), "username")
        get = user_pb2.GetUserByUsernameRequest(username=name)
        await assert_refused(users.GetUserByUsername(get), "username")
        found = await world.post(author, f"hello @{name}")
        # In a tweet it is a name where it is one in NFC, as everybody sees it.
        is_name = unicodedata.normalize("NFC", name).isascii()
        assert len(found.mentions) == int(is_name), name
        resolved = await world.accounts.directory.ResolveUsernames(
            user_pb2.ResolveUsernamesRequest(usernames=[name]),
            metadata=world.accounts.service_metadata,
        )
        assert list(resolved.users) == []
    taken = user_pb2.CreateUserRequest(username="ADMIN", password=PASSWORD)
    assert (await failure(users.CreateUser(taken))).reason == "USERNAME_TAKEN"


async def test_words_of_sql_and_wildcards_find_nobody(world: World):
    await world.accounts.sign_up("under_score")

    for name in ("under%score", "under'score", "%", "' OR ''='", "under_score'--"):
        request = user_pb2.GetUserByUsernameRequest(username=name)
        await assert_refused(world.accounts.users.GetUserByUsername(request), "username")
    request = user_pb2.GetUserByUsernameRequest(username="underXscore")
    await assert_not_found(world.accounts.users.GetUserByUsername(request), "USER_NOT_FOUND")


@pytest.mark.parametrize("broken", BROKEN_UTF8)
async def test_bytes_that_are_no_utf8_are_refused(world: World, broken: bytes):
    (author,) = await world.accounts.insert(1)
    method = "/chirp.v1.TweetService/CreateTweet"
    content = b"a" + broken + b"b"

    async with grpc.aio.insecure_channel(
        world.settings.tweet_target.removeprefix("dns:///")
    ) as channel:
        call: Any = channel.unary_unary(method)  # pyright: ignore[reportUnknownVariableType]
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"\x0a" + bytes([len(content)]) + content, metadata=author.metadata)

    assert await world.accounts.rows("SELECT id FROM tweets") == []
