"""What an account that is deleted leaves in notifications: nothing, on either side."""

from collections.abc import AsyncGenerator

import pytest_asyncio

from mesh.settings import Settings
from storage import notification_pruning
from tests.notified import Notified, open_notified
from tests.world import open_world


@pytest_asyncio.fixture
async def notified(settings: Settings) -> AsyncGenerator[Notified]:
    async with open_world(settings) as world, open_notified(world) as opened:
        yield opened


async def take_away(notified: Notified) -> None:
    """Lets everything come to rest."""
    await notified.world.erased()
    await notified.drain()
    while await notification_pruning.empty_erased(notified.world.pool):
        pass


async def test_what_a_deleted_account_did_is_told_no_more_and_counts_stay_exact(
    notified: Notified,
) -> None:
    world = notified.world
    ada, gone, other = await world.accounts.insert(3)
    tweet = await world.post(ada)
    await world.post(gone, f"hello @{ada.username}")
    await world.post(gone, reply_to=tweet.id)
    await world.post(gone, quote_of=tweet.id)
    for actor in (gone, other):
        await world.like(actor, tweet.id)
        await world.retweet(actor, tweet.id)
        await world.follow(actor, ada)
    await notified.drain()
    assert await notified.unread(ada) == 6

    await world.erase(gone)
    named = {actor.username for each in await notified.all(ada) for actor in each.actors}
    assert named == {other.username}
    await take_away(notified)

    one = frozenset({other.id})
    assert set(await notified.told(ada)) == {
        ("LIKE", tweet.id, 1, one),
        ("RETWEET", tweet.id, 1, one),
        ("FOLLOW", 0, 1, one),
    }
    assert await notified.unread(ada) == 3
    await notified.check_counts()
    before = await notified.dump()
    await notified.rewind()
    await notified.drain()
    assert await notified.dump() == before


async def test_the_box_of_a_deleted_account_is_emptied_and_stays_empty(
    notified: Notified,
) -> None:
    world = notified.world
    gone, friend = await world.accounts.insert(2)
    tweet = await world.post(gone)
    await world.like(friend, tweet.id)
    await world.follow(friend, gone)
    await world.post(friend, f"hello @{gone.username}")
    await notified.drain()
    assert await notified.unread(gone) == 3

    await world.erase(gone)
    await notified.drain()
    await take_away(notified)
    await notified.rewind()  # whatever was said comes again
    await notified.drain()

    for table in ("notifications", "notification_actors"):
        rows = await world.accounts.rows(f"SELECT * FROM {table} WHERE recipient_id = %s", gone.id)
        assert rows == []
