import time
from collections.abc import AsyncGenerator

import pytest_asyncio

from domain import sample_tweets
from domain.ids import UserId
from mesh.settings import Settings
from ops import sample
from tests.integration.accounts import Account
from tests.notified import KIND, open_notified
from tests.trend_world import open_trend_world
from tests.world import World, open_world

FAMOUS = 300  # followers that make an influencer here: some of the sample's people have more


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    few = settings.model_copy(update={"influencer_followers": FAMOUS})
    async with open_world(few) as opened:
        assert await sample.is_empty(few)
        await sample.make(few, show_progress=False)
        yield opened


async def test_its_tags_trend_at_once(settings: Settings):
    async with open_trend_world(settings) as world:
        await world.drain()

        await sample.make(settings, show_progress=False)
        world.now_ms = time.time_ns() // 1_000_000
        await world.drain()
        trends = (await world.list(order="rising")).trends
        places = [await world.list(place) for place in ("us", "fr", "de")]

    assert trends[0].name == sample_tweets.RISING
    assert trends[0].authors > 50
    assert any(not place.fallback_from for place in places)


async def sign_in(world: World, username: str) -> Account:
    ((user_id,),) = await world.accounts.rows("SELECT id FROM users WHERE username = %s", username)
    token = world.accounts.signer.sign_user(user_id, 0, lifetime_s=600, now=time.time())
    return Account(UserId(user_id), username, token)


async def test_the_sample_world_is_whole(world: World):
    rows = world.accounts.rows
    assert await rows(
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM follows),"
        " (SELECT count(*) FROM tweets)"
    ) == [(1_000, 50_000, 10_000)]
    assert not await sample.is_empty(world.settings)

    # What is counted is counted right, whatever wrote it.
    assert not await rows(
        "SELECT u.id FROM users AS u WHERE"
        " follower_count <> (SELECT count(*) FROM follows WHERE followee_id = u.id)"
        " OR following_count <> (SELECT count(*) FROM follows WHERE follower_id = u.id)"
        " OR tweet_count <> (SELECT count(*) FROM tweets WHERE author_id = u.id)"
        " OR tier <> CASE WHEN follower_count >= %s THEN 2 ELSE 1 END"
        " OR first_pulled_tweet_id IS DISTINCT FROM (SELECT min(t.id) FROM tweets AS t"
        "  WHERE t.author_id = u.id AND t.delivery = 2)",
        FAMOUS,
    )
    assert not await rows(
        "SELECT t.id FROM tweets AS t JOIN users AS u ON u.id = t.author_id"
        " LEFT JOIN tweets AS p ON p.id = t.reply_to WHERE"
        " t.reply_count <> (SELECT count(*) FROM tweets AS r WHERE r.reply_to = t.id)"
        " OR t.delivery <> CASE u.tier WHEN 1 THEN 1 WHEN 2 THEN 3 ELSE 2 END"
        " OR t.replied_author_id IS DISTINCT FROM p.author_id OR p.id > t.id"
        " OR t.conversation_id <> coalesce(p.conversation_id, t.id)"
        " OR t.created_at > now() OR t.created_at < now() - interval '13 hours'"
    )
    ((influencers, replies, mentions),) = await rows(
        "SELECT (SELECT count(*) FROM users WHERE tier = 2), count(reply_to),"
        " count(*) FILTER (WHERE mentions <> '{}') FROM tweets"
    )
    assert influencers > 0
    assert replies > 1_000
    assert mentions > 300


async def test_home_timelines_of_the_sample_equal_the_oracle(world: World):
    for username in ("ada", "grace", "joan"):
        viewer = await sign_in(world, username)
        assert await world.home(viewer, limit=100) == await world.oracle(viewer)

    ada, grace = await sign_in(world, "ada"), await sign_in(world, "joan")
    await world.post(grace, "hello from the sample")
    await world.follow(ada, grace)
    await world.drain()

    assert await world.home(ada, limit=100) == await world.oracle(ada)
    assert len(await world.home(ada, limit=100)) > 1_000


async def test_people_of_the_sample_were_told_of_each_other(world: World):
    async with open_notified(world) as notified:
        ada = await sign_in(world, "ada")
        told = await notified.all(ada, limit=100)

        await notified.check_counts()
        assert {KIND.FOLLOW, KIND.REPLY} <= {each.kind for each in told}
        (follows,) = [each for each in told if each.kind == KIND.FOLLOW]
        rows = await world.accounts.rows("SELECT follower_count FROM users WHERE id = %s", ada.id)
        assert 0 < follows.actor_count <= rows[0][0]


async def test_making_it_again_changes_nothing(world: World):
    before = await world.accounts.contents()

    await sample.make(world.settings, show_progress=False)

    assert await world.accounts.contents() == before


async def test_nothing_is_made_beside_what_people_made(settings: Settings):
    async with open_world(settings) as world:
        await world.accounts.sign_up("ada")

        assert not await sample.is_empty(settings)
        await sample.make(settings, show_progress=False)

        assert await world.accounts.rows("SELECT username FROM users") == [("ada",)]
