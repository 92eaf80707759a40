"""What is published of trends: whole versions, by one worker at a time."""

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from mesh.settings import Settings
from storage import trends, valkey
from storage.trends import NO_VERSION, FencedOut, Lost, Moved, TrendStore
from storage.valkey import Valkey


@pytest_asyncio.fixture
async def cache(settings: Settings) -> AsyncGenerator[Valkey]:
    async with valkey.connect(settings.valkey_url, settings) as opened:
        yield opened


async def test_a_store_publishes_all_of_a_version_or_nothing(cache: Valkey) -> None:
    store = TrendStore(cache)
    nothing = await store.read(NO_VERSION)

    first = await store.publish({"world": b"a", "fr": b"b"}, after=NO_VERSION, fence=5, as_of_ms=9)
    whole = await store.read(NO_VERSION)
    second = await store.publish({"fr": b"", "us": b"c"}, after=first, fence=5, as_of_ms=10)
    changes = await store.read(first)
    third = await store.publish({}, after=second, fence=5, as_of_ms=11)
    unchanged = await store.read(second)

    assert nothing is None
    assert whole is not None
    assert (whole.whole, whole.lists, whole.as_of_ms) == (True, {"world": b"a", "fr": b"b"}, 9)
    assert changes is not None
    assert (changes.whole, changes.lists) == (False, {"fr": b"", "us": b"c"})
    assert third == second
    assert unchanged is not None
    assert (unchanged.lists, unchanged.as_of_ms, unchanged.version) == ({}, 11, second)


async def test_a_store_notices_losses_and_newer_publishers(cache: Valkey) -> None:
    store = TrendStore(cache)
    first = await store.publish({"world": b"a"}, after=NO_VERSION, fence=5, as_of_ms=100)

    with pytest.raises(FencedOut):
        await store.publish({"world": b"b"}, after=first, fence=4, as_of_ms=101)
    with pytest.raises(Moved):
        await store.publish({"world": b"b"}, after="1", fence=5, as_of_ms=101)
    with pytest.raises(Lost):
        await store.publish({"world": b"b"}, after="1", fence=6, as_of_ms=101)
    await cache.delete("trends:{trends}:lists")
    torn = await store.read(first)
    with pytest.raises(Lost):
        await store.publish({"fr": b"b"}, after=first, fence=5, as_of_ms=102)
    await cache.flushall()
    again = await store.publish({"fr": b"b"}, after=NO_VERSION, fence=5, as_of_ms=102)
    news = await store.read(first)

    assert torn is None, "half of what was published is nothing"
    assert int(again) > int(first)
    assert news is not None
    assert (news.whole, news.lists) == (True, {"fr": b"b"})


async def test_what_follows_a_loss_is_new_also_where_the_parts_were_many(
    cache: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trends, "PUBLISH_BYTES_MAX", 0)
    store = TrendStore(cache)
    parts = {"world": b"a", "fr": b"b", "us": b"c"}
    before = await store.publish(parts, after=NO_VERSION, fence=5, as_of_ms=100)
    await cache.flushall()

    await store.publish({**parts, "us": b"d"}, after=NO_VERSION, fence=5, as_of_ms=101)
    news = await store.read(before)
    await cache.flushall()
    await store.publish({"world": b"e", "fr": b"f"}, after=NO_VERSION, fence=5, as_of_ms=101)
    fewer = await store.read(before)

    assert news is not None
    assert (news.whole, news.lists) == (True, {"world": b"a", "fr": b"b", "us": b"d"})
    assert fewer is not None
    assert (fewer.whole, fewer.lists) == (True, {"world": b"e", "fr": b"f"})
