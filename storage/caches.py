"""Dropping from the cache what rows written in bulk have made stale: no event does it for them.

Of an account that follows or is followed anew, these are wrong afterwards:
    followers:{sN}:<author>   in every shard: pushes would not reach the new followers
    timeline:{sN}:<viewer>    it lacks what the newly followed posted
    viewer:{sN}:<viewer>      processes know the viewer's relations as they were

 1. Call `drop` after the commit. Follower lists go first: what was pushed by an old list to too few
    is then read from PostgreSQL, when the timelines that go next are rebuilt.
 2. Call it once more, `SETTLE_S` after the last commit: fan-out may have asked for followers before
    the commit, and stored its answer after the first call.
"""

from collections.abc import Iterable, Sequence

from domain.ids import UserId
from mesh import clients
from mesh.settings import Settings
from storage.timelines import Keys, WindowKind
from storage.valkey import Valkey

SETTLE_S = clients.DEADLINE_S + 1  # the longest that an answer may be under way, and its storing
COMMANDS_PER_TRIP = 1_000


async def drop(valkey: Valkey, settings: Settings, accounts: Sequence[int]) -> None:
    """Drops what is cached of accounts whose follows were written in bulk. Raises what redis
    raises where Valkey is away; calling again is safe."""
    keys = Keys(settings.timeline_shards)
    await _unlink(
        valkey,
        (
            (f"followers:{{s{shard}}}:{account}",)
            for account in accounts
            for shard in range(settings.timeline_shards)
        ),
    )
    await _unlink(
        valkey,
        (
            # Both at once, or a rebuild could begin between the two, by the old relations.
            (keys.window(WindowKind.TIMELINE, account), keys.viewer(account))
            for account in map(UserId, accounts)
        ),
    )


async def _unlink(valkey: Valkey, groups: Iterable[Sequence[str]]) -> None:
    # A command for the keys of one slot: what lies in several is refused by a Valkey Cluster.
    pipeline = valkey.pipeline(transaction=False)
    for keys in groups:
        pipeline.unlink(*keys)
        if len(pipeline) >= COMMANDS_PER_TRIP:
            await pipeline.execute()
    if len(pipeline):
        await pipeline.execute()
