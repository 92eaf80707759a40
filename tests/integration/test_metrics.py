"""What workers and servers tell of themselves in numbers."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from mesh import metrics
from mesh.catalogue import EVENT_LAG, OPEN_STREAMS, TREND_USES_DROPPED
from mesh.metrics import Metric, Sample
from mesh.settings import Settings
from tests.notified import open_notified
from tests.trend_world import open_trend_world
from tests.world import open_world
from workers import trend_worker

LISTEN = "127.0.0.1:0"


async def scraped(port: int) -> str:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


def lag(text: str, group: str) -> float:
    name = f'{EVENT_LAG.name}{{group="{group}"'
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def test_the_lag_of_notifications_is_a_metric(settings: Settings) -> None:
    async with open_world(settings) as world, open_notified(world) as notified:
        ada, grace = await world.accounts.insert(2)
        async with metrics.exposing(LISTEN, notified.group.collectors) as port:
            at_rest = await scraped(port)
            await world.follow(grace, ada)
            await world.relay_all()
            behind = await scraped(port)
            await notified.drain()
            handled = await scraped(port)

    assert (lag(at_rest, "notifications"), lag(handled, "notifications")) == (0, 0)
    assert lag(behind, "notifications") == 1
    assert behind.count(f"# TYPE {EVENT_LAG.name} gauge\n") == 1
    assert behind.count(f'{EVENT_LAG.name}{{group="notifications"') == world.event_log.partitions


async def test_the_lag_and_the_losses_of_trends_are_metrics_of_every_replica(
    settings: Settings,
) -> None:
    small = settings.model_copy(update={"trend_uses_max": 30})
    async with open_trend_world(small) as world:
        await world.drain()
        people = await world.people(10)
        async with (
            trend_worker.serving(world.settings, world.worker) as leading,
            trend_worker.open_process(world.settings) as standing_by,
            metrics.exposing(LISTEN, leading.collectors) as leading_port,
            metrics.exposing(LISTEN, standing_by.collectors) as standby_port,
        ):
            ports = leading_port, standby_port
            at_rest = [await scraped(port) for port in ports]
            for author in people:
                await world.post(author, f"#loud #rare{author} #other{author}")
            await world.post(people[0], "#straw")
            await world.relay_all()
            behind = [await scraped(port) for port in ports]
            await world.drain()
            counted = [await scraped(port) for port in ports]

    assert [lag(text, "trends") for text in at_rest] == [0, 0]
    assert [lag(text, "trends") for text in behind] == [11, 11]
    assert [lag(text, "trends") for text in counted] == [0, 0]
    assert f"{TREND_USES_DROPPED.name} 0\n" in behind[0]
    assert f"{TREND_USES_DROPPED.name} 4\n" in counted[0]
    assert f"{TREND_USES_DROPPED.name} 0\n" in counted[1]


async def test_what_is_away_hides_no_other_number() -> None:
    async def away() -> Sequence[Sample]:
        raise ConnectionError

    async def here() -> Sequence[Sample]:
        return [Sample(OPEN_STREAMS, 3)]

    async with metrics.exposing(LISTEN, [away, here]) as port:
        assert f"{OPEN_STREAMS.name} 3\n" in await scraped(port)


@pytest.mark.parametrize(
    "request_", [b"GET /other HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n"]
)
async def test_anything_else_is_not_there(request_: bytes) -> None:
    async with metrics.exposing(LISTEN, []) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_)
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 404 ")


async def test_a_request_that_is_too_long_is_dropped() -> None:
    async with metrics.exposing(LISTEN, []) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /" + b"x" * metrics.REQUEST_BYTES_MAX)
        answer = await reader.read()
        writer.close()

    assert answer == b""


async def test_nothing_listens_where_no_address_is_set() -> None:
    async with metrics.exposing("", []) as port:
        assert port == 0


def test_large_numbers_are_told_to_the_last_digit() -> None:
    text = metrics.text([Sample(TREND_USES_DROPPED, 123_456_789), Sample(OPEN_STREAMS, 0.25)])

    assert f"{TREND_USES_DROPPED.name} 123456789\n" in text
    assert f"{OPEN_STREAMS.name} 0.25\n" in text


def test_a_value_cannot_end_its_label() -> None:
    metric = Metric("chirp_test", "gauge", "tests", "A test.", ("name",))

    assert metrics.text([Sample(metric, 1, ('a"b\\c\nd',))]) == (
        '# HELP chirp_test A test.\n# TYPE chirp_test gauge\nchirp_test{name="a\\"b\\\\c\\nd"} 1\n'
    )
