"""Prints the tables of docs/capacity.md, made of bench/costs.json and of the models in
bench/capacity_model.py and bench/burst.py, and writes them there.

    python -m bench.capacity
"""

import argparse
import sys
from collections.abc import Sequence

from bench import burst, capacity_model
from bench.burst import Population, Summary, Tiers
from bench.capacity_model import (
    FOLDER,
    MATERIALISED,
    NODE_BYTES,
    NODE_CORES,
    NODE_MEMORY_USED,
    PEAK,
    TARGETS,
    UTILISATION,
    Costs,
    Target,
)

DOCUMENT = FOLDER.parent / "docs" / "capacity.md"
READS_A_POST = 5  # the second design document's
LINES = (3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def tables(costs: Costs) -> str:
    """Returns the tables of the document."""
    parts = [_costs_table(costs), _deliveries_table()]
    usual = burst.summarise(Population(), Tiers(), burst.LIKELY)
    for target in TARGETS:
        parts.append(_needs_table(target, costs, usual))
    parts.append(_line_table(costs))
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
    for need in capacity_model.needs(target, costs, usual):
        rows.append(
            [need.what, _number(need.cores), _bytes(need.memory_bytes), _bytes(need.disk_bytes),
             str(capacity_model.shards(need) or ""), str(capacity_model.nodes(need))]
        )  # fmt: skip
    rate = PEAK * target.posts_s * usual.deliveries
    heads = [
        "process",
        "cores",
        "memory",
        "disk, a year",
        "shards",
        f"machines of {NODE_CORES} cores",
    ]
    said = (
        f"{target.name[0].upper()}{target.name[1:]}. Means: {target.reads_s:,.0f} home reads and"
        f" {target.posts_s:,.0f} posts a second; at the peak {PEAK:g} times as many, and"
        f" {rate:,.0f} deliveries a second.\n"
    )
    return _table(f"The {target.name.split(':')[0]}", heads, rows, said)


def _line_table(costs: Costs) -> str:
    """What the line between pushing and pulling costs on either side of it."""
    rows: list[list[str]] = []
    for line in LINES:
        found = burst.summarise(Population(), Tiers(influencer=line), burst.LIKELY)
        reads_us = READS_A_POST * sum(capacity_model.read_us(costs, found.pulled_followees))
        pushes_us = 2e6 * found.deliveries / costs.deliveries_s
        rows.append(
            [f"{line:,}", _number(found.pulled_followees), _number(found.deliveries),
             _number(reads_us), _number(pushes_us), _number(reads_us + pushes_us)]
        )  # fmt: skip
    heads = ["pulled from followers on", "pulled authors a reader follows", "deliveries a post",
             f"{READS_A_POST} reads, CPU-us", "deliveries, CPU-us", "both"]  # fmt: skip
    return _table("Where the line between pushing and pulling belongs", heads, rows)


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
    server_us, valkey_us = capacity_model.read_us(costs, usual.pulled_followees)
    # What fan-out costs is in the deliveries, measured where batches are as full as at a peak.
    beside = sum(us for name, us in costs.post.items() if name not in ("fanout_worker", "valkey"))
    post_us = READS_A_POST * (server_us + valkey_us) + beside + 2 * delivery_us
    relay_us, log_us = costs.post["outbox_relay"], costs.post["eventlog"]
    windows_us = delivery_us + READS_A_POST * valkey_us
    machine = f"one machine of {{}} cores, {READS_A_POST} reads to a post"
    limits: list[tuple[str, str, float]] = [
        (machine.format(count), "all its cores", count / post_us) for count in (2, NODE_CORES)
    ]
    limits += [
        ("one Valkey for windows", "its core, with the reads", 1 / windows_us),
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


def main(arguments: Sequence[str]) -> int:
    """Prints the tables and puts them into the document; returns the exit status."""
    argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__).parse_args(
        arguments
    )
    try:
        text = tables(capacity_model.read_costs())
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
    sys.exit(main(sys.argv[1:]))
