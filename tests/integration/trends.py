"""A world of trends for tests that share it, each in hours of its own."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from chirp.v1 import trend_pb2

from mesh.settings import Settings
from tests.conftest import fresh_settings
from tests.trend_world import MINUTE_MS, TrendWorld, open_trend_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(backing: Settings) -> AsyncGenerator[TrendWorld]:
    async with (
        fresh_settings(backing) as settings,
        open_trend_world(
            settings.model_copy(update={"trend_place_tags_min": 2, "heartbeat_s": 1})
        ) as opened,
    ):
        yield opened


@pytest.fixture
def world(shared: TrendWorld) -> TrendWorld:
    shared.now_ms += 300 * MINUTE_MS
    return shared


async def burst(
    world: TrendWorld, tag: str, authors: int, *, location: str = "", minutes_ago: float = 0
) -> None:
    """Some new accounts say a tag, once each."""
    for author in await world.people(authors):
        await world.post(author, f"#{tag}", location=location, minutes_ago=minutes_ago)


def names(trends: trend_pb2.ListTrendsResponse) -> list[str]:
    return [trend.name for trend in trends.trends]
