"""Who likes and who retweeted a tweet: newest first, in pages."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from chirp.v1 import tweet_pb2, user_pb2

from domain import paging
from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.world import World, open_world

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings) -> AsyncGenerator[World]:
    async with open_world(module_settings) as opened:
        yield opened


Page = tweet_pb2.ListLikersResponse | tweet_pb2.ListRetweetersResponse
List = Callable[..., Awaitable[Page]]


async def likers(world: World, tweet_id: int, viewer: Account | None = None, **fields: Any) -> Page:
    return await world.tweets.ListLikers(
        tweet_pb2.ListLikersRequest(id=tweet_id, **fields),
        metadata=viewer.metadata if viewer else None,
    )


async def retweeters(
    world: World, tweet_id: int, viewer: Account | None = None, **fields: Any
) -> Page:
    return await world.tweets.ListRetweeters(
        tweet_pb2.ListRetweetersRequest(id=tweet_id, **fields),
        metadata=viewer.metadata if viewer else None,
    )


BOTH = pytest.mark.parametrize(
    ("listed", "engage"),
    [(likers, World.like), (retweeters, World.retweet)],
    ids=["likers", "retweeters"],
)


async def all_pages(call: List, world: World, tweet_id: int, *, limit: int) -> list[int]:
    ids: list[int] = []
    cursor = ""
    while True:
        page = await call(world, tweet_id, limit=limit, cursor=cursor)
        ids += [user.id for user in page.users]
        assert page.has_more == bool(page.next_cursor)
        assert len(page.users) == limit or not page.has_more
        if not page.has_more:
            return ids
        cursor = page.next_cursor


@BOTH
async def test_lists_are_newest_first_in_pages_of_any_size(world: World, listed: List, engage: Any):
    author, *fans = await world.accounts.insert(8)
    tweet, other = await world.post(author), await world.post(author)
    assert not (await listed(world, tweet.id)).users
    for fan in fans:
        await engage(world, fan, tweet.id)
    await engage(world, author, other.id)
    # Taken back and done again: the newest. Taken back for good: not in the list.
    for undo in (True, False):
        await engage(world, fans[0], tweet.id, undo=undo)
    await engage(world, fans[3], tweet.id, undo=True)

    expected = [fans[n].id for n in (0, 6, 5, 4, 2, 1)]
    for limit in (1, 2, 4, 5, 6, 7, 100, 101, 2**31 - 1):
        assert await all_pages(listed, world, tweet.id, limit=limit) == expected
    assert [user.id for user in (await listed(world, tweet.id)).users] == expected


@BOTH
async def test_page_has_twenty_unless_asked_and_never_over_a_hundred(
    world: World, listed: List, engage: Any
):
    (author,) = await world.accounts.insert(1)
    tweet = await world.post(author)
    fans = await world.accounts.insert(102)
    async with world.pool.connection() as connection:
        for number, fan in enumerate(fans, start=1):
            await connection.execute(
                "INSERT INTO likes (user_id, tweet_id, id) VALUES (%s, %s, %s)",
                (fan.id, tweet.id, number),
            )
            await connection.execute(
                "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at,"
                " retweet_of, original_author_id) VALUES (%s, %s, '', 1, 1, now(), %s, %s)",
                (tweet.id + number, fan.id, tweet.id, author.id),
            )

    assert len((await listed(world, tweet.id)).users) == 20
    first = await listed(world, tweet.id, limit=1_000)
    rest = await listed(world, tweet.id, limit=100, cursor=first.next_cursor)
    assert (len(first.users), len(rest.users), rest.has_more) == (100, 2, False)
    assert [user.id for user in (*first.users, *rest.users)] == [fan.id for fan in fans[::-1]]


@BOTH
async def test_saved_cursor_goes_on_where_it_stood(world: World, listed: List, engage: Any):
    author, *fans = await world.accounts.insert(6)
    tweet = await world.post(author)
    for fan in fans[:4]:
        await engage(world, fan, tweet.id)
    page = await listed(world, tweet.id, limit=2)

    # Newer ones come above it; the one that it stands at goes.
    await engage(world, fans[4], tweet.id)
    await engage(world, fans[2], tweet.id, undo=True)

    later = await listed(world, tweet.id, limit=2, cursor=page.next_cursor)
    assert [user.id for user in later.users] == [fans[1].id, fans[0].id]
    assert not later.has_more
    highest = paging.encode_cursor(2**63 - 1)
    assert len((await listed(world, tweet.id, cursor=highest)).users) == 4
    lowest = paging.encode_cursor(1)
    assert not (await listed(world, tweet.id, cursor=lowest)).users


@BOTH
async def test_lists_of_a_retweet_are_its_originals(world: World, listed: List, engage: Any):
    author, repeater, fan = await world.accounts.insert(3)
    tweet = await world.post(author)
    await world.retweet(repeater, tweet.id)
    await engage(world, fan, tweet.id)
    ((retweet,),) = await world.accounts.rows(
        "SELECT id FROM tweets WHERE retweet_of = %s AND author_id = %s", tweet.id, repeater.id
    )

    assert await listed(world, retweet) == await listed(world, tweet.id)
    assert (await listed(world, retweet)).users[0].id == fan.id


@BOTH
async def test_signed_in_viewer_sees_relations_and_the_blocked_too(
    world: World, listed: List, engage: Any
):
    author, followed, blocked, muted, viewer = await world.accounts.insert(5)
    tweet = await world.post(author)
    for fan in (followed, blocked, muted, viewer):
        await engage(world, fan, tweet.id)
    await world.follow(viewer, followed)
    await world.block(viewer, blocked)
    await world.mute(viewer, muted)

    seen = (await listed(world, tweet.id, viewer)).users
    anonymous = (await listed(world, tweet.id)).users

    # What is public stays readable.
    assert [user.id for user in seen] == [each.id for each in (viewer, muted, blocked, followed)]
    relations = [(user.following, user.blocked, user.muted) for user in seen]
    assert relations == [
        (False, False, False),
        (False, False, True),
        (False, True, False),
        (True, False, False),
    ]
    assert [user.id for user in anonymous] == [user.id for user in seen]
    fields = ("following", "followed_by", "blocked", "muted")
    assert not any(user.HasField(field) for user in anonymous for field in fields)
    whole = await world.accounts.users.GetUser(user_pb2.GetUserRequest(id=followed.id))
    assert anonymous[3] == whole


@BOTH
async def test_account_that_is_gone_is_left_out_and_the_pages_go_on(
    world: World, listed: List, engage: Any
):
    author, *fans = await world.accounts.insert(4)
    tweet = await world.post(author)
    for fan in fans:
        await engage(world, fan, tweet.id)
    await world.accounts.remove(fans[1])

    first = await listed(world, tweet.id, limit=2)
    rest = await listed(world, tweet.id, limit=2, cursor=first.next_cursor)

    assert [user.id for user in first.users] == [fans[2].id]
    assert (first.has_more, [user.id for user in rest.users]) == (True, [fans[0].id])
