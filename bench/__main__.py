"""`make bench`: measures side by side in one run, prints a table, writes bench/latest.json.

    python -m bench [--data GRAPH] [--only home,rest,live,post,fanout,trends]

Takes about seven minutes on two cores. The goals are for an otherwise idle machine; absolute
figures move from run to run, ratios less. The exit status is 0 when everything was measured (the
table says which goals were met), 1 where something failed, and 2 where a tool is missing.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from bench import deliveries, home, live, posts, rows, stack, tools, trends, world
from bench.rows import Row
from mesh import settings as settings_module
from mesh.settings import Settings
from ops import embedded
from ops.children import StartError

GRAPH = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "ego-twitter.csv.xz"
LATEST = Path(__file__).with_name("latest.json")
PARTS = ("home", "rest", "live", "post", "fanout", "trends")
# Low enough that the real graph has accounts that are pulled: 43 of them.
INFLUENCER_FOLLOWERS = 1_000
CACHE_LINE = "cache: "  # what timeline_server says of its caches when it stops

COMPLAINT = re.compile(" (WARNING|ERROR) ")
COMPLAINTS_EACH = 5

console = Console(stderr=True)


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmarks; returns the exit status."""
    options = _options(arguments)
    try:
        tools.check_installed()
    except tools.Missing as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="chirp-bench-"))
    try:
        folder.chmod(0o755)  # PostgreSQL's account must enter it
        measured = uvloop.run(_run(_settings_in(folder), _graph(options.data), options.only))
    except (StartError, OSError, tools.LoadFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        _say_complaints(folder)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        _remove(folder)
    Console().print(rows.table(measured))
    if set(options.only) == set(PARTS):
        rows.write_json(measured, LATEST)
        console.print(f"written to {LATEST}")
    return 0


async def _run(settings: Settings, graph: Path | None, parts: Sequence[str]) -> list[Row]:
    measured: list[Row] = []
    async with stack.opened(settings) as running:
        if "trends" in parts:
            console.print("trends")
            running.place_processes()
            measured += await trends.measure(running)
        if tuple(parts) == ("trends",):
            return measured
        with Progress(console=console) as progress:
            await world.load(running.settings, graph, progress)
        made = await world.describe(running.settings)
        console.print(
            f"{graph.name if graph else 'generated graph'}: {len(made.accounts):,} accounts,"
            f" {sum(made.follower_counts):,} follows, {made.tweets:,} tweets;"
            f" accounts with {INFLUENCER_FOLLOWERS:,} followers are pulled"
        )
        running.place_processes()
        await running.start("tweet_server", "graph_server", "timeline_server")
        await running.start("trend_server", "outbox_relay", "fanout_worker", "trend_worker")
        await running.start("notification_server", "notification_worker", "gateway")
        page = b""
        if "home" in parts or "rest" in parts:
            cold_rate, viewers = await home.materialise(running, made)
            console.print(f"{viewers}; caches cold, {cold_rate:,.0f} reads/s")
            page = await home.average_page(running, made)
        tweet = await posts.one_tweet(running, made)
        echo_port, echo_gateway_port = await running.start_echo(page, tweet)
        # They were there for the gateways' /healthz; what follows is not about them.
        await running.stop("trend_worker", "trend_server")
        if "home" in parts:
            console.print("home reads by gRPC")
            measured += await home.by_h2load(running, made, echo_port, len(page))
            measured += await home.by_random_viewers(running, made, echo_port)
        if "rest" in parts:
            console.print("home reads by REST")
            measured += await home.by_rest(running, made, echo_gateway_port)
        await running.stop("gateway", "echo-gateway", "notification_server")
        if "live" in parts:
            console.print("open streams")
            measured += await live.measure(running, made)
        await running.stop("timeline_server")
        if "post" in parts or "fanout" in parts:
            await deliveries.materialise_all(running, made)
        if "post" in parts:
            console.print("posting")
            measured += await posts.measure(running, made, echo_port)
        await running.stop("echo", "tweet_server", "outbox_relay", "fanout_worker")
        await running.stop("notification_worker")
        if "fanout" in parts:
            console.print("fan-out")
            measured += await deliveries.measure(running, made)
    for line in (settings.data / "logs" / "timeline_server-1.log").read_text().splitlines():
        if CACHE_LINE in line:
            console.print(line.partition(CACHE_LINE)[2].strip())
    return measured


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("CHIRP_BENCH_DATA", GRAPH)),
        help="a follower graph, `follower,followee` in each line (CHIRP_BENCH_DATA)",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(PARTS),
        help=f"some of {','.join(PARTS)}; then latest.json is not written",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    return options


def _graph(data: Path) -> Path | None:
    if data.exists():
        return data
    console.print(f"{data} is not there: a power-law graph of the same size is generated instead")
    return None


def _settings_in(folder: Path) -> Settings:
    # Whatever this shell is set up for, a benchmark writes into nobody's database.
    for name in [name for name in os.environ if name.startswith("CHIRP_")]:
        del os.environ[name]
    os.environ.update(
        CHIRP_DATA=str(folder),
        CHIRP_INFLUENCER_FOLLOWERS=str(INFLUENCER_FOLLOWERS),
    )
    return settings_module.load()


def _say_complaints(folder: Path) -> None:
    for log in sorted((folder / "logs").glob("*-1.log")):
        lines = [line for line in log.read_text().splitlines() if COMPLAINT.search(line)]
        for line in lines[-COMPLAINTS_EACH:]:
            print(f"    {line}", file=sys.stderr)


def _remove(folder: Path) -> None:
    moved = folder / "postgres" / embedded.MOVED_FILE
    if moved.exists():
        shutil.rmtree(moved.read_text().strip(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
