"""What clients see of a death: `python -m tests.soak --kills`.

A stack with two replicas of each server and worker, calls through the gateway at a steady rate,
open loop; one process after the other is killed with -9, each replica of each kind once, while the
one before may still be starting. No read may fail, and no acknowledged write may be lost.
"""

import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.soak import grpc_api, history, judge, plan, stack
from tests.soak.api import Counts
from tests.soak.plan import Fault
from tests.soak.player import Player

KILL_EVERY_S = 4.0
UNDER_WAY_MAX = 400
PEOPLE = 60
FOLLOW_SHARE = 0.2
# What people do: they read, now and then they post, rarely they change whom they follow.
OPERATIONS = {
    "read": 60.0,
    "post": 10.0,
    "like": 8.0,
    "reply": 4.0,
    "retweet": 4.0,
    "delete": 2.0,
    "undo retweet": 1.0,
    "unlike": 1.0,
    "follow": 1.0,
    "unfollow": 0.5,
    "block": 0.1,
    "unblock": 0.2,
}


@dataclass(frozen=True, slots=True)
class Kills:
    """How to kill."""

    rate: float
    seed: int


async def run(asked: Kills, data: Path, counts: Counts, say: stack.Say) -> list[str]:
    """Plays; prints what was measured; returns what was found."""
    async with AsyncExitStack() as opened:
        running = await opened.enter_async_context(stack.running(data, {}, say))
        api = await opened.enter_async_context(grpc_api.open_api(running.url, counts))
        judging = await opened.enter_async_context(judge.open_judge(running, api))
        random = Random(asked.seed)
        people, model = await history.make_people(running, random, FOLLOW_SHARE, PEOPLE)
        player = Player(api, people, model, judging.oracle, prefix=f"kills-{asked.seed}")
        await judging.drained()
        processes = len(stack.KINDS_OF_CHIRP) * stack.REPLICAS
        order = random.sample(range(processes), processes)
        between = KILL_EVERY_S * asked.rate
        faults = [Fault(round((n + 1) * between), "kill", each) for n, each in enumerate(order)]
        steps = plan.operations(random, OPERATIONS, round((processes + 2) * between))
        done: list[str] = []
        before, began = Counter(counts.calls), time.monotonic()
        await history.play(
            player, running, steps, faults, done,
            steps_per_s=asked.rate, under_way_max=UNDER_WAY_MAX,
        )  # fmt: skip
        took = time.monotonic() - began
        calls = counts.calls - before
        failed_reads = {what: n for what, n in counts.failed.items() if what.startswith("read:")}
        verdict = await judging.judge(people, model)
    print(
        f"{len(done)} killed in {took:.0f} s at {calls.total() / took:.0f} calls a second:",
        *done,
        f"reads failed: {sum(failed_reads.values())} of {calls['read']:,} {failed_reads or ''}",
        f"acknowledged writes lost: {len(verdict.lost_writes)} of"
        f" {calls.total() - calls['read']:,} writes asked for",
        sep="\n  ",
        flush=True,
    )
    found = [*player.findings, *api.flaws, *verdict.findings, *verdict.lost_writes]
    return [*found, *(f"{n} reads failed: {what}" for what, n in failed_reads.items())]
