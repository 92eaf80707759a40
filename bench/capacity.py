"""The capacity model of docs/capacity.md: measured costs into cores, memory and shards.

    python -m bench.capacity        prints the tables, and writes them into docs/capacity.md

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
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench import burst
from bench.burst import Population, Summary, Tiers

FOLDER = Path(__file__).resolve().parent
DOCUMENT = FOLDER.parent / "docs" / "capacity.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"

PEAK = 3.0  # the busiest minutes over the mean: what services of the kind report for an evening
UTILISATION = 0.6  # of a core, so that queues stay short and one zone of three may be lost
MATERIALISED = 0.5  # accounts that read within 30 days, of all
NODE_CORES, NODE_BYTES = 16, 128e9  # a common machine
NODE_MEMORY_USED = 0.75  # the rest: buffers, fragmentation, a fork
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
        ),
        Need("event log", cores(posts, costs.post.get("eventlog", 0.0)),
             disk_bytes=LOG_COPIES * LOG_BYTES * tweets),
        Need(
            "PostgreSQL",
            REPLICAS * cores(posts, costs.post.get("postgres", 0.0)),
            memory_bytes=REPLICAS * ROWS_HOT * (DAYS_HOT * tweets * costs.tweet_bytes + rows),
            disk_bytes=REPLICAS * (YEAR_DAYS * tweets * costs.tweet_bytes + rows),
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


def tables(costs: Costs) -> str:
    """Returns the tables of the document."""
    parts = [_costs_table(costs), _deliveries_table()]
    usual = burst.summarise(Population(), Tiers(), burst.LIKELY)
    for target in TARGETS:
        parts.append(_needs_table(target, costs, usual))
    parts.append(_burst_table(costs))
    parts.append(_limits_table(costs, usual))
    return "\n".join(parts)


def _costs_table(costs: Costs) -> str:
    rows = [
        [name, _number(costs.read.get(name, 0.0)), _number(costs.post.get(name, 0.0))]
        for name in dict.fromkeys([*costs.read, *costs.post])
    ]
    rows.append(["all", _number(sum(costs.read.values())), _number(sum(costs.post.values()))])
    sizes = (
        f"One worker with one core of Valkey: {costs.deliveries_s:,.0f} deliveries a second. A full"
        f" window: {costs.window_bytes:,.0f} bytes; with all indexes, a tweet"
        f" {costs.tweet_bytes:,.0f}, a follow {costs.follow_bytes:,.0f}, an account"
        f" {costs.user_bytes:,.0f} bytes on disk.\n"
    )
    return (
        _table("What was measured: CPU-microseconds", ["process", "a home read", "a post"], rows)
        + sizes
    )


def _deliveries_table() -> str:
    rows: list[list[str]] = []
    for weight, who in burst.WEIGHTS.items():
        for tiers, name in ((burst.ALL_PUSHED, "all pushed"), (Tiers(), "Chirp's tiers")):
            found = burst.summarise(Population(), tiers, weight)
            rows.append(
                [who, name, _number(found.deliveries), _number(found.largest),
                 f"{found.pulled_part:.2%}", _number(found.pulled_followees)]
            )  # fmt: skip
    heads = ["who posts", "way", "deliveries a post", "largest", "posts pulled",
             "pulled authors a reader follows"]  # fmt: skip
    return _table("Deliveries for a post (simulated)", heads, rows)


def _needs_table(target: Target, costs: Costs, usual: Summary) -> str:
    rows: list[list[str]] = []
    for need in needs(target, costs, usual):
        rows.append(
            [need.what, _number(need.cores), _bytes(need.memory_bytes), _bytes(need.disk_bytes),
             str(nodes(need))]
        )  # fmt: skip
    rate = PEAK * target.posts_s * usual.deliveries
    heads = ["process", "cores", "memory", "disk, a year", f"machines of {NODE_CORES} cores"]
    said = (
        f"{target.name[0].upper()}{target.name[1:]}. Means: {target.reads_s:,.0f} home reads and"
        f" {target.posts_s:,.0f} posts a second; at the peak {PEAK:g} times as many, and"
        f" {rate:,.0f} deliveries a second.\n"
    )
    return _table(f"The {target.name.split(':')[0]}", heads, rows, said)


def _burst_table(costs: Costs) -> str:
    rows: list[list[str]] = []
    posts_s = PEAK * TARGETS[1].posts_s
    for tiers, name in ((burst.ALL_PUSHED, "all pushed"), (Tiers(), "Chirp's tiers")):
        load = posts_s * burst.summarise(Population(), tiers, burst.LIKELY).deliveries
        for utilisation in (0.5, 0.6, 0.8, 0.9):
            shards = max(1, round(load / costs.deliveries_s / utilisation))
            late = burst.simulate(
                Population(), tiers, burst.LIKELY, posts_s=posts_s,
                deliveries_s=shards * costs.deliveries_s,
            )  # fmt: skip
            rows.append(
                [name, f"{utilisation:.0%}", f"{shards:,}", f"{1000 * late.p50_s:,.1f}",
                 f"{1000 * late.p99_s:,.1f}", f"{1000 * late.worst_s:,.0f}"]
            )  # fmt: skip
    heads = ["way", "busy", "Valkey primaries", "p50, ms", "p99, ms", "worst, ms"]
    said = (
        f"{posts_s:,.0f} posts a second at random moments, {burst.SIMULATED_S:.0f} s of them; the"
        " deliveries of each go evenly over all shards, in the order of the posts; until the last"
        " of a post's followers has it.\n"
    )
    return _table("How long fan-out takes at the peak (simulated)", heads, rows, said)


def _limits_table(costs: Costs, usual: Summary) -> str:
    """Where each single thing ends, in mean rates: what stands first breaks first."""
    usable = UTILISATION / PEAK * 1e6  # microseconds of a core in a second of mean load
    delivery_us = usual.deliveries * 1e6 / costs.deliveries_s
    server_us, valkey_us = read_us(costs, usual.pulled_followees)
    # What fan-out costs is in the deliveries, measured where batches are as full as at a peak.
    beside = sum(us for name, us in costs.post.items() if name not in ("fanout_worker", "valkey"))
    post_us = 5 * (server_us + valkey_us) + beside + 2 * delivery_us
    relay_us, log_us = costs.post["outbox_relay"], costs.post["eventlog"]
    limits: list[tuple[str, str, float]] = [
        (f"one machine of {count} cores, five reads to a post", "all its cores", count / post_us)
        for count in (2, NODE_CORES)
    ]
    limits += [
        ("one Valkey for windows", "its core, with the reads", 1 / (delivery_us + 5 * valkey_us)),
        ("one worker process", "its core", 1 / delivery_us),
        ("one relay: only one leads", "its core; less where batches are fuller", 1 / relay_us),
        ("one Valkey for the log", "its core; likewise", 1 / log_us),
        (f"one PostgreSQL of {NODE_CORES} cores", "its cores", NODE_CORES / costs.post["postgres"]),
    ]
    rows = [[what, why, _number(usable * posts)] for what, why, posts in limits]
    users = NODE_BYTES * NODE_MEMORY_USED / (MATERIALISED * costs.window_bytes)
    said = (
        f"In posts a second, as a mean over the day, with a peak of {PEAK:g} times and"
        f" {UTILISATION:.0%} of a core used. By memory, one machine of {NODE_BYTES / 1e9:.0f} GB"
        f" holds the windows of {users / 1e6:.1f} million users.\n"
    )
    return _table("Where one of each ends", ["what", "by", "posts a second"], rows, said)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], said: str = "") -> str:
    lines = [f"### {title}\n"]
    if said:
        lines.append(said)
    lines.append("| " + " | ".join(heads) + " |")
    lines.append("|---" + "|---:" * (len(heads) - 1) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _bytes(value: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return ""


def main() -> int:
    """Prints the tables and puts them into the document."""
    try:
        text = tables(read_costs())
    except (OSError, KeyError) as error:
        print(f"capacity: run `make bench` first: {error}", file=sys.stderr)
        return 1
    print(text)
    document = DOCUMENT.read_text()
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
