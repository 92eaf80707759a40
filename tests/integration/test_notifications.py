"""Who is told of what, exactly once, grouped, counted, and gone again."""

import asyncio
import time
from collections.abc import AsyncGenerator

import grpc
import pytest
import pytest_asyncio

from eventlog.contract import Record
from mesh.settings import Settings
from tests.notified import KIND, Notified, open_notified
from tests.refused import failure
from tests.world import open_world
from workers.notification_worker import NotificationWorker


@pytest_asyncio.fixture
async def notified(settings: Settings) -> AsyncGenerator[Notified]:
    async with open_world(settings) as world, open_notified(world) as opened:
        yield opened


async def test_each_kind_tells_the_right_people_once(notified: Notified) -> None:
    world = notified.world
    ada, grace, alan = await world.accounts.insert(3)
    tweet = await world.post(ada)
    named = await world.post(grace, f"hello @{ada.username} and @{ada.username}")
    reply = await world.post(grace, f"@{ada.username} yes, @{alan.username}", reply_to=tweet.id)
    quote = await world.post(grace, f"see @{ada.username}", quote_of=tweet.id)
    both = await world.post(grace, "both", reply_to=tweet.id, quote_of=tweet.id)
    await world.like(grace, tweet.id)
    await world.retweet(grace, tweet.id)
    await world.follow(grace, ada)
    await notified.drain()

    one = frozenset({grace.id})
    assert set(await notified.told(ada)) == {
        ("MENTION", named.id, 1, one),
        ("REPLY", reply.id, 1, one),
        ("QUOTE", quote.id, 1, one),
        ("REPLY", both.id, 1, one),
        ("LIKE", tweet.id, 1, one),
        ("RETWEET", tweet.id, 1, one),
        ("FOLLOW", 0, 1, one),
    }
    assert await notified.told(alan) == [("MENTION", reply.id, 1, one)]
    assert await notified.told(grace) == []
    assert (await notified.unread(ada), await notified.unread(alan)) == (7, 1)


async def test_own_doings_tell_nobody(notified: Notified) -> None:
    world = notified.world
    (ada,) = await world.accounts.insert(1)
    tweet = await world.post(ada, f"I am @{ada.username}")
    await world.post(ada, reply_to=tweet.id)
    await world.post(ada, quote_of=tweet.id)
    await world.like(ada, tweet.id)
    await world.retweet(ada, tweet.id)
    await notified.drain()

    assert await notified.told(ada) == []


async def test_likes_of_a_tweet_and_follows_are_groups_with_exact_counts(
    notified: Notified,
) -> None:
    world = notified.world
    ada, *fans = await world.accounts.insert(13)
    tweet, other = await world.post(ada), await world.post(ada)
    for fan in fans:
        await world.like(fan, tweet.id)
        await notified.drain()
    await world.like(fans[0], other.id)
    await world.follow(fans[1], ada)
    await world.follow(fans[2], ada)
    await notified.drain()

    found = {(each.kind, each.tweet_id): each for each in await notified.all(ada)}
    group = found[KIND.LIKE, tweet.id]
    assert group.actor_count == 12
    assert [actor.username for actor in group.actors] == [
        fan.username for fan in reversed(fans[2:])
    ]
    assert found[KIND.LIKE, other.id].actor_count == 1
    assert found[KIND.FOLLOW, 0].actor_count == 2
    assert len(found) == 3


async def test_what_is_undone_or_deleted_is_gone(notified: Notified) -> None:
    world = notified.world
    ada, grace, alan = await world.accounts.insert(3)
    tweet, kept = await world.post(ada), await world.post(ada)
    for actor in (grace, alan):
        await world.like(actor, tweet.id)
        await world.like(actor, kept.id)
        await world.retweet(actor, kept.id)
        await world.follow(actor, ada)
    reply = await world.post(grace, "no", reply_to=kept.id)
    await notified.drain()
    assert await notified.unread(ada) == 5

    await world.like(grace, kept.id, undo=True)
    await world.retweet(grace, kept.id, undo=True)
    await world.unfollow(grace, ada)
    await world.delete(grace, reply.id)
    await world.delete(ada, tweet.id)
    await notified.drain()

    one = frozenset({alan.id})
    assert set(await notified.told(ada)) == {
        ("LIKE", kept.id, 1, one),
        ("RETWEET", kept.id, 1, one),
        ("FOLLOW", 0, 1, one),
    }
    assert await notified.unread(ada) == 3
    await notified.check_counts()


async def test_a_like_that_is_handled_after_the_deletion_of_its_tweet_tells_nobody(
    notified: Notified,
) -> None:
    world = notified.world
    ada, *fans = await world.accounts.insert(9)  # in several partitions
    tweet = await world.post(ada)
    for fan in fans:
        await world.like(fan, tweet.id)
    await world.delete(ada, tweet.id)
    await world.relay_all()
    # The partition of the deletion first, whatever the log would do.
    async with world.event_log.consumer("look", "a") as consumer:
        records: list[Record] = []
        while found := await consumer.poll(100, 100):
            records += found
    records.sort(key=lambda record: record.key != ada.id)
    for record in records:
        await notified.worker.handle([record])

    assert await notified.told(ada) == []
    assert await notified.unread(ada) == 0
    await notified.check_counts()


async def test_blocks_and_mutes_hide_and_show_again(notified: Notified) -> None:
    world = notified.world
    ada, grace, alan = await world.accounts.insert(3)
    tweet, hers = await world.post(ada), await world.post(grace)
    for actor in (grace, alan):
        await world.like(actor, tweet.id)
    await world.like(ada, hers.id)
    await notified.drain()
    everybody = frozenset({grace.id, alan.id})

    await world.mute(ada, grace)
    await world.retweet(grace, tweet.id)
    await notified.drain()
    assert await notified.told(ada) == [("LIKE", tweet.id, 1, frozenset({alan.id}))]
    assert await notified.unread(ada) == 1
    await world.mute(ada, grace, undo=True)
    await notified.drain()
    assert set(await notified.told(ada)) == {
        ("LIKE", tweet.id, 2, everybody),
        ("RETWEET", tweet.id, 1, frozenset({grace.id})),
    }

    await world.block(grace, ada)
    await notified.drain()
    assert await notified.told(ada) == [("LIKE", tweet.id, 1, frozenset({alan.id}))]
    assert await notified.told(grace) == []
    await notified.check_counts()


async def test_a_mention_under_a_block_is_never_told(notified: Notified) -> None:
    world = notified.world
    ada, grace = await world.accounts.insert(2)
    for blocker, blocked in ((ada, grace), (grace, ada)):
        await world.block(blocker, blocked)
        await world.post(grace, f"@{ada.username}?")
        await world.block(blocker, blocked, undo=True)
    await notified.drain()

    assert await notified.told(ada) == []


async def test_replaying_everything_changes_nothing(notified: Notified) -> None:
    world = notified.world
    people = await world.accounts.insert(5)
    tweets = [await world.post(person) for person in people]
    for number, person in enumerate(people):
        for tweet in tweets:
            await world.like(person, tweet.id)
            await world.retweet(person, tweet.id)
            if (number + tweet.id) % 2:
                await world.like(person, tweet.id, undo=True)
        other = people[(number + 1) % 5]
        await world.follow(person, other)
        await world.post(person, f"@{other.username}", reply_to=tweets[number - 2].id)
    await world.mute(people[0], people[1])
    await world.mute(people[0], people[1], undo=True)
    await world.block(people[2], people[3])
    await world.delete(people[4], tweets[4].id)
    await notified.drain()
    before = await notified.dump()
    outbox = await world.accounts.rows("SELECT count(*) FROM outbox")
    assert [len(table) > 3 for table in before] == [True, True, True, False]

    for _ in range(2):
        await notified.rewind()
        assert sum((await notified.group.lag()).values()) > 50
        await notified.drain()

        assert await notified.dump() == before
    assert await world.accounts.rows("SELECT count(*) FROM outbox") == outbox
    await notified.check_counts()


async def test_reading_marks_nothing_and_marking_marks_up_to_an_id(notified: Notified) -> None:
    world = notified.world
    ada, grace, alan = await world.accounts.insert(3)
    tweets = [await world.post(ada) for _ in range(4)]
    for tweet in tweets:
        await world.like(grace, tweet.id)
        await notified.drain()
    ids = [each.id for each in await notified.all(ada)]
    assert await notified.unread(ada) == 4

    assert await notified.mark(ada, ids[2]) == 2
    assert await notified.mark(ada, ids[3]) == 2, "a mark is never taken back"
    assert [each.read for each in await notified.all(ada)] == [False, False, True, True]
    assert await notified.mark(ada, 1 << 62) == 0
    await world.like(alan, tweets[0].id)
    await notified.drain()

    newest, *rest = await notified.all(ada)
    assert (newest.tweet_id, newest.read, newest.actor_count) == (tweets[0].id, False, 2)
    assert all(each.read for each in rest)
    assert await notified.unread(ada) == 1
    await world.like(alan, tweets[0].id, undo=True)
    await notified.drain()
    assert await notified.unread(ada) == 0, "what is left of it was read"


async def test_unread_counts_survive_marking_beside_redelivery(notified: Notified) -> None:
    world = notified.world
    ada, *fans = await world.accounts.insert(7)
    tweets = [await world.post(ada) for _ in range(6)]

    async def act(fan: int) -> None:
        for tweet in tweets:
            await world.like(fans[fan], tweet.id)
        await world.like(fans[fan], tweets[fan].id, undo=True)

    async def handle() -> None:
        for turn in range(12):
            await world.relay_all()
            if turn % 4 == 3:
                await notified.rewind()
            await notified.group.step(10)

    async def mark() -> None:
        for _ in range(12):
            page = await notified.page(ada, limit=3)
            if page.notifications:
                await notified.mark(ada, page.notifications[-1].id)
            await notified.check_counts()

    await asyncio.gather(*map(act, range(6)), handle(), mark(), mark())
    await notified.drain()

    await notified.check_counts()
    assert len(await notified.all(ada)) == 6
    assert all(each.actor_count == 5 for each in await notified.all(ada))


async def test_pages_have_no_gaps_while_new_ones_arrive(notified: Notified) -> None:
    world = notified.world
    ada, grace, alan = await world.accounts.insert(3)
    tweets = [await world.post(ada) for _ in range(12)]
    for tweet in tweets:
        await world.like(grace, tweet.id)
    await notified.drain()
    expected = [each.tweet_id for each in await notified.all(ada)]
    assert sorted(expected) == [tweet.id for tweet in tweets]

    seen: list[int] = []
    cursor = ""
    while True:
        page = await notified.page(ada, limit=3, cursor=cursor)
        seen += [each.tweet_id for each in page.notifications]
        # Groups that were not seen yet move up, some seen ones too, and new ones come.
        await world.like(alan, expected[-1 - len(seen) // 3])
        await world.like(alan, (await world.post(ada)).id)
        await notified.drain()
        if not page.has_more:
            break
        cursor = page.next_cursor

    assert seen == expected
    assert len(await notified.all(ada, limit=5)) == 16


async def test_old_notifications_are_pruned_and_a_replay_does_not_bring_them_back(
    notified: Notified, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.notification_pruning.ACTORS_EACH", 2)
    world = notified.world
    ada, *fans = await world.accounts.insert(6)
    old, grown = await world.post(ada), await world.post(ada)
    for fan in fans:
        await world.like(fan, old.id)
        await world.like(fan, grown.id)
    await notified.drain()
    async with world.pool.connection() as connection:
        await connection.execute(
            "UPDATE notifications SET touched_at = touched_at - interval '100 days'"
        )
    await world.like(fans[0], grown.id, undo=True)  # touches it again
    await notified.drain()
    assert await notified.unread(ada) == 2

    assert await notified.worker.prune() == 1
    assert await notified.worker.prune() == 0

    assert await notified.told(ada) == [("LIKE", grown.id, 4, frozenset(f.id for f in fans[1:]))]
    assert await notified.unread(ada) == 1
    await notified.check_counts()

    in_a_year = NotificationWorker(world.pool, world.settings, lambda: time.time() + 365 * 86_400)
    assert await in_a_year.prune() == 1
    async with world.event_log.consumer("look", "a") as consumer:
        while records := await consumer.poll(100, 100):
            await in_a_year.handle(records)
    assert await notified.told(ada) == []
    assert await world.accounts.rows("SELECT count(*) FROM notification_actors") == [(0,)]
    await notified.check_counts()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "AQAAAAAAAAAB"}, "cursor"),  # of another list
    ],
)
async def test_a_wrong_page_is_named(
    notified: Notified, fields: dict[str, object], field: str
) -> None:
    (ada,) = await notified.world.accounts.insert(1)

    refused = await failure(notified.page(ada, **fields))  # pyright: ignore[reportArgumentType]

    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize("up_to", [0, -1])
async def test_a_wrong_mark_is_named(notified: Notified, up_to: int) -> None:
    (ada,) = await notified.world.accounts.insert(1)

    refused = await failure(notified.mark(ada, up_to))

    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["upToId"])
