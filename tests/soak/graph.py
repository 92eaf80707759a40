"""The soak on a real follower graph: `python -m tests.soak --graph FILE --tweets FILE ...`.

 1. Load the graph into a new stack with two replicas; read everybody's first page, so that all
    timelines are warm; post the tweets.
 2. Mixed operations at a rate, while a worker is killed with -9 every 20 seconds and the cache is
    emptied twice: early, and in the middle.
 3. When all is at rest: `chirp verify --all`, and the rows against what was acknowledged.

Steps 1 and 3 run the commands that anybody would, and print what they print.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from domain.ids import UserId
from mesh.tokens import TokenSigner
from tests.soak import grpc_api, judge, ledger, plan, stack
from tests.soak.api import Counts, Person
from tests.soak.history import play
from tests.soak.model import Model
from tests.soak.plan import Fault
from tests.soak.player import Player
from tests.soak.stack import SoakStack

SETTINGS = {"CHIRP_INFLUENCER_FOLLOWERS": "1000", "CHIRP_CELEBRITY_FOLLOWERS": "3000"}
KILL_EVERY_S = 20
EMPTY_EARLY = 0.1  # of the time
EMPTY_AGAIN = 0.5
UNDER_WAY_MAX = 400
TOP = 2_000  # every second actor is one of the so many most followed
LIMITS = (20,)
TOKEN_LIFETIME_S = 86_400
# Three queries over a whole timeline each: few of them are many here.
OPERATIONS = {**plan.OPERATIONS, "read whole": 0.1}


@dataclass(frozen=True, slots=True)
class Graph:
    """What to load, and how to play on it."""

    graph: Path
    tweets: Sequence[Path]
    minutes: float
    rate: float
    seed: int


class Crowd:
    """All accounts of the graph, as those who act: every second one is much followed."""

    def __init__(self, accounts: Sequence[int], signer: TokenSigner) -> None:
        self._accounts = accounts
        self._signer = signer
        self._people: dict[int, Person] = {}

    def __len__(self) -> int:
        return 2 * len(self._accounts)

    def __getitem__(self, index: int, /) -> Person:
        place = index // 2
        user = self._accounts[place % TOP if index % 2 else place]
        if user not in self._people:
            token = self._signer.sign_user(
                UserId(user), 0, lifetime_s=TOKEN_LIFETIME_S, now=time.time()
            )
            self._people[user] = Person(user, token)
        return self._people[user]


async def run(asked: Graph, data: Path, counts: Counts, say: stack.Say) -> list[str]:
    """Plays; returns what was found."""
    async with AsyncExitStack() as opened:
        running = await opened.enter_async_context(stack.running(data, SETTINGS, say))
        findings = await _prepare(asked)
        api = await opened.enter_async_context(grpc_api.open_api(running.url, counts))
        judging = await opened.enter_async_context(judge.open_judge(running, api))
        accounts = await _accounts(running)
        model = Model()
        player = Player(
            api, Crowd(accounts, TokenSigner(running.settings)), model, judging.oracle,
            prefix=f"graph-{asked.seed}", limits=LIMITS,
        )  # fmt: skip
        player.delivered_up_to = await judging.drained()
        await _play(asked, player, running, counts)
        findings += [*player.findings, *api.flaws]
        began = time.monotonic()
        await judging.drained()
        print(f"all at rest after {time.monotonic() - began:.1f} s", flush=True)
        await asyncio.sleep(judge.SETTLE_S)
        findings += await _chirp("verify", "--all")
        async with running.database() as connection:
            lost = await ledger.lost_writes(connection, model)
            wrong = await ledger.wrong_counts(connection, sorted(model.authors.values()))
        print(f"acknowledged writes lost: {len(lost)}; wrong counts: {len(wrong)}", flush=True)
        return [*findings, *lost, *wrong]


async def _prepare(asked: Graph) -> list[str]:
    findings = await _chirp("load", "--graph", str(asked.graph))
    findings += await _chirp("verify", "--all", "--materialise")
    for file in asked.tweets:
        findings += await _chirp("load", "--tweets", str(file))
    return findings


async def _play(asked: Graph, player: Player, running: SoakStack, counts: Counts) -> None:
    seconds = asked.minutes * 60
    steps = plan.operations(Random(asked.seed), OPERATIONS, round(seconds * asked.rate))
    kills = range(KILL_EVERY_S, int(seconds), KILL_EVERY_S)
    faults = [
        *(Fault(round(at * asked.rate), "kill a worker", n) for n, at in enumerate(kills)),
        *(
            Fault(round(part * len(steps)), "empty the cache", 0)
            for part in (EMPTY_EARLY, EMPTY_AGAIN)
        ),
    ]
    done: list[str] = []
    before, began = sum(counts.calls.values()), time.monotonic()
    await play(
        player, running, steps, sorted(faults, key=lambda fault: fault.after_steps), done,
        steps_per_s=asked.rate, under_way_max=UNDER_WAY_MAX,
    )  # fmt: skip
    took = time.monotonic() - began
    calls = sum(counts.calls.values()) - before
    print(
        f"{len(steps):,} operations in {took:.1f} s: {len(steps) / took:.0f} a second,"
        f" {calls / took:.0f} calls a second",
        *done,
        sep="\n  ",
        flush=True,
    )


async def _accounts(running: SoakStack) -> list[int]:
    async with running.database() as connection:
        cursor = await connection.execute("SELECT id FROM users ORDER BY follower_count DESC, id")
        return [int(row[0]) for row in await cursor.fetchall()]


async def _chirp(*arguments: str) -> list[str]:
    """Runs a command on the stack, which the environment names; prints what it says, and returns a
    finding where it does not end well."""
    command = f"chirp {' '.join(arguments)}"
    print(f"$ {command}", flush=True)
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops.cli", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    text = f"{out.decode()}({time.monotonic() - began:.1f} s)"
    print(text, flush=True)
    if process.returncode:
        return [f"{command} ends with {process.returncode}: {errors.decode()[-500:]}"]
    return []
