"""Whether timelines are right after they were measured: what `chirp verify --random N` does.

Accounts that no read asked for hold made-up windows while a benchmark runs, so that fan-out has to
deliver to them. Those are dropped first; the windows of all who read stay as the run left them.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from rich.progress import Progress

from bench.rows import Row, at_most
from bench.stack import BenchStack
from bench.world import World
from domain.ids import UserId
from ops import verifier
from ops.verifier import Selection, Verifier
from storage import valkey
from storage.timelines import Keys, WindowKind

READERS, AT_RANDOM = 60, 20
PER_PIPELINE = 1_000


@asynccontextmanager
async def opened(stack: BenchStack) -> AsyncGenerator[Verifier]:
    """Opens what `chirp verify` works with."""
    async with AsyncExitStack() as exits:
        yield await verifier.open_verifier(exits, stack.settings, gateway=None)


async def measure(
    stack: BenchStack, world: World, readers: Sequence[UserId], progress: Progress
) -> Row:
    """The row: timelines that differ from the oracle's, of some who read and some at random."""
    await _drop_others(stack, world, {*readers, *world.viewers})
    step = max(1, len(readers) // (READERS // 2))
    users = [*world.viewers[: READERS // 2], *readers[::step][: READERS // 2]]
    async with opened(stack) as verifying:
        viewers = await verifying.select(
            Selection(users=[str(user) for user in users], random=AT_RANDOM)
        )
        report = await verifying.verify(viewers, progress)
    return at_most(
        "verify", len(report.differences), "timelines that differ", value_goal=0,
        how=f"as `chirp verify`, when the rows above were measured: {report.accounts} accounts,"
        f" {len(users)} of them among those who read meanwhile, {AT_RANDOM} at random over all;"
        f" {report.entries:,} entries on {report.pages:,} pages compared with the oracle's SQL",
    )  # fmt: skip


async def _drop_others(stack: BenchStack, world: World, readers: set[UserId]) -> None:
    keys = Keys(stack.settings.timeline_shards)
    others = [account for account in world.accounts if account not in readers]
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        for start in range(0, len(others), PER_PIPELINE):
            pipeline = cache.pipeline(transaction=False)
            for account in others[start : start + PER_PIPELINE]:
                pipeline.unlink(keys.window(WindowKind.TIMELINE, account))
            await pipeline.execute()
