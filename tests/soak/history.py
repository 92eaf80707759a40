"""One history: new people, a plan played at a pace, faults on the way, the verdict."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import psycopg
from redis.exceptions import RedisError
from rich.progress import Progress

from domain.ids import UserId
from domain.tier import Thresholds
from mesh.settings import Settings
from mesh.tokens import TokenSigner
from ops import rebuild
from storage import bulk
from tests.soak.api import Api, Person
from tests.soak.judge import Judge, Verdict
from tests.soak.model import Model, Register
from tests.soak.plan import Fault, Plan, Step
from tests.soak.player import Player
from tests.soak.stack import SoakStack

PEOPLE = 10
STEPS_PER_S = 25.0
UNDER_WAY_MAX = 32
ENDS_WITHIN_S = 60.0  # after its last step
TOKEN_LIFETIME_S = 86_400
REBUILD_S = 10.0
RUSHES = 3
RUSH_POSTS = 12
RUSH_BEFORE_PAUSE_MAX_S = 0.15  # all rebuilds together take about as long
RUSH_PAUSE_MAX_S = 0.3


@dataclass(slots=True)
class Result:
    """What became of a history."""

    plan: Plan
    verdict: Verdict
    findings: list[str]
    faults: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    own_seen_late: int = 0


async def run(plan: Plan, *, stack: SoakStack, api: Api, judge: Judge) -> Result:
    """Plays a history and judges it. Faults are over when it returns."""
    started = time.monotonic()
    random = Random(plan.seed)
    people, model = await make_people(stack, random, plan.follow_share)
    player = Player(api, people, model, judge.oracle, prefix=f"soak-{plan.seed}")
    flaws_before = len(api.flaws)
    for _ in range(plan.first_posts):
        await player.post(random.choice(people))
    player.delivered_up_to = await judge.drained()
    faults: list[str] = []
    findings: list[str] = []
    try:
        async with asyncio.timeout(len(plan.steps) / STEPS_PER_S + ENDS_WITHIN_S):
            await play(
                player, stack, plan.steps, plan.faults, faults,
                steps_per_s=STEPS_PER_S, under_way_max=UNDER_WAY_MAX,
            )  # fmt: skip
    except TimeoutError:
        findings.append(f"did not end within {ENDS_WITHIN_S:.0f} s of its last step")
    verdict = await judge.judge(people, model)
    return Result(
        plan=plan,
        verdict=verdict,
        findings=[*findings, *player.findings, *api.flaws[flaws_before:], *verdict.findings],
        faults=faults,
        seconds=time.monotonic() - started,
        own_seen_late=player.own_seen_late,
    )


async def play(
    player: Player,
    stack: SoakStack,
    steps: Sequence[Step],
    faults: Sequence[Fault],
    done: list[str],
    *,
    steps_per_s: float,
    under_way_max: int,
) -> None:
    """Begins a step every 1/steps_per_s seconds, whether or not earlier ones have been answered,
    up to `under_way_max`; and the faults between them, of which it tells in `done`."""
    places = asyncio.Semaphore(under_way_max)
    begun = time.monotonic()
    waiting = deque(faults)

    async def step(one: Step) -> None:
        try:
            await player.play(one)
        finally:
            places.release()

    async def fault(one: Fault) -> None:
        at = time.monotonic() - begun
        match one.what:
            case "rush":
                what = await _rush(player, stack, Random(one.choice))
            case "rebuild":
                what = await _rebuild(stack)
            case _:
                what = await stack.fault(one)
        done.append(f"{at:5.1f} s  {one.what}: {what}")

    async with asyncio.TaskGroup() as group:
        for number, one in enumerate(steps):
            while waiting and waiting[0].after_steps <= number:
                group.create_task(fault(waiting.popleft()))
            await asyncio.sleep(max(0.0, begun + number / steps_per_s - time.monotonic()))
            await places.acquire()
            group.create_task(step(one))


async def _rush(player: Player, stack: SoakStack, random: Random) -> str:
    """The cache is emptied and everybody reads at once; timeline servers are paused while they
    rebuild, and what is posted meanwhile is pushed between a snapshot and its storing."""
    for _ in range(RUSHES):
        await stack.empty(stack.settings.valkey_url)
        async with asyncio.TaskGroup() as group:
            group.create_task(player.read_all())
            await asyncio.sleep(random.uniform(0.0, RUSH_BEFORE_PAUSE_MAX_S))
            group.create_task(player.post_some(random, RUSH_POSTS))
            await stack.pause("timeline_server", random.uniform(0.05, RUSH_PAUSE_MAX_S))
    return f"{RUSHES} times"


async def _rebuild(stack: SoakStack) -> str:
    """`chirp rebuild --all`, which may be stopped by what else breaks, and goes on next time."""
    done = rebuild.Done()
    away = (OSError, TimeoutError, LookupError, psycopg.OperationalError, RedisError)
    with suppress(*away):
        async with asyncio.timeout(REBUILD_S):
            await rebuild.everybody(stack.settings, Progress(disable=True), done)
    return rebuild.summary(done)


async def make_people(
    stack: SoakStack, random: Random, follow_share: float, count: int = PEOPLE
) -> tuple[list[Person], Model]:
    """Makes so many accounts without passwords, some of whom follow each other; no event tells of
    them, as nothing of them can be in any cache."""
    signer, model, people = TokenSigner(stack.settings), Model(), list[Person]()
    async with stack.database() as connection, connection.transaction():
        cursor = await connection.execute("SELECT coalesce(max(id), 0) FROM users")
        row = await cursor.fetchone()
        first = int(row[0]) + 1 if row else 1
        for user in range(first, first + count):
            await connection.execute(
                "INSERT INTO users (id, username, display_name) VALUES (%s, %s, %s)",
                (user, f"soak_{user}", f"Soak {user}"),
            )
            token = signer.sign_user(UserId(user), 0, lifetime_s=TOKEN_LIFETIME_S, now=time.time())
            people.append(Person(user, token))
        for one in people:
            for other in people:
                if one is other:
                    continue
                follows = random.random() < follow_share
                model.registers["follow", one.id, other.id] = Register(value=follows)
                if follows:
                    await connection.execute(
                        "INSERT INTO follows (follower_id, followee_id, id) VALUES (%s, %s, %s)",
                        (one.id, other.id, one.id * count + other.id),
                    )
        await connection.execute(
            "UPDATE users AS u SET follower_count ="
            " (SELECT count(*) FROM follows WHERE followee_id = u.id), following_count ="
            " (SELECT count(*) FROM follows WHERE follower_id = u.id) WHERE id >= %s",
            (first,),
        )
        await bulk.update_tiers(connection, _thresholds(stack.settings))
    return people, model


def _thresholds(settings: Settings) -> Thresholds:
    return Thresholds(
        settings.influencer_followers, settings.celebrity_followers, settings.tier_hysteresis
    )
