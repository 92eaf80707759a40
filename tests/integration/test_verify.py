import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import pytest_asyncio
from rich.progress import Progress

from domain.ids import UserId
from mesh.settings import Settings
from ops import differences, homes, oracle, verifier, verify
from ops.differences import Way
from ops.homes import Home, HomeReader, Page
from ops.verifier import Selection, Verifier
from storage import database
from storage.timelines import Keys, WindowKind
from tests.integration.accounts import Account
from tests.oracle import fetch_oracle
from tests.world import World, open_world


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    small = settings.model_copy(
        update={
            "influencer_followers": 3,
            "celebrity_followers": 3,
            "timeline_length": 5,
            "repeat_distance": 4,
        }
    )
    async with open_world(small) as opened:
        yield opened


@pytest_asyncio.fixture
async def verifying(world: World) -> AsyncGenerator[Verifier]:
    async with AsyncExitStack() as stack:
        yield await verifier.open_verifier(stack, world.settings, gateway=None)


def silent() -> Progress:
    return Progress(disable=True)


async def story(world: World) -> tuple[list[Account], list[int]]:
    """Four people; the last one is pulled. Returns them, and what the first one must see."""
    people = await world.accounts.insert(4)
    reader, friend, other, star = people
    await world.follow(reader, friend)
    for person in (reader, friend, other):
        await world.follow(person, star)
    old = [await world.post(friend, f"old {number}") for number in range(7)]
    await world.drain()
    assert len(await world.home(reader)) == 7  # materialises it
    new = [await world.post(person) for person in (friend, star, reader, other)]
    await world.drain()
    return people, [tweet.id for tweet in (*old, *new[:3])][::-1]


async def test_timelines_that_equal_the_oracle_are_counted_by_way(
    world: World, verifying: Verifier
):
    people, expected = await story(world)
    viewer = people[0]

    report = await verifying.verify([viewer.id], silent())

    assert report.differences == []
    assert (report.accounts, report.entries, report.pages) == (1, len(expected), 1)
    # Of 5 listed, 2 were pushed, and 3 of 7 old ones are still there; the star's is elsewhere.
    assert report.ways == {
        Way.PUSHED: 1, Way.OWN: 1, Way.PULLED: 1, Way.REBUILT: 3, Way.PAST_THE_LIST: 4
    }  # fmt: skip
    assert "1 of 1 home timelines equal the oracle: 10 entries" in verify.summary(report)


async def test_what_is_missing_is_told(world: World, verifying: Verifier):
    people, expected = await story(world)
    viewer = people[0]
    key = Keys(world.settings.timeline_shards).window(WindowKind.TIMELINE, viewer.id)
    await cast(Any, world.cache).lpop(key)

    report = await verifying.verify([person.id for person in people], silent())

    (difference,) = report.differences
    assert (difference.viewer, difference.missing, difference.extra) == (
        viewer.id,
        [expected[0]],
        [],
    )
    assert difference.position == 0
    text = verify.summary(report)
    assert f"account {viewer.id}: 10 entries in the oracle, 9 served" in text
    assert f"missing: {expected[0]}" in text
    assert "3 of 4 home timelines" in text


async def test_a_difference_that_passes_is_not_reported(
    world: World, verifying: Verifier, monkeypatch: pytest.MonkeyPatch
):
    people, _ = await story(world)
    reads = 0
    read = HomeReader.read

    async def late(reader: HomeReader, viewer: UserId) -> Home:
        nonlocal reads
        reads += 1
        home = await read(reader, viewer)
        return Home(home.ids[1:], home.pages, "") if reads == 1 else home

    monkeypatch.setattr(HomeReader, "read", late)
    report = await verifying.verify([people[0].id], silent())

    assert (report.differences, reads, report.entries) == ([], 2, 10)


async def test_it_waits_until_outbox_and_log_are_drained(world: World, verifying: Verifier):
    people, _ = await story(world)
    tweet = await world.post(people[1])

    verification = asyncio.create_task(verifying.verify([people[0].id], silent()))
    await world.relay_all()
    assert not verification.done()
    await world.drain()
    report = await verification

    assert report.differences == []
    assert report.entries == 11
    assert await verifying.drain() == tweet.id


async def test_events_that_nobody_handles_are_told(
    world: World, verifying: Verifier, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verifier, "STALLED_S", 0.3)
    people, _ = await story(world)
    await world.post(people[1])

    with pytest.raises(ConnectionError, match="1 events wait for outbox_relay"):
        await verifying.drain()


async def test_accounts_are_chosen_by_name_number_and_seed(world: World, verifying: Verifier):
    people, _ = await story(world)
    await world.accounts.insert(20)
    names = Selection(users=[people[2].username, str(people[1].id), people[2].username])

    assert await verifying.select(names) == [people[2].id, people[1].id]
    assert await verifying.select(Selection(top_following=1)) == [people[0].id]
    assert len(await verifying.select(Selection(everybody=True))) == 24
    some = await verifying.select(Selection(random=10, seed=3))
    assert some == await verifying.select(Selection(random=10, seed=3))
    assert set(some) != set(await verifying.select(Selection(random=10, seed=4)))
    assert some[:5] == await verifying.select(Selection(random=5, seed=3))
    with pytest.raises(LookupError, match="nobody"):
        await verifying.select(Selection(users=["nobody"]))


def test_users_come_from_a_file_or_from_names(tmp_path: Path):
    file = tmp_path / "users"
    file.write_text("ada\n\n grace \n")

    assert verify.read_users(str(file)) == ["ada", "grace"]
    assert verify.read_users("ada, grace,") == ["ada", "grace"]
    assert verify.read_users("") == []


async def test_materialised_timelines_are_pushed_to(world: World, verifying: Verifier):
    viewer, author = await world.accounts.insert(2)
    await world.follow(viewer, author)
    await world.drain()

    await verifying.materialise([viewer.id], silent())
    await world.post(author)
    await world.drain()

    report = await verifying.verify([viewer.id], silent())
    assert report.ways == {Way.PUSHED: 1}


async def test_a_page_that_ends_too_early_is_a_flaw(settings: Settings):
    class Short:
        async def page(self, token: str, cursor: str) -> Page:
            return Page([1], "") if cursor else Page([2], "more")

    home = await HomeReader(Short(), settings).read(UserId(1))

    assert home.ids == [2, 1]
    assert home.flaw == "page 1 has a next one and only 1 entries"
    assert differences.compare(UserId(1), [2, 1], home, 2) is not None


@pytest.mark.parametrize(
    ("expected", "served", "missing", "extra", "position"),
    [
        ([3, 2, 1], [3, 1], [2], [], 1),
        ([3, 1], [3, 2, 1], [], [2], 1),
        ([3, 2], [3, 2, 1], [], [1], 2),
        ([3, 2, 1], [3, 1, 2], [], [], 1),
        ([3, 2], [3, 3, 2], [], [], 1),
        ([], [1], [], [1], 0),
    ],
)
def test_differences_are_placed(
    expected: list[int], served: list[int], missing: list[int], extra: list[int], position: int
):
    difference = differences.compare(UserId(1), expected, Home(served, 1, ""), newest=9)

    assert difference is not None
    assert (difference.missing, difference.extra, difference.position) == (
        missing,
        extra,
        position,
    )


def test_what_was_posted_meanwhile_plays_no_part():
    assert differences.compare(UserId(1), [5, 4, 2], Home([4, 2], 1, ""), newest=4) is None


async def test_a_gateway_that_is_away_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(homes, "RETRY_FIRST_S", 0.001)
    async with homes.through_gateway("http://127.0.0.1:1", settings, connections=1) as reader:
        with pytest.raises(ConnectionError, match="is away"):
            await reader.read(UserId(1))


async def test_both_oracles_say_the_same_of_random_tweets(settings: Settings):
    async with database.open_pool(settings, size_max=1) as pool, pool.connection() as connection:
        for seed in range(30):
            random = Random(seed)
            await connection.execute("TRUNCATE tweets, follows, blocks, mutes, users CASCADE")
            await make_history(connection, random)
            for viewer in range(1, 6):
                for distance in (1, 3, 40):
                    one = await oracle.fetch_home(connection, viewer, repeat_distance=distance)
                    assert one == await fetch_oracle(connection, viewer, distance), (seed, viewer)


async def make_history(connection: database.Connection, random: Random) -> None:
    """Tweets, replies, retweets (also of one tweet by many) and deletions by five people."""
    people = range(1, 6)
    for user in people:
        await connection.execute(
            "INSERT INTO users (id, username, display_name) VALUES (%s, %s, 'x')",
            (user, f"user{user}"),
        )
    for user in people:
        for other in people:
            if user != other and random.random() < 0.5:
                await connection.execute("INSERT INTO follows VALUES (%s, %s, 1)", (user, other))
            if user != other and random.random() < 0.1:
                await connection.execute("INSERT INTO blocks VALUES (%s, %s)", (user, other))
            if user != other and random.random() < 0.1:
                await connection.execute("INSERT INTO mutes VALUES (%s, %s)", (user, other))
    written: list[tuple[int, int]] = []
    retweeted: set[tuple[int, int]] = set()
    for tweet_id in range(1, 61):
        author, kind = random.choice(people), random.random()
        original = random.choice(written[-12:]) if written else None
        reply = original if original and kind < 0.3 else None
        retweet = original if original and 0.3 <= kind < 0.7 else None
        if retweet and (author, retweet[0]) in retweeted:
            continue
        if retweet:
            retweeted.add((author, retweet[0]))
        else:
            written.append((tweet_id, author))
        await connection.execute(
            "INSERT INTO tweets (id, author_id, content, reply_to, replied_author_id, retweet_of,"
            " original_author_id, conversation_id, delivery, created_at, deleted_at)"
            " VALUES (%s, %s, 'x', %s, %s, %s, %s, 1, %s, now(),"
            " CASE WHEN %s THEN now() END)",
            (
                tweet_id, author, *(reply or (None, None)), *(retweet or (None, None)),
                random.choice((1, 2)), random.random() < 0.2,
            ),
        )  # fmt: skip


async def test_what_differs_is_repaired_and_counted(world: World, verifying: Verifier):
    people, _ = await story(world)
    viewer, friend = people[0], people[1]
    keys = Keys(world.settings.timeline_shards)
    window = keys.window(WindowKind.TIMELINE, viewer.id)
    cache = cast(Any, world.cache)
    # An entry that it lacks, and a follower list by which pushes do not reach the reader.
    await cache.lrem(window, 1, (await cache.lrange(window, 2, 2))[0])
    gone = (-viewer.id).to_bytes(8, "little", signed=True)
    await cache.append(f"follower_ids:{keys.tag(viewer.id)}:{friend.id}", gone)
    everybody = [person.id for person in people]

    found = await verifying.verify(everybody, silent())
    repaired = await verifying.verify(everybody, silent(), repair=True)
    pushed = await world.post(friend)
    await world.drain()
    again = await verifying.verify(everybody, silent())

    assert [difference.viewer for difference in found.differences] == [viewer.id]
    assert found.repaired == []
    assert repaired.differences == []
    assert [difference.viewer for difference in repaired.repaired] == [viewer.id]
    text = verify.summary(repaired)
    assert f"repaired: account {viewer.id}: 10 entries in the oracle, 9 served" in text
    assert "4 of 4 home timelines equal the oracle" in text
    assert "repaired: 1 timelines; by all runs so far: 1" in text
    assert again.differences == []
    assert again.repaired_ever == 1
    assert (await world.home(viewer))[0] == pushed.id
    assert await world.accounts.rows(
        "SELECT user_id, missing, extra, mended FROM timeline_repairs"
    ) == [(viewer.id, 1, 0, True)]
