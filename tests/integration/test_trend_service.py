"""TrendService by a real server, before a worker stepped by hand: lists and explanations."""

import asyncio
import math

import grpc
import pytest
from chirp.v1 import trend_pb2

from domain.ids import UserId
from tests.integration.trends import burst, names, shared, world
from tests.refused import failure
from tests.trend_world import DEADLINE_S, MINUTE_MS, TrendWorld

__all__ = ["shared", "world"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_lists_rank_by_score_or_by_surprise(world: TrendWorld) -> None:
    await burst(world, "Steady", 20, minutes_ago=70)
    await burst(world, "Steady", 20, minutes_ago=10)
    await burst(world, "New", 8, minutes_ago=1)
    await world.drain()

    by_score = await world.list()
    rising = await world.list(order="rising")

    assert [trend.tag for trend in by_score.trends] == ["Steady", "New"]
    steady, new = by_score.trends
    assert (steady.count, steady.authors, steady.velocity) == (20, 20, 0.0)
    assert steady.score == pytest.approx(20 * 0.95**10, abs=1e-9)
    assert (new.rank, new.name, new.velocity) == (2, "new", 0.0)
    assert names(rising) == ["new"]
    assert (by_score.location, by_score.fallback_from) == ("world", "")
    assert by_score.as_of.ToMilliseconds() == world.now_ms


async def test_velocity_from_nothing_is_infinite_over_ten(world: TrendWorld) -> None:
    await burst(world, "ten", 10)
    await burst(world, "eleven", 11)
    await world.drain()

    velocities = {trend.name: trend.velocity for trend in (await world.list()).trends}

    assert velocities == {"ten": 0.0, "eleven": math.inf}


async def test_one_loud_account_makes_no_trend(world: TrendWorld) -> None:
    (loud,) = await world.people(1)
    for minutes_ago in range(30):
        await world.post(loud, "#loud", minutes_ago=minutes_ago)
    await burst(world, "said", 3)
    await world.drain()

    assert names(await world.list()) == ["said"]
    assert (await world.explain("world", "loud")).authors == 1


async def test_a_sparse_place_answers_its_parents_list_and_says_so(world: TrendWorld) -> None:
    for tag in ("one", "two"):
        await burst(world, tag, 3, location="us-ca")
    await burst(world, "three", 3, location="us-ny")
    await burst(world, "four", 3, location="fr")
    await world.drain()

    answers = {place: await world.list(place) for place in ("us-ca", "us-ny", "fr", "de-be")}

    assert {
        place: (answer.location, answer.fallback_from, set(names(answer)))
        for place, answer in answers.items()
    } == {
        "us-ca": ("us-ca", "", {"one", "two"}),
        "us-ny": ("us", "us-ny", {"one", "two", "three"}),
        "fr": ("world", "fr", {"one", "two", "three", "four"}),
        "de-be": ("world", "de-be", {"one", "two", "three", "four"}),
    }


async def test_limits(world: TrendWorld) -> None:
    people = await world.people(3)
    for number in range(60):
        for author in people:
            await world.post(author, f"#tag{number:02}")
    await world.drain()

    assert len((await world.trends.ListTrends(trend_pb2.ListTrendsRequest())).trends) == 10
    assert names(await world.list(limit=1)) == ["tag00"]
    assert names(await world.list(limit=50)) == names(await world.list(limit=51))
    assert len(names(await world.list(limit=50))) == 50


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (trend_pb2.ListTrendsRequest(limit=0), "limit"),
        (trend_pb2.ListTrendsRequest(limit=-1), "limit"),
        (trend_pb2.ListTrendsRequest(order="loudest"), "order"),
        (trend_pb2.ListTrendsRequest(location="New York"), "location"),
        (trend_pb2.ListTrendsRequest(location="us\x00"), "location"),
    ],
)
async def test_bad_input_of_lists_and_streams(
    world: TrendWorld, asked: trend_pb2.ListTrendsRequest, field: str
) -> None:
    streamed = trend_pb2.StreamTrendsRequest.FromString(asked.SerializeToString())

    for refused in (
        await failure(world.trends.ListTrends(asked)),
        await failure(anext(aiter(world.trends.StreamTrends(streamed)))),
    ):
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize(
    ("location", "tag", "field"),
    [
        ("", "rain", "location"),
        ("nowhere", "rain", "location"),
        ("world", "", "tag"),
        ("world", "12", "tag"),
        ("world", "two words", "tag"),
        ("world", "a\x00", "tag"),
        ("world", "a" * 401, "tag"),
    ],
)
async def test_bad_input_of_explanations(
    world: TrendWorld, location: str, tag: str, field: str
) -> None:
    refused = await failure(world.explain(location, tag))

    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_an_explanation_shows_all_numbers_in_any_spelling(world: TrendWorld) -> None:
    await burst(world, "Caf\u00e9", 2, minutes_ago=100)
    await burst(world, "CAF\u00c9", 3, minutes_ago=59)
    await burst(world, "Caf\u00e9", 12, location="fr", minutes_ago=3)
    await world.drain()

    explained = await world.explain("world", "cafe\u0301")
    listed = (await world.list(order="rising")).trends[0]

    assert (explained.name, explained.tag) == ("caf\u00e9", "Caf\u00e9")
    assert [n for n in explained.buckets if n] == [12, 3]
    assert (len(explained.buckets), explained.buckets[3], explained.buckets[59]) == (60, 12, 3)
    assert (explained.this_hour, explained.last_hour, explained.authors) == (15, 2, 15)
    assert explained.baseline == 2
    assert explained.velocity == listed.velocity == 6.5
    assert explained.score == pytest.approx(12 * 0.95**3 + 3 * 0.95**59, abs=1e-9)
    assert explained.surprise == pytest.approx(13**2 / (2 + 0.3 * 4), abs=1e-9)
    assert (listed.score, listed.surprise) == (explained.score, explained.surprise)
    assert "12*0.95^3 + 3*0.95^59" in explained.formula
    assert "(15 - 2) / 2 = 6.5" in explained.formula


async def test_an_explanation_follows_events_without_waiting_for_a_ranking(
    world: TrendWorld,
) -> None:
    await world.drain()
    await burst(world, "now", 2)
    await world.relay_all()
    async with asyncio.timeout(DEADLINE_S):
        while sum((await world.group.lag()).values()):
            await world.group.step(10)

    assert (await world.explain("world", "now")).authors == 2
    assert (await world.explain("fr", "now")).authors == 0


async def test_what_left_the_window_is_gone(world: TrendWorld) -> None:
    await burst(world, "brief", 12)
    await world.drain()
    before = (await world.list()).trends[0]

    world.now_ms += 59 * MINUTE_MS
    await world.drain()
    late = (await world.list()).trends[0]
    world.now_ms += MINUTE_MS
    await world.drain()

    assert (before.count, late.count) == (12, 12)
    assert late.score == pytest.approx(12 * 0.95**59, abs=1e-9)
    assert names(await world.list()) == []
    assert (await world.explain("world", "brief")).last_hour == 12


async def test_a_deleted_tweet_takes_its_use_back(world: TrendWorld) -> None:
    people: list[UserId] = await world.people(4)
    posted = [await world.post(author, "#gone") for author in people]
    # The same author in the same minute counts once, also while one of the two is left.
    twice = await world.post(people[0], "#gone again")
    await world.drain()
    counts = [(await world.explain("world", "gone")).this_hour]

    for tweet_id in (twice, *posted):
        await world.delete(tweet_id)
        await world.drain()
        counts.append((await world.explain("world", "gone")).this_hour)

    assert counts == [4, 4, 3, 2, 1, 0]
    assert names(await world.list()) == []
