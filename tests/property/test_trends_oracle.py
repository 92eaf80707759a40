"""Whatever happened before: once the log is drained, every number of every list, and every
explanation, equals a recount from PostgreSQL."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from domain.ids import TweetId, UserId
from domain.trend import HOUR, Listed
from mesh.settings import Settings
from tests.trend_oracle import TrendOracle
from tests.trend_world import MINUTE_MS, TrendWorld, open_trend_world

PEOPLE = 5
PLACES = ("", "fr", "us", "us-ny", "us-ca")
TAGS = ("Rain", "rain", "RAIN", "snow", "Caf\u00e9", "cafe\u0301", "sun")
CLOSE = 1e-9

person = st.integers(0, PEOPLE - 1)
place = st.sampled_from(PLACES)
# Most uses are recent, so that they meet; some lie at the edges of the hours and of the window.
ago = st.one_of(
    st.integers(0, 3), st.sampled_from([58, 59, 60, 61, 118, 119, 120, 121]), st.integers(0, 130)
)
said = st.lists(st.sampled_from(TAGS), min_size=1, max_size=3).map(
    lambda tags: " ".join(f"#{tag}" for tag in tags)
)
which = st.integers(0, 1_000)
post = st.tuples(st.just("post"), person, said, place, ago)
delete = st.tuples(st.just("delete"), which)
# Each of these makes the worker count again: rare enough that it counts on in between.
disaster = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "lose the cache",
                "lose the log",
                "lose partitions",
                "rewind",
                "kill the worker",
                "restart the worker",
            ]
        )
    ),
    st.tuples(st.just("die while publishing"), st.integers(0, 3)),
)
steps = st.one_of(
    *[post] * 6,
    *[st.tuples(st.just("burst"), said, place, ago)] * 2,
    *[delete] * 3,
    st.tuples(st.just("move on"), st.integers(1, 70)),
    st.tuples(st.just("send again"), st.integers(1, 10)),
    st.tuples(st.just("relay")),
    *[st.tuples(st.just("count"))] * 2,
    st.tuples(st.just("refresh")),
    *[st.tuples(st.just("check"))] * 2,
    disaster,
)


@dataclass
class History:
    world: TrendWorld
    people: list[UserId]
    living: list[TweetId] = field(default_factory=list[TweetId])

    async def step(self, name: str, *choices: int | str) -> None:
        world = self.world
        match name, choices:
            case "post", (int(number), str(tags), str(location), int(minutes)):
                await self.post(self.people[number], tags, location, minutes)
            case "burst", (str(tags), str(location), int(minutes)):
                for author in self.people:
                    await self.post(author, tags, location, minutes)
            case "delete", (int(number),) if self.living:
                await world.delete(self.living.pop(number % len(self.living)))
            case "move on", (int(minutes),):
                world.now_ms += minutes * MINUTE_MS
            case "relay", _:
                await world.relay_all()
            case "count", _:
                await world.group.step(0)
            case "refresh", _:
                await world.refresh()
            case "check", _:
                await self.check()
            case "lose the cache", _:
                await world.cache.flushall()
            case "lose the log", _:
                await world.eventlog.flushall()
            case "rewind", _:
                await world.event_log.rewind("trends")
            case "lose partitions", _:
                await world.lose_partitions()
            case "send again", (int(events),):
                await world.send_again(events)
            case "kill the worker", _:
                await world.kill_worker()
            case "die while publishing", (int(parts),):
                await world.die_while_publishing(parts)
            case "restart the worker", _:
                await world.stop_worker()
                await world.start_worker()
            case _:
                pass

    async def post(self, author: UserId, tags: str, location: str, minutes_ago: int) -> None:
        self.living.append(
            await self.world.post(author, tags, location=location, minutes_ago=minutes_ago)
        )

    async def check(self) -> None:
        await self.world.drain()
        oracle = await self.world.oracle()
        rules = self.world.settings.trend_rules
        for location in ("world", "fr", "us", "us-ny", "us-ca", "de-be"):
            for order in ("score", "rising"):
                answer = await self.world.list(location, order=order)
                where, expected = oracle.answer(location, order, rules)
                assert answer.location == where, (location, order)
                assert answer.fallback_from == (location if where != location else "")
                assert [trend.rank for trend in answer.trends] == [
                    rank for rank, _ in enumerate(expected, start=1)
                ]
                got = [
                    Listed(t.name, t.tag, t.score, t.count, t.velocity, t.authors, t.surprise)
                    for t in answer.trends
                ]
                assert_same(got, expected, order)
            await self.check_explained(oracle, location)

    async def check_explained(self, oracle: TrendOracle, location: str) -> None:
        for name in ("rain", "snow", "caf\u00e9", "nobody"):
            explained = await self.world.explain(location, name)
            counted = oracle.counted.get((location, name))
            buckets = counted.buckets if counted else [0] * 120
            assert list(explained.buckets) == buckets[:HOUR]
            assert (explained.this_hour, explained.last_hour) == (
                sum(buckets[:HOUR]),
                sum(buckets[HOUR:]),
            )
            assert explained.authors == (counted.authors if counted else 0)
            assert explained.tag == oracle.tags.get(name, name)


def assert_same(got: list[Listed], expected: list[Listed], order: str) -> None:
    def by_name(ranked: Listed) -> str:
        return ranked.name

    for one, other in zip(sorted(got, key=by_name), sorted(expected, key=by_name), strict=True):
        assert (one.name, one.tag, one.count, one.velocity, one.authors) == (
            other.name, other.tag, other.count, other.velocity, other.authors,
        )  # fmt: skip
        assert abs(one.score - other.score) <= CLOSE
        assert abs(one.surprise - other.surprise) <= CLOSE
    # Sums of the same numbers in another order differ in the last bit: so may the order of equals.
    for one, other in zip(got, expected, strict=True):
        if order == "score":
            assert abs(one.score - other.score) <= CLOSE
        else:
            assert abs(one.surprise - other.surprise) <= CLOSE


def test_after_any_history_every_number_equals_a_recount(
    settings_sync: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each place is a part of its own, so that a worker may die between any two.
    monkeypatch.setattr("storage.trends.PUBLISH_BYTES_MAX", 0)
    small = settings_sync.model_copy(
        update={
            "trend_authors_min": 2,
            "trend_place_tags_min": 2,
            "eventlog_partitions": 4,
            "consumer_batch": 3,
        }
    )
    with asyncio.Runner() as runner:
        opened = open_trend_world(small)
        world = runner.run(opened.__aenter__())
        try:

            @settings(
                max_examples=25,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            )
            @given(st.lists(steps, min_size=15, max_size=40))
            def histories(story: list[tuple[str, int | str]]) -> None:
                runner.run(play(world, story))

            histories()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def play(world: TrendWorld, story: list[tuple[str, int | str]]) -> None:
    # Far enough that nothing of the story before is in the window.
    world.now_ms += 300 * MINUTE_MS
    history = History(world, await world.people(PEOPLE))
    for step in story:
        note(str(step))
        await history.step(*step)
    await history.check()
