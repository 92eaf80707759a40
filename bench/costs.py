"""What one call costs each process, and what one thing costs in memory: bench/costs.json.

Each kind of call is made alone, at a fixed rate (open loop) that the machine carries easily; CPU
time is read from /proc before and after, of PostgreSQL with all its processes. docs/capacity.md and
bench/capacity_model.py are built on these figures.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString, cast

from bench import http2, tools, verification
from bench.mixed import encoded_mix
from bench.rows import Row, at_least
from bench.stack import BenchStack
from bench.tools import LoadFailed
from bench.world import World
from storage import bulk, valkey
from storage.timelines import Keys, WindowKind

COSTS = Path(__file__).with_name("costs.json")
RATES = {"home": 1_500.0, "user": 200.0, "post": 250.0}
SECONDS = 4.0
WARM_UP_S = 2.0
ACCOUNTS = 200  # few enough for the warm-up to bring all they need into the caches
CONNECTIONS = 4
PROCESSES = ("timeline_server", "tweet_server", "graph_server", "outbox_relay", "fanout_worker")
SAMPLED_US = 20.0  # what is below it is what an idle process does

_SIZES: dict[str, LiteralString] = {
    "tweet_row": "SELECT pg_total_relation_size('tweets') / greatest(1, count(*)) FROM tweets",
    "follow_row": "SELECT pg_total_relation_size('follows') / greatest(1, count(*)) FROM follows",
    "user_row": "SELECT pg_total_relation_size('users') / greatest(1, count(*)) FROM users",
}


async def measure(stack: BenchStack, world: World) -> list[Row]:
    """The rows, which are written into costs.json too. Every account must have a window."""
    few = replace(world, viewers=world.viewers[:ACCOUNTS], tokens=world.tokens[:ACCOUNTS])
    kinds = encoded_mix(stack, few)
    costs: dict[str, dict[str, float]] = {}
    rows: list[Row] = []
    async with verification.opened(stack) as verifier:
        idle = await _used(stack, lambda: asyncio.sleep(SECONDS))
        for kind, rate in RATES.items():
            port = stack.port("tweet_server" if kind == "post" else "timeline_server")

            async def load(
                seconds: float, port: int = port, kind: str = kind, rate: float = rate
            ) -> http2.Result:
                result = await http2.run_at_rate(
                    port, kinds[kind], connections=CONNECTIONS, rate=rate, seconds=seconds
                )
                await verifier.drain()
                return result

            await load(WARM_UP_S)
            results: list[http2.Result] = []

            async def noted() -> None:
                results.append(await load(SECONDS))  # noqa: B023 -- called in this turn

            used = await _used(stack, noted)
            (result,) = results
            if result.failed:
                raise LoadFailed(f"{result.failed} calls failed")
            calls = len(result.latencies)
            each = {name: 1e6 * (used[name] - idle[name]) / calls for name in used}
            costs[kind] = {name: round(us, 1) for name, us in each.items() if us > SAMPLED_US}
            rows.append(_row(kind, costs[kind], rate))
    costs["bytes"] = await _sizes(stack, world)
    COSTS.write_text(json.dumps(costs, indent=1) + "\n")
    return rows


def _row(kind: str, cost: Mapping[str, float], rate: float) -> Row:
    what = {"home": "home read", "user": "user timeline", "post": "post"}[kind]
    parts = ", ".join(f"{name} {us:.0f}" for name, us in cost.items())
    return at_least(
        f"cost_{kind}", sum(cost.values()), "CPU-us of all processes",
        how=f"a {what} by gRPC, nothing else beside it: {parts}; {rate:,.0f} a second (open loop)"
        f" for {SECONDS:.0f} s, less what the processes use at rest; by and of {ACCOUNTS} accounts,"
        " so caches are warm; the client's own CPU is not in it",
    )  # fmt: skip


async def _used(stack: BenchStack, work: Callable[[], Any]) -> dict[str, float]:
    """Returns the CPU seconds that each process used while something was done."""
    before = cpu_seconds(stack)
    await work()
    after = cpu_seconds(stack)
    return {name: after[name] - before[name] for name in after}


def cpu_seconds(stack: BenchStack) -> dict[str, float]:
    """Returns the CPU time that each process which has a part in the calls has used."""
    seconds = {name: tools.cpu_seconds(stack.process_id(name)) for name in PROCESSES}
    stores = stack.store_process_ids
    seconds["valkey"] = tools.cpu_seconds(stores["cache"])
    seconds["eventlog"] = tools.cpu_seconds(stores["eventlog"])
    seconds["postgres"] = tools.family_cpu_seconds(stores["postgres"])
    return seconds


async def _sizes(stack: BenchStack, world: World) -> dict[str, float]:
    sizes: dict[str, float] = {}
    async with bulk.connect(stack.settings) as connection:
        for name, query in _SIZES.items():
            row = await (await connection.execute(query)).fetchone()
            assert row is not None
            sizes[name] = float(row[0])
    keys = Keys(stack.settings.timeline_shards)
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        windows = [
            await cast(Any, cache).memory_usage(keys.window(WindowKind.TIMELINE, account))
            for account in world.viewers[:200]
        ]
        info = await cache.info("memory")
    sizes["full_window"] = float(max(windows))
    sizes["valkey_used"] = float(info["used_memory"])
    return sizes
