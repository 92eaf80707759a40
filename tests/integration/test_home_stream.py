"""Home streams: what is visible comes at once, from every tier, each once, also after a break."""

import time
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from mesh.settings import Settings
from tests.home_reader import reading
from tests.world import World, open_world


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    small = settings.model_copy(
        update={"influencer_followers": 2, "celebrity_followers": 3, "purge_poll_ms": 20}
    )
    async with open_world(small) as opened:
        yield opened


async def test_tweets_of_every_tier_and_the_own_ones_come_whole(world: World) -> None:
    reader, normal, influencer, celebrity, other, third = await world.accounts.insert(6)
    for follower, followee in (
        (reader, normal), (reader, influencer), (other, influencer),
        (reader, celebrity), (other, celebrity), (third, celebrity),
    ):  # fmt: skip
        await world.follow(follower, followee)
    await world.relay_all()

    async with reading(world.timelines, reader) as stream:
        posted: list[int] = []
        for author in (normal, influencer, celebrity, reader, other):
            tweet = await world.post(author, "hello #chirp")
            if author is not other:
                posted.append(tweet.id)
            await world.relay_all()
        original = await world.post(normal)
        retweet = await world.retweet(celebrity, original.id)
        assert retweet.id == original.id
        quote = await world.post(normal, "see", quote_of=posted[0])
        await world.relay_all()
        items = await stream.items(len(posted) + 3)

    found = {item.id: item for item in items}
    (repeated,) = found.keys() - {*posted, original.id, quote.id}
    assert found[repeated].retweeted_tweet.id == original.id
    assert found[repeated].author.username == celebrity.username
    assert found[quote.id].quoted_tweet.id == posted[0]
    first = found[posted[0]]
    assert (first.author.username, first.content) == (normal.username, "hello #chirp")
    assert first.HasField("liked")
    assert not first.liked


async def test_marks_on_what_is_repeated_are_the_viewers_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servers.stream_marks.YOUNG_S", 0.0)  # else marks are not asked for yet
    reader, other, author, repeater = await world.accounts.insert(4)
    for follower in (reader, other):
        await world.follow(follower, repeater)
    tweet = await world.post(author)
    await world.like(reader, tweet.id)
    await world.relay_all()

    async with (
        reading(world.timelines, reader) as liked,
        reading(world.timelines, other) as unliked,
    ):
        await world.retweet(repeater, tweet.id)
        await world.relay_all()
        (one,), (two,) = await liked.items(1), await unliked.items(1)

    assert (one.retweeted_tweet.liked, two.retweeted_tweet.liked) == (True, False)
    assert (one.retweeted_tweet.retweeted, one.liked) == (False, False)


async def test_follows_and_unfollows_take_effect_in_the_order_of_the_log(world: World) -> None:
    reader, author = await world.accounts.insert(2)
    async with reading(world.timelines, reader) as stream:
        await world.post(author, "before")
        own = await world.post(reader)
        await world.relay_all()
        assert await stream.ids(1) == [own.id]
        await world.follow(reader, author)
        first = await world.post(author)
        await world.relay_all()
        assert await stream.ids(1) == [first.id]

        await world.unfollow(reader, author)
        await world.post(author)
        own = await world.post(reader)
        await world.relay_all()
        assert await stream.ids(1) == [own.id]
        await world.follow(reader, author)
        second = await world.post(author)
        await world.relay_all()
        assert await stream.ids(1) == [second.id]


async def test_blocks_mutes_replies_and_deletions_hold_when_an_item_is_delivered(
    world: World,
) -> None:
    reader, friend, stranger, muted = await world.accounts.insert(4)
    for followee in (friend, muted):
        await world.follow(reader, followee)
    theirs = await world.post(stranger)
    await world.relay_all()
    async with reading(world.timelines, reader) as stream:
        await world.post(friend, reply_to=theirs.id)  # to somebody not followed
        await world.mute(reader, muted)
        await world.post(muted)
        mute_repeated = await world.post(stranger)
        await world.retweet(friend, mute_repeated.id)
        await world.delete(stranger, mute_repeated.id)
        gone = await world.post(friend)
        await world.delete(friend, gone.id)
        shown = await world.post(friend)
        await world.relay_all()
        assert await stream.ids(1) == [shown.id]

        await world.block(friend, reader)
        await world.post(friend)
        own = await world.post(reader)
        await world.relay_all()
        assert await stream.ids(1) == [own.id]


@pytest.mark.parametrize("change", ["follow", "unfollow", "block", "be blocked", "mute"])
async def test_a_change_takes_effect_within_two_seconds_while_its_event_is_late(
    world: World, change: str
) -> None:
    reader, author, other = await world.accounts.insert(3)
    for followee in (other,) if change == "follow" else (author, other):
        await world.follow(reader, followee)
    await world.relay_all()
    async with reading(world.timelines, reader) as stream:
        match change:
            case "follow":
                await world.follow(reader, author)
            case "unfollow":
                await world.unfollow(reader, author)
            case "block":
                await world.block(reader, author)
            case "be blocked":
                await world.block(author, reader)
            case _:
                await world.mute(reader, author)
        changed_at = time.monotonic()
        # Its event does not come at all.
        async with world.pool.connection() as connection:
            await connection.execute("UPDATE outbox SET sent_at = now() WHERE sent_at IS NULL")
        held: list[bool] = []
        while held[-2:] != [True, True]:
            tweet = await world.post(author)
            posted_at = time.monotonic()
            came: list[int] = []
            # What came with the first of the other's tweets is there before the second.
            for _ in range(2):
                await world.relay_all()
                marker = await world.post(other)
                await world.relay_all()
                while marker.id not in came:
                    came += await stream.ids(1)
            held.append((tweet.id in came) == (change == "follow"))
            assert held[-1] or posted_at < changed_at + 2


async def test_a_reader_that_is_too_slow_is_told_and_misses_nothing(settings: Settings) -> None:
    async with open_world(settings.model_copy(update={"stream_buffer_max": 3})) as world:
        slow, quick, author = await world.accounts.insert(3)
        for follower in (slow, quick):
            await world.follow(follower, author)
        await world.relay_all()
        content = "x" * 280
        async with (
            reading(world.timelines, slow) as stuck,
            reading(world.timelines, quick) as other,
        ):
            posted: list[int] = []
            for _ in range(40):
                for _ in range(20):
                    posted.append((await world.post(author, content)).id)
                await world.relay_all()
                if len(posted) == 20:
                    assert await other.ids(20) == posted
            got = await stuck.ids(len(posted))
            rest = await other.ids(len(posted) - 20)

        assert got == posted
        assert stuck.catch_ups > 0
        assert rest == posted[20:]
