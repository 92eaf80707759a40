"""What Valkey does with bare LPUSHX onto the windows of all accounts, sent by the standard load
generator: what fan-out is compared with.

The generator draws keys that end in twelve digits, so the windows have such names while it runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import tools
from bench.stack import BenchStack
from bench.world import World
from storage import valkey
from storage.timelines import Keys, WindowKind
from storage.valkey import Valkey
from storage.windows import ENTRY_BYTES

COMMANDS = 1_000_000
PIPELINE = 100
# Its default. With so many Valkey spends least on each command: 415,000 a second, with 8 of them
# 344,000, with 4 353,000, with 1, for which it waits, 297,000.
CONNECTIONS = 50
# An entry that is older than any event. Of one with a zero byte redis-benchmark 7.0 would send what
# stands before that byte.
ENTRY = "\1" * ENTRY_BYTES
PREFIX = "bench:window:"
PER_PIPELINE = 1_000


@dataclass(frozen=True, slots=True)
class Baseline:
    """What it was."""

    rate: float
    """LPUSHX a second."""
    valkey_part: float
    """How much of a core Valkey used."""
    what: str


async def measure(stack: BenchStack, world: World) -> Baseline:
    """Pushes entries onto random windows; all accounts must have one. Raises LoadFailed, also where
    not every command has made a window longer."""
    keys = Keys(stack.settings.timeline_shards)
    windows = [keys.window(WindowKind.TIMELINE, account) for account in world.accounts]
    numbered = [f"{PREFIX}{number:012}" for number in range(len(windows))]
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        await _rename(cache, windows, numbered)
        try:
            entries = await _entries(cache, numbered)
            before = tools.cpu_seconds(stack.cache_process_id)
            load = await tools.redis_benchmark(
                stack.settings.valkey_url, "LPUSHX", f"{PREFIX}{tools.RANDOM_NUMBER}", ENTRY,
                requests=COMMANDS, connections=CONNECTIONS, pipeline=PIPELINE, below=len(windows),
            )  # fmt: skip
            valkey_s = tools.cpu_seconds(stack.cache_process_id) - before
            pushed = await _entries(cache, numbered) - entries
        finally:
            await _rename(cache, numbered, windows)
    if pushed != COMMANDS:
        raise tools.LoadFailed(f"{COMMANDS:,} LPUSHX pushed {pushed:,} entries")
    what = (
        f"LPUSHX by {tools.program('redis-benchmark')}, {CONNECTIONS} connections, pipelines of"
        f" {PIPELINE}, {load.rate:,.0f}"
    )
    return Baseline(load.rate, valkey_s / load.seconds, what)


async def _rename(cache: Valkey, names: Sequence[str], others: Sequence[str]) -> None:
    for some in _slices(len(names)):
        pipeline = cache.pipeline(transaction=False)
        for name, other in zip(names[some], others[some], strict=True):
            pipeline.rename(name, other)
        await pipeline.execute()


async def _entries(cache: Valkey, windows: Sequence[str]) -> int:
    """Returns how many entries windows have, all together."""
    entries = 0
    for some in _slices(len(windows)):
        pipeline = cache.pipeline(transaction=False)
        for window in windows[some]:
            pipeline.llen(window)
        entries += sum(await pipeline.execute())
    return entries


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + PER_PIPELINE) for start in range(0, count, PER_PIPELINE))
