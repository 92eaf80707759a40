"""`chirp explain`, against a running timeline_server."""

import re
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from rich.console import Console

from mesh.settings import Settings
from ops import explain
from tests.world import World, open_world


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    async with open_world(settings) as opened:
        yield opened


async def said(world: World, user: str, tweet_id: int) -> str:
    """What is printed, with single spaces."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(await explain.show(world.settings, user, tweet_id))
    return re.sub(r" +", " ", capture.get())


async def test_the_sentence_and_the_fields_are_printed(world: World):
    reader, friend, stranger = await world.accounts.insert(3)
    await world.follow(reader, friend)
    await world.drain()
    await world.home(reader)
    pushed = await world.post(friend)
    strange = await world.post(stranger)
    await world.drain()

    shown = await said(world, reader.username, pushed.id)
    left_out = await said(world, str(reader.id), strange.id)

    assert shown.startswith("It is in the timeline: fan-out pushed it.\n")
    assert " shown yes \n" in shown
    assert " way PUSHED \n" in shown
    assert left_out.startswith(f"Its author, account {stranger.id}, is not followed.\n")
    assert " shown no \n" in left_out
    assert " reason NOT_FOLLOWED \n" in left_out
    assert f" account {stranger.id} \n" in left_out
    assert "way" not in left_out


async def test_an_event_on_the_way_is_told_with_its_lag(world: World):
    reader, friend = await world.accounts.insert(2)
    await world.follow(reader, friend)
    await world.drain()
    await world.home(reader)

    tweet = await world.post(friend)
    text = await said(world, reader.username, tweet.id)

    assert " reason ON_THE_WAY \n" in text
    assert re.search(r" lag \d+ ms \n", text)


async def test_an_older_entry_that_shows_the_same_is_named(world: World):
    reader, one, other = await world.accounts.insert(3)
    for followee in (one, other):
        await world.follow(reader, followee)
    tweet = await world.post(one)
    await world.retweet(other, tweet.id)
    (retweet,) = await world.accounts.rows("SELECT id FROM tweets WHERE retweet_of = %s", tweet.id)
    await world.drain()

    text = await said(world, reader.username, retweet[0])

    assert " reason REPEATED \n" in text
    assert f" older entry {tweet.id} \n" in text


async def test_who_or_what_is_away_is_told(world: World):
    (reader,) = await world.accounts.insert(1)
    nowhere = world.settings.model_copy(
        update={"timeline_target": "dns:///127.0.0.1:1", "deadline_factor": 0.05}
    )

    with pytest.raises(LookupError, match="nobody"):
        await explain.show(world.settings, "nobody", 1)
    with pytest.raises(ConnectionError, match="timeline_server answers"):
        await explain.show(nowhere, reader.username, 1)
