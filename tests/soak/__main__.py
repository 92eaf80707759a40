"""Soaks Chirp: `make soak MINUTES=N`, or `python -m tests.soak --help`.

A real stack with two replicas of each server and worker, new people for each history, operations of
many at once through the gateway, processes killed and paused, stores emptied and killed meanwhile;
then everything is compared with the oracle. Two modes take turns, each with a stack of its own:
    plain   the settings as they are
    edges   lists of 7, repeats 3 apart, and tiers crossed at 3 and 6 followers

Exits with 1 where anything was found. A finding names the seed of its history: the same seed (with
its mode) gives the same plan, though never quite the same run.
"""

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ops import embedded_postgres
from ops.children import StartError
from tests.soak import graph, history, judge, kills, plan, rest, stack
from tests.soak.api import Counts
from tests.soak.graph import Graph
from tests.soak.history import Result
from tests.soak.kills import Kills

MODES: dict[str, dict[str, str]] = {
    "plain": {},
    "edges": {
        "CHIRP_TIMELINE_LENGTH": "7",
        "CHIRP_REPEAT_DISTANCE": "3",
        "CHIRP_INFLUENCER_FOLLOWERS": "3",
        "CHIRP_CELEBRITY_FOLLOWERS": "6",
        "CHIRP_FANOUT_CHUNK_DELIVERIES": "4",
        "CHIRP_CONSUMER_BATCH": "8",
        "CHIRP_TIMELINE_SHARDS": "2",
        "CHIRP_EVENTLOG_PARTITIONS": "4",
    },
}
STACK_LIVES_S = 600.0  # so that a long run meets new stacks, and old data


@dataclass(slots=True)
class Totals:
    """A whole run."""

    counts: Counts = field(default_factory=Counts)
    histories: int = 0
    steps: int = 0
    timelines: int = 0
    entries: int = 0
    own_seen_late: int = 0
    lost_writes: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    findings: list[str] = field(default_factory=list[str])


def main() -> int:
    """Soaks; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Soaks Chirp.")
    parser.add_argument("--minutes", type=float, default=5.0, help="about how long")
    parser.add_argument("--seed", type=int, help="of the first history; each next one adds 1")
    parser.add_argument("--histories", type=int, default=1_000_000, help="at most so many")
    parser.add_argument("--mode", choices=[*MODES, "both"], default="both")
    parser.add_argument("--graph", type=Path, help="play on this follower graph instead")
    parser.add_argument("--tweets", type=Path, nargs="*", default=[], help="and post these before")
    parser.add_argument(
        "--rate", type=float, default=200.0, help="operations a second, on a graph or beside kills"
    )
    parser.add_argument("--kills", action="store_true", help="what clients see of deaths instead")
    arguments = parser.parse_args()
    seed: int = secrets.randbelow(1_000_000) * 1_000 if arguments.seed is None else arguments.seed
    if arguments.graph is not None:
        asked = Graph(arguments.graph, arguments.tweets, arguments.minutes, arguments.rate, seed)
        return _soak_once(partial(graph.run, asked))
    if arguments.kills:
        return _soak_once(partial(kills.run, Kills(arguments.rate, seed)))
    modes = list(MODES) if arguments.mode == "both" else [arguments.mode]
    totals = Totals()
    started = time.monotonic()
    try:
        asyncio.run(_soak(totals, modes, seed, arguments.minutes * 60, arguments.histories))
    except StartError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    finally:
        _report(totals, time.monotonic() - started)
    return 1 if totals.findings or totals.lost_writes else 0


def _soak_once(run: Callable[[Path, Counts, stack.Say], Coroutine[Any, Any, list[str]]]) -> int:
    counts, folder, started = Counts(), _folder(), time.monotonic()

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    findings = asyncio.run(run(folder / "data", counts, say))
    print(*_calls(counts), *findings, sep="\n")
    print(f"findings: {len(findings)}; {(time.monotonic() - started) / 60:.1f} minutes in all")
    if findings:
        print(f"its logs and data stay in {folder}")
        return 1
    _remove(folder)
    return 0


async def _soak(
    totals: Totals, modes: list[str], seed: int, seconds: float, histories: int
) -> None:
    end = time.monotonic() + seconds
    rounds = 0
    while rounds == 0 or (time.monotonic() < end and totals.histories < histories):
        left = end - time.monotonic()
        for position, mode in enumerate(modes):
            share = (end - time.monotonic()) / (len(modes) - position)
            until = time.monotonic() + min(share, STACK_LIVES_S, left)
            await _soak_stack(totals, mode, seed, until, histories)
        rounds += 1


async def _soak_stack(totals: Totals, mode: str, seed: int, until: float, histories: int) -> None:
    """Plays histories on one stack, at least one."""
    folder = _folder()
    data, log = folder / "data", folder / "soak.log"
    found_before = len(totals.findings) + totals.lost_writes
    with log.open("w") as file:

        def say(text: str) -> None:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=file, flush=True)

        async with AsyncExitStack() as opened:
            running = await opened.enter_async_context(stack.running(data, MODES[mode], say))
            api = await opened.enter_async_context(rest.open_api(running.url, totals.counts))
            judging = await opened.enter_async_context(judge.open_judge(running, api))
            first = True
            while totals.histories < histories and (first or time.monotonic() < until):
                first = False
                one = plan.make(seed + totals.histories)
                say(f"history {one.seed} begins")
                result = await history.run(one, stack=running, api=api, judge=judging)
                _add(totals, mode, result)
    if len(totals.findings) + totals.lost_writes == found_before:
        _remove(folder)
    else:
        print(f"its logs and data stay in {folder}", flush=True)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="chirp-soak-"))
    folder.chmod(0o755)  # PostgreSQL's account enters it
    return folder


def _remove(folder: Path) -> None:
    moved = folder / "data" / "postgres" / embedded_postgres.MOVED_FILE
    if moved.exists():
        shutil.rmtree(moved.read_text().strip())
    shutil.rmtree(folder)


def _add(totals: Totals, mode: str, result: Result) -> None:
    totals.histories += 1
    totals.steps += len(result.plan.steps)
    totals.timelines += result.verdict.timelines
    totals.entries += result.verdict.entries
    totals.own_seen_late += result.own_seen_late
    totals.lost_writes += len(result.verdict.lost_writes)
    totals.faults.update(fault.what for fault in result.plan.faults)
    found = [*result.findings, *(f"lost write: {lost}" for lost in result.verdict.lost_writes)]
    print(
        f"{time.strftime('%H:%M:%S')} history {result.plan.seed} ({mode}): {len(result.plan.steps)}"
        f" steps, {len(result.faults)} faults, {result.verdict.entries} entries on"
        f" {result.verdict.timelines} timelines, {result.seconds:.0f} s: "
        + (f"{len(found)} FINDINGS" if found else "equal"),
        flush=True,
    )
    if found:
        again = f"python -m tests.soak --mode {mode} --seed {result.plan.seed} --histories 1"
        text = "\n".join([*(f"  {fault}" for fault in result.faults), *found, f"again: {again}"])
        print(text, flush=True)
        totals.findings += found


def _report(totals: Totals, seconds: float) -> None:
    counts = totals.counts
    lines = [
        f"{totals.histories} histories, {totals.steps:,} steps, {seconds / 60:.1f} minutes;"
        f" {totals.timelines:,} home timelines with {totals.entries:,} entries compared",
        *_calls(counts),
        "faults: " + _counted(totals.faults),
        f"own posts not on the page read after them: {totals.own_seen_late}",
        f"acknowledged writes lost: {totals.lost_writes}",
        f"findings: {len(totals.findings)}",
    ]
    print("\n".join(lines), flush=True)


def _calls(counts: Counts) -> list[str]:
    return [
        "calls: " + _counted(counts.calls),
        "refused: " + _counted(counts.refused),
        "failed: " + _counted(counts.failed),
    ]


def _counted(counter: Counter[str]) -> str:
    total = f"{sum(counter.values()):,}"
    return f"{total} ({', '.join(f'{n} {name}' for name, n in counter.most_common())})"


if __name__ == "__main__":
    sys.exit(main())
