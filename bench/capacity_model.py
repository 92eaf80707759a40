"""The capacity model of docs/capacity.md: measured costs into cores, memory and shards.
`python -m bench.capacity` shows what it says.

 1. Costs: bench/costs.json (CPU time of each process for a read and a post; bytes of a tweet, a
    follow, a window) and the row `fanout` of bench/latest.json, both written by `make bench`; how
    a read grows with the pulled authors whom its reader follows, from bench/shape.json.
 2. Deliveries for a post, and pulled authors for a reader: a simulated population whose follower
    counts follow a power law, with Chirp's three tiers (bench/burst.py).
 3. Cores = rate x cost / utilisation; memory and disk = things x bytes; nodes by whichever of the
    two needs more.
 4. How long fan-out takes: posts come at random moments, some of them with a hundred thousand
    deliveries, into shards that each deliver at the measured rate (bench/burst.py).

Everything that was assumed, and not measured, is a constant here with its reason.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.burst import Summary

FOLDER = Path(__file__).resolve().parent

PEAK = 3.0  # the busiest minutes over the mean: what services of the kind report for an evening
UTILISATION = 0.6  # of a core, so that queues stay short and one zone of three may be lost
MATERIALISED = 0.5  # accounts that read within 30 days, of all
NODE_CORES, NODE_BYTES = 16, 128e9  # a common machine
NODE_MEMORY_USED = 0.75  # the rest: buffers, fragmentation, a fork
VALKEY_BYTES = 32e9  # of one primary: a replica that comes anew copies it within a minute or two
REPLICAS = 2  # of each Valkey shard and of each PostgreSQL shard
FOLLOWS_EACH = 200  # the second design document's
READS_EACH_DAY = 10  # likewise
DAYS_HOT = 30  # of tweets whose rows and indexes should be in PostgreSQL's memory
ROWS_HOT = 0.25  # of those, and of accounts and follows, what is touched often: own estimate
LOG_BYTES, LOG_COPIES = 200, 3  # of an event, about; kept for a day
DAY_S = 86_400
YEAR_DAYS = 365


@dataclass(frozen=True, slots=True)
class Target:
    """What a design document asks for; rates are means over a day."""

    name: str
    users: float
    reads_s: float
    posts_s: float


TARGETS = (
    Target("first document: 500 million users, 500 million tweets a day", 500e6,
           500e6 * READS_EACH_DAY / DAY_S, 500e6 / DAY_S),
    Target("second document: 300 million users, 35,000 reads and 7,000 posts a second", 300e6,
           35_000, 7_000),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured. CPU times in microseconds, by process."""

    read: Mapping[str, float]
    post: Mapping[str, float]
    deliveries_s: float
    """One worker with one core of Valkey."""
    window_bytes: float
    tweet_bytes: float
    follow_bytes: float
    user_bytes: float
    growth: Sequence[tuple[float, float, float]]
    """Pulled authors whom a reader follows; the CPU time of a read in the timeline server and in
    Valkey, in microseconds. Rising."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one kind of process needs at the peak."""

    what: str
    cores: float
    memory_bytes: float = 0.0
    disk_bytes: float = 0.0
    shard_bytes: float = 0.0
    """How much memory one shard may hold; 0 where there are no shards."""
    shard_cores: float = 1.0
    """How many cores one shard can use."""


def cores(rate_s: float, cost_us: float) -> float:
    """Returns how many cores carry this rate at its peak, no busier than they should be."""
    return PEAK * rate_s * cost_us / 1e6 / UTILISATION


def nodes(need: Need) -> int:
    """Returns how many machines a need takes: by cores or by memory, whichever is more."""
    by_memory = need.memory_bytes / (NODE_BYTES * NODE_MEMORY_USED)
    return max(1, -(-int(1e6 * max(need.cores / NODE_CORES, by_memory)) // 1_000_000))


def between(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Returns the value at x of a curve whose points rise, on straight lines between them; beyond
    its ends, that of its end."""
    if x <= curve[0][0]:
        return curve[0][1]
    for (low, at_low), (high, at_high) in pairwise(curve):
        if x <= high:
            return at_low + (at_high - at_low) * (x - low) / (high - low)
    return curve[-1][1]


def read_us(costs: Costs, pulled: float) -> tuple[float, float]:
    """Returns the CPU time of a home read, in the timeline server and in Valkey, of a reader who
    follows so many pulled authors: what `make bench` measured, grown as `make bench-shape` says."""
    grown: list[float] = []
    for place, name in ((1, "timeline_server"), (2, "valkey")):
        curve = [(point[0], point[place]) for point in costs.growth]
        grown.append(costs.read.get(name, 0.0) * between(curve, pulled) / curve[0][1])
    return grown[0], grown[1]


def shards(need: Need) -> int:
    """Returns into how many shards a need must be parted, each with its replicas; 0 for none."""
    if not need.shard_bytes:
        return 0
    by_memory = need.memory_bytes / REPLICAS / need.shard_bytes
    return max(1, math.ceil(max(need.cores / need.shard_cores, by_memory)))


def needs(target: Target, costs: Costs, posts_cost: Summary) -> list[Need]:
    """Returns what a target needs, process by process."""
    deliveries_each = posts_cost.deliveries
    server_us, valkey_us = read_us(costs, posts_cost.pulled_followees)
    posts, reads = target.posts_s, target.reads_s
    deliveries_us = 1e6 / costs.deliveries_s
    tweets = posts * DAY_S
    follows = target.users * FOLLOWS_EACH
    rows = follows * costs.follow_bytes + target.users * costs.user_bytes
    windows = target.users * MATERIALISED * costs.window_bytes
    follower_lists = follows * 8.0  # an id as a number, in the shard of the follower
    return [
        Need("timeline_server", cores(reads, server_us)),
        Need("tweet_server", cores(posts, costs.post.get("tweet_server", 0.0))),
        Need("graph_server", cores(posts, costs.post.get("graph_server", 0.0))),
        Need("outbox_relay", cores(posts, costs.post.get("outbox_relay", 0.0))),
        Need("fanout_worker", cores(posts * deliveries_each, deliveries_us)),
        Need(
            "Valkey (cache)",
            cores(posts * deliveries_each, deliveries_us)
            + cores(reads, valkey_us),
            memory_bytes=REPLICAS * (windows + follower_lists),
            shard_bytes=VALKEY_BYTES,
        ),
        Need("event log", cores(posts, costs.post.get("eventlog", 0.0)),
             disk_bytes=LOG_COPIES * LOG_BYTES * tweets, shard_bytes=VALKEY_BYTES),
        Need(
            "PostgreSQL",
            REPLICAS * cores(posts, costs.post.get("postgres", 0.0)),
            memory_bytes=REPLICAS * ROWS_HOT * (DAYS_HOT * tweets * costs.tweet_bytes + rows),
            disk_bytes=REPLICAS * (YEAR_DAYS * tweets * costs.tweet_bytes + rows),
            shard_bytes=NODE_BYTES * NODE_MEMORY_USED,
            shard_cores=NODE_CORES,
        ),
    ]  # fmt: skip


def read_costs(folder: Path = FOLDER) -> Costs:
    """Reads what `make bench` measured. Raises OSError and KeyError where that is missing."""
    measured = json.loads((folder / "costs.json").read_text())
    rows = {row["name"]: row for row in json.loads((folder / "latest.json").read_text())}
    sizes = measured["bytes"]
    points = json.loads((folder / "shape.json").read_text())
    return Costs(
        read=measured["home"],
        post=measured["post"],
        deliveries_s=rows["fanout"]["value"],
        window_bytes=sizes["full_window"],
        tweet_bytes=sizes["tweet_row"],
        follow_bytes=sizes["follow_row"],
        user_bytes=sizes["user_row"],
        growth=[
            (point["x"], point["cpu_us"], point["cache_us"])
            for point in points
            if point["axis"] == "celebrities"
        ],
    )
