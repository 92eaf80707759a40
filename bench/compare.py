"""Two versions of the code on one world, in turns: what a change does to posting.

    python -m bench.compare BEFORE AFTER [--processes tweet_server,fanout_worker] [--rounds 5]
                                         [--data GRAPH]

BEFORE and AFTER are checkouts (`git worktree add`). Stores, world and callers are of the checkout
that this runs from; in each round the processes named are started with the code of one, warmed,
and loaded as `make bench` does it (bench/posts.py), then with that of the other, in an order that
changes from round to round. Two runs of `make bench` differ by a tenth, by the machine's mood and
the age of the world alone; two versions here by one or two parts in a hundred. Functions in Valkey
are loaded by the fan-out worker when it starts.

Prints each turn, and the medians: posts a second at most and their part of the echo's, CPU-us of
each process for a post at that rate, and p50 and p99 at a fixed lower one.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress

from bench import costs, freshness, home, posts, runs, stack, verification, world
from bench.stack import BenchStack
from bench.world import World
from ops.verifier import Verifier

STARTED = ("tweet_server", "graph_server", "timeline_server", "outbox_relay", "fanout_worker")
WARM_S, ECHO_S = 1.5, 1.5
QUIET_RATE = 1_000.0  # posts a second: about a third of the highest rate

console = Console()


@dataclass(frozen=True, slots=True)
class Turn:
    """What one version did in one round."""

    rate: float
    ratio: float
    """Of the echo's rate behind it."""
    cpu_us: dict[str, float]
    p50_ms: float
    p99_ms: float

    def sentence(self) -> str:
        """The turn in a line."""
        parts = ", ".join(f"{name} {us:.0f}" for name, us in self.cpu_us.items())
        return (
            f"{self.rate:,.0f} posts/s, {self.ratio:.3f} of the echo; p50 {self.p50_ms:.1f}, p99"
            f" {self.p99_ms:.1f} ms at {QUIET_RATE:,.0f} a second;"
            f" {sum(self.cpu_us.values()):.0f} CPU-us: {parts}"
        )


def main(arguments: Sequence[str]) -> int:
    """Runs the comparison; returns the exit status."""
    options = _options(arguments)
    return runs.run("bench-compare", lambda folder: _run(folder, options))


async def _run(folder: Path, options: argparse.Namespace) -> None:
    settings = runs.settings_in(folder, CHIRP_INFLUENCER_FOLLOWERS=str(world.INFLUENCER_FOLLOWERS))
    async with stack.opened(settings) as running:
        with Progress(console=console) as progress:
            await world.load(running.settings, world.at_hand(options.data, console), progress)
        made = await world.describe(running.settings)
        running.place_processes()
        await running.start(*STARTED)
        await home.materialise(running, made)
        await freshness.gather_audience(running, made)
        answer = {"chirp.v1.TweetService/CreateTweet": await posts.one_tweet(running, made)}
        echo_port = await running.start_echo_of(answer)
        turns: dict[Path, list[Turn]] = {options.before: [], options.after: []}
        async with verification.opened(running) as verifier:
            # The first posts of all load follower lists, which neither version is to pay for.
            await _turn(running, made, verifier, echo_port)
            for number in range(options.rounds):
                for version in list(turns)[:: -1 if number % 2 else 1]:
                    await running.restart_from(version, *options.processes)
                    turn = await _turn(running, made, verifier, echo_port)
                    turns[version].append(turn)
                    console.print(f"{version}: {turn.sentence()}", soft_wrap=True)
        for version, done in turns.items():
            middle = f"{version}, median of {len(done)}: {_middle(done).sentence()}"
            console.print(middle, style="bold", soft_wrap=True)


async def _turn(running: BenchStack, made: World, verifier: Verifier, echo_port: int) -> Turn:
    port = running.port("tweet_server")
    requests, echoes = posts.random_posts(made, port), posts.random_posts(made, echo_port)
    await posts.closed_loop(port, requests, WARM_S)
    await verifier.drain()
    used = costs.cpu_seconds(running)
    full, seconds = await posts.until_fanned_out(port, requests, verifier)
    count = len(full.latencies)
    cpu_us = {
        name: 1e6 * (now - used[name]) / count for name, now in costs.cpu_seconds(running).items()
    }
    echo = await posts.closed_loop(echo_port, echoes, ECHO_S)
    quiet = await posts.open_loop(port, requests, QUIET_RATE)
    await verifier.drain()
    rate = count / seconds
    p50_ms, p99_ms = quiet.percentile_ms(0.50), quiet.percentile_ms(0.99)
    return Turn(rate, rate / echo.rate, cpu_us, p50_ms, p99_ms)


def _middle(turns: Sequence[Turn]) -> Turn:
    return Turn(
        median(turn.rate for turn in turns),
        median(turn.ratio for turn in turns),
        {name: median(turn.cpu_us[name] for turn in turns) for name in turns[0].cpu_us},
        median(turn.p50_ms for turn in turns),
        median(turn.p99_ms for turn in turns),
    )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("before", type=lambda text: Path(text).resolve(strict=True))
    parser.add_argument("after", type=lambda text: Path(text).resolve(strict=True))
    parser.add_argument(
        "--processes", type=runs.some_of(STARTED, "process"), default=["tweet_server"],
        help=f"what is started with the code of each: some of {','.join(STARTED)}",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 21), metavar="1-20")
    runs.add_graph(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
