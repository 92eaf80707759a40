"""The trend worker: who counts, what it counts again, what it publishes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import events_pb2, trend_pb2

from domain.ids import first_id_at
from domain.trend_window import TrendWindow, minute_of
from mesh.server import Process
from mesh.settings import Settings
from ops import probes
from storage import tag_uses
from storage.trends import NO_VERSION, TrendStore
from tests.integration.conftest import serving_process
from tests.refused import failure
from tests.trend_world import DEADLINE_S, MINUTE_MS, TrendWorld, open_trend_world
from workers import trend_worker
from workers.trend_worker import TrendWorker


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[TrendWorld]:
    async with open_trend_world(settings) as opened:
        yield opened


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def publications(world: TrendWorld, count: int) -> None:
    store = TrendStore(world.cache)
    times: set[int] = set()
    async with asyncio.timeout(DEADLINE_S):
        while len(times) < count:
            news = await store.read(NO_VERSION)
            times.add(news.as_of_ms if news else 0)
            await asyncio.sleep(0.005)


async def counted(world: TrendWorld, tag: str) -> int:
    return (await world.explain("world", tag)).this_hour


async def test_before_anything_is_counted_trends_are_unavailable(
    world: TrendWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servers.trend_service.HANDOVER_S", 0.1)
    for refused in (
        await failure(world.list()),
        await failure(anext(aiter(world.trends.StreamTrends(trend_pb2.StreamTrendsRequest())))),
        await failure(world.explain("world", "rain")),
    ):
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


async def test_a_server_is_not_ready_before_it_has_lists_and_stays_so_when_they_are_lost(
    world: TrendWorld,
) -> None:
    service = ("chirp.v1.TrendService",)
    assert not await probes.grpc_serving(world.server, service)

    await world.drain()
    async with asyncio.timeout(DEADLINE_S):
        while not await probes.grpc_serving(world.server, service):
            await asyncio.sleep(0.01)
    await world.stop_worker()
    await world.cache.flushall()
    asked = await world.cache.info("commandstats")
    async with asyncio.timeout(DEADLINE_S):
        while _calls(await world.cache.info("commandstats")) < _calls(asked) + 2:
            await asyncio.sleep(0.01)

    assert await probes.grpc_serving(world.server, service)


async def test_what_another_member_handled_is_counted_again(world: TrendWorld) -> None:
    people = await world.people(20)
    await world.drain()
    for author in people:
        await world.post(author, "#seen")
    await world.relay_all()

    await world.lose_partitions()
    await world.drain()

    assert await counted(world, "seen") == 20


async def test_without_all_partitions_nothing_is_published(
    world: TrendWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servers.trend_service.HANDOVER_S", 0.1)
    await world.drain()
    some = dict(list(world.group.owned().items())[1:])

    await world.worker.refresh(some)

    assert not world.worker.counting
    assert (await failure(world.explain("world", "rain"))).reason == "UNAVAILABLE"
    assert (await world.list()).location == "world"


async def test_a_repeated_and_a_late_event_change_nothing(world: TrendWorld) -> None:
    people = await world.people(3)
    await world.drain()
    for author in people:
        await world.post(author, "#once", minutes_ago=5)
    await world.drain()

    await world.send_again(2)
    await world.drain()
    late = await world.post(people[0], "#once", minutes_ago=121)
    await world.drain()

    assert await counted(world, "once") == 3
    assert minute_of(late) == world.now_ms // MINUTE_MS - 121


async def test_a_deletion_may_overtake_its_tweet() -> None:
    window = TrendWindow(places_max=10)
    tweet_id = first_id_at(30_000_000 * MINUTE_MS)
    created, deleted = events_pb2.Event(), events_pb2.Event()
    created.tweet_created.entry.tweet_id = deleted.tweet_deleted.entry.tweet_id = tweet_id
    created.tweet_created.hashtags.append("late")

    trend_worker.take(window, deleted.SerializeToString())
    window.fold(30_000_000)
    trend_worker.take(window, created.SerializeToString())
    window.fold(30_000_000)

    assert len(window.segment(0).uses) == 0
    assert window.spellings.tag_count == 0


async def test_an_event_without_spellings_counts_under_the_folded_name() -> None:
    window = TrendWindow(places_max=10)
    event = events_pb2.Event()
    event.tweet_created.entry.tweet_id = first_id_at(30_000_000 * MINUTE_MS)
    event.tweet_created.hashtags.append("rain")

    trend_worker.take(window, event.SerializeToString())
    window.fold(30_000_000)

    tag = window.spellings.tag("rain")
    assert tag is not None
    assert window.spellings.most_used(tag) == "rain"


async def test_tweets_without_events_are_counted_when_the_published_lists_are_dropped(
    world: TrendWorld,
) -> None:
    await world.drain()
    for author in await world.people(3):
        await world.post(author, "#Bulk", location="fr-75")
    async with world.pool.connection() as connection:
        await connection.execute("DELETE FROM outbox")

    await TrendStore(world.cache).drop()
    await world.drain()

    assert [trend.tag for trend in (await world.list()).trends] == ["Bulk"]
    assert (await world.explain("fr", "bulk")).authors == 3


async def test_under_pressure_it_says_how_much_it_dropped(settings: Settings) -> None:
    small = settings.model_copy(update={"trend_uses_max": 30})
    async with open_trend_world(small) as world:
        people = await world.people(10)
        await world.drain()
        for author in people:
            await world.post(author, f"#loud #rare{author} #other{author}")
        await world.post(people[0], "#straw")
        await world.drain()

        listed = await world.list()
        kept = [await counted(world, f"rare{author}") for author in people]

    assert [(trend.name, trend.count) for trend in listed.trends] == [("loud", 10)]
    # A tenth of the room is free again, and no more was dropped than that takes.
    assert world.worker.dropped_uses == 31 - 27
    assert 6 <= sum(kept) <= 10


async def test_one_worker_counts_and_another_takes_over(settings: Settings) -> None:
    quick = settings.model_copy(update={"trend_refresh_ms": 20, "lease_ms": 500})
    async with open_trend_world(quick) as world:
        await world.stop_worker()
        workers: list[trend_worker.TrendWorker] = []

        @asynccontextmanager
        async def process(of: Settings) -> AsyncGenerator[Process]:
            async with trend_worker.open_worker(of) as worker:
                workers.append(worker)
                async with trend_worker.serving(of, worker) as opened:
                    yield opened

        async with serving_process(quick, process):
            await until(lambda: workers[0].counting)
            async with serving_process(quick, process):
                # The second has its chances while the first publishes on.
                await publications(world, 30)
                states = [worker.counting for worker in workers]
                async with world.pool.connection() as connection:
                    # The leader's connection dies, and its lock with it.
                    await connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_locks"
                        " WHERE locktype = 'advisory' AND granted AND objid = %s",
                        (tag_uses.LEAD_LOCK,),
                    )
                await until(lambda: any(worker.counting for worker in workers))

    assert states == [True, False]


class Deaf(TrendStore):
    """A store whose next answer is lost on the way."""

    deaf = False

    async def publish(
        self, lists: Mapping[str, bytes], *, after: str, fence: int, as_of_ms: int
    ) -> str:
        version = await super().publish(lists, after=after, fence=fence, as_of_ms=as_of_ms)
        if self.deaf:
            self.deaf = False
            raise TimeoutError
        return version


async def test_a_publication_of_unknown_outcome_is_made_good_without_counting_again(
    world: TrendWorld, caplog: pytest.LogCaptureFixture
) -> None:
    store = Deaf(world.cache)
    world.worker = TrendWorker(world.pool, store, world.settings, lambda: world.now_ms / 1000)
    world.handler.worker = world.worker
    await world.drain()
    for author in await world.people(3):
        await world.post(author, "#heard")
    await world.relay_all()
    async with asyncio.timeout(DEADLINE_S):
        while sum((await world.group.lag()).values()):
            await world.group.step(10)
    caplog.clear()
    store.deaf = True

    with pytest.raises(TimeoutError):
        await world.refresh()
    await world.drain()

    assert [trend.name for trend in (await world.list()).trends] == ["heard"]
    assert "again" not in caplog.text


async def test_what_cannot_be_read_changes_nothing(world: TrendWorld) -> None:
    for author in await world.people(3):
        await world.post(author, "#fine")
    await world.drain()
    store = TrendStore(world.cache)

    await store.publish({"world": b"\xff"}, after=NO_VERSION, fence=2**60, as_of_ms=world.now_ms)
    # The poll that meets it, and the next one.
    asked = await world.cache.info("commandstats")
    async with asyncio.timeout(DEADLINE_S):
        while _calls(await world.cache.info("commandstats")) < _calls(asked) + 2:
            await asyncio.sleep(0.01)

    assert [trend.name for trend in (await world.list()).trends] == ["fine"]


def _calls(statistics: Mapping[str, Any]) -> int:
    return int(statistics["cmdstat_fcall"]["calls"])
