"""How fast one trend worker counts and ranks, and what it takes in memory, in a process of its own.

    CHIRP_... python -m bench.trend_counting USES TAGS PLACES

Prints one line of JSON. The worker is the real one, with the cache Valkey and PostgreSQL of the
environment; its clock follows the uses, which are spread over two hours in the order of time.

An event does not bear a tweet's words: the worker reads them in PostgreSQL. So it is with every
tenth portion, and only of those the time counts; the tweets of the others are not stored, and their
events bear hashtags as those of earlier releases do, which takes less time.
Neither does it count what it takes to store tweets and to make events. All tweets are deleted at
the end.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from chirp.v1 import events_pb2
from numpy.typing import NDArray

from domain.fanout import Delivery
from domain.ids import first_id_at, minted_at_ms
from domain.trend_window import MINUTE_MS, MINUTES
from eventlog.contract import Record
from mesh import settings as settings_module
from mesh.settings import Settings
from storage import database, valkey
from storage.database import Pool
from storage.trends import TrendStore
from workers.trend_worker import TrendWorker

AUTHORS = 1_000_000
PORTION = 50_000
COUNTED = 10  # one in so many portions
REFRESHES = 5

I64 = NDArray[np.int64]


class Use(NamedTuple):
    """A tweet with one hashtag."""

    tweet_id: int
    author_id: int
    location: str
    tag: str


class Clock:
    """A worker's clock, in seconds."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> float:
        """Returns the time."""
        return self.now_ms / 1000


async def measure(settings: Settings, uses: int, tags: int, places: int) -> dict[str, float]:
    """Counts all uses, then ranks again and again."""
    begin_ms = (int(time.time()) // 60 - MINUTES + 1) * MINUTE_MS
    clock = Clock(begin_ms)
    owned = dict.fromkeys(range(settings.eventlog_partitions), 1)
    async with (
        database.open_pool(settings, size_max=2) as pool,
        valkey.connect(settings.valkey_url, settings) as cache,
    ):
        worker = TrendWorker(pool, TrendStore(cache), settings, clock)
        await worker.refresh(owned)
        empty_bytes = _resident_bytes()
        seconds = cpu_s = refresh_due = 0.0
        counted, batch = 0, settings.consumer_batch
        for number, portion in enumerate(_portions(uses, tags, places, begin_ms)):
            stored = number % COUNTED == 0
            if stored:
                await _store(pool, portion)
            records = [_record(use, stored=stored) for use in portion]
            started, cpu_started = time.perf_counter(), time.process_time()
            for start in range(0, len(records), batch):
                taken = records[start : start + batch]
                await worker.handle(taken)
                clock.now_ms = minted_at_ms(taken[-1].key)
                # As often as in life: by the clock on the wall, of which we have the counted part.
                if stored and seconds + time.perf_counter() - started >= refresh_due:
                    await worker.refresh(owned)
                    refresh_due += settings.trend_refresh_ms / 1000
            if stored:
                seconds += time.perf_counter() - started
                cpu_s += time.process_time() - cpu_started
                counted += len(portion)
            else:
                await worker.refresh(owned)
        resident = _resident_bytes()
        peak = _peak_bytes()
        refreshed = await _refreshes(worker, owned, clock)
        async with pool.connection() as connection:
            # With what refers to tweets; of those there is none.
            await connection.execute("TRUNCATE tweets CASCADE")
        published: Any = await cache.memory_usage("trends:{trends}:lists")  # pyright: ignore
        return {
            "uses_per_s": counted / seconds,
            "uses_per_cpu_s": counted / cpu_s,
            "resident_bytes": resident,
            "peak_bytes": peak,
            "empty_bytes": empty_bytes,
            "published_bytes": float(published or 0),
            "dropped": worker.dropped_uses,
            **refreshed,
        }


async def _store(pool: Pool, portion: Sequence[Use]) -> None:
    async with pool.connection() as connection:
        copying = connection.cursor().copy(
            "COPY tweets (id, author_id, content, hashtags, conversation_id, location, delivery,"
            " created_at) FROM STDIN"
        )
        async with copying as copy:
            for use in portion:
                at = datetime.fromtimestamp(minted_at_ms(use.tweet_id) / 1000, UTC)
                content = f"Fifty characters or so, as many tweets are, #{use.tag}"
                await copy.write_row(
                    (use.tweet_id, use.author_id, content, [use.tag], use.tweet_id, use.location,
                     int(Delivery.PUSH), at)
                )  # fmt: skip
        # As autovacuum would, had they come one by one.
        await connection.execute("ANALYZE tweets")


async def _refreshes(worker: TrendWorker, owned: dict[int, int], clock: Clock) -> dict[str, float]:
    """Ranks with one more use each time; then, with a new minute each time."""
    same: list[float] = []
    rolled: list[float] = []
    for times, step_ms in ((same, 1), (rolled, MINUTE_MS)):
        for number in range(REFRESHES):
            clock.now_ms += step_ms
            use = Use(first_id_at(clock.now_ms) + number, 7, "xx", "one")
            await worker.handle([_record(use, stored=False)])
            started = time.perf_counter()
            await worker.refresh(owned)
            times.append(time.perf_counter() - started)
    return {"refresh_s": sorted(same)[REFRESHES // 2], "new_minute_s": max(rolled)}


def _portions(uses: int, tags: int, places: int, begin_ms: int) -> Iterator[Sequence[Use]]:
    draw = np.random.default_rng(1)
    weights: NDArray[np.float64] = np.cumsum(1 / np.arange(1, tags + 1))
    # Every tag once, and all others by Zipf's law.
    at_random: NDArray[np.float64] = draw.random(max(0, uses - tags)) * weights[-1]
    repeated = cast(I64, np.searchsorted(weights, at_random))
    chosen: I64 = np.concatenate([np.arange(min(tags, uses)), repeated])
    draw.shuffle(chosen)
    authors: I64 = draw.integers(1, AUTHORS, uses)
    at: I64 = draw.integers(0, places, uses)
    slugs = _slugs(places)
    span_ms = MINUTES * MINUTE_MS
    for start in range(0, uses, PORTION):
        end = min(start + PORTION, uses)
        yield [
            Use(
                first_id_at(begin_ms + span_ms * number // uses) + number % (1 << 20),
                author,
                slugs[place],
                f"tag{tag:07}",
            )
            for number, author, place, tag in zip(
                range(start, end),
                _numbers(authors[start:end]),
                _numbers(at[start:end]),
                _numbers(chosen[start:end]),
                strict=True,
            )
        ]


def _numbers(column: I64) -> list[int]:
    return cast("list[int]", column.tolist())


def _record(use: Use, *, stored: bool) -> Record:
    event = events_pb2.Event()
    created = event.tweet_created
    created.entry.tweet_id, created.entry.author_id = use.tweet_id, use.author_id
    created.location = use.location
    if stored:
        created.tagged = True
    else:
        created.hashtags.append(use.tag)
        created.hashtag_spellings.append(use.tag)
    return Record(0, "1-1", use.tweet_id, event.SerializeToString(), 1)


def _slugs(places: int) -> list[str]:
    """Countries, with four regions each."""
    slugs: list[str] = []
    for one, other in itertools.product("abcdefghijklmnopqrstuvwxyz", repeat=2):
        country = one + other
        slugs += [country, *(f"{country}-{region}" for region in "abcd")]
    return slugs[:places]


def _resident_bytes() -> int:
    return _status("VmRSS")


def _peak_bytes() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    measured = asyncio.run(measure(settings_module.load(), *map(int, sys.argv[1:4])))
    print(json.dumps(measured))
