"""Dropping from the cache what rows written in bulk have made stale: no event does it for them.
And what a repair does not trust: `drop_authors`.

Of an account that follows or is followed anew, these are wrong afterwards:
    follower_ids:{sN}:<author>   in every shard: pushes would not reach the new followers
    timeline:{sN}:<viewer>    it lacks what the newly followed posted
    viewer:{sN}:<viewer>      processes know the viewer's relations as they were

 1. Call `drop` after the commit. Follower lists go first: what was pushed by an old list to too few
    is then read from PostgreSQL, when the timelines that go next are rebuilt.
 2. Call it once more, `settle_s` after the last commit: fan-out may have asked for followers before
    the commit, and stored its answer after the first call.
"""

from collections.abc import Sequence

from domain import fanout
from domain.ids import UserId
from mesh import deadlines
from mesh.settings import Settings
from storage.timelines import Keys, WindowKind
from storage.valkey import Valkey

FOLLOWERS = "/chirp.v1.FollowerDirectoryService/ListFollowerIds"
KEYS_PER_CALL = 1_000  # holds Valkey for about a millisecond; even: pairs stay together


def settle_s(settings: Settings) -> float:
    """Returns the longest that an answer may be under way to fan-out, and its storing."""
    asked_s = deadlines.RULES[FOLLOWERS].deadline_s
    assert asked_s is not None, "no stream"
    return asked_s * settings.deadline_factor + 1


async def drop(valkey: Valkey, settings: Settings, accounts: Sequence[int]) -> None:
    """Drops what is cached of accounts whose follows were written in bulk. Raises what redis
    raises where Valkey is away; calling again is safe."""
    keys, shards = Keys(settings.timeline_shards), range(settings.timeline_shards)
    for shard in shards:
        await _unlink(valkey, [f"follower_ids:{{s{shard}}}:{account}" for account in accounts])
    by_shard: list[list[str]] = [[] for _ in shards]
    for account in map(UserId, accounts):
        # Side by side: between two calls a rebuild could begin by the old relations.
        by_shard[fanout.shard_of(account, settings.timeline_shards)] += (
            keys.window(WindowKind.TIMELINE, account),
            keys.viewer(account),
        )
    for of_shard in by_shard:
        await _unlink(valkey, of_shard)


async def drop_authors(valkey: Valkey, settings: Settings, authors: Sequence[int]) -> None:
    """Drops what home timelines are made from by way of these authors: their follower lists, by
    which fan-out pushes, and their recent entries, which readers pull. Raises what redis raises
    where Valkey is away; it is all made anew when it is needed, so calling again is safe."""
    keys = Keys(settings.timeline_shards)
    for shard in range(settings.timeline_shards):
        recents = [
            keys.window(WindowKind.RECENT, author)
            for author in map(UserId, authors)
            if fanout.shard_of(author, settings.timeline_shards) == shard
        ]
        followers = [f"follower_ids:{{s{shard}}}:{author}" for author in authors]
        await _unlink(valkey, [keys.pulled(shard), *recents, *followers])


async def drop_erased(valkey: Valkey, settings: Settings, accounts: Sequence[UserId]) -> None:
    """Drops everything that is kept for accounts that were deleted. What events of theirs that are
    still to come may put there again goes when the last one is dropped for."""
    keys, shards = Keys(settings.timeline_shards), range(settings.timeline_shards)
    for shard in shards:
        own = [a for a in accounts if fanout.shard_of(a, settings.timeline_shards) == shard]
        of_one = (keys.built, keys.marks, keys.viewer)
        await _unlink(
            valkey,
            [
                *(f"follower_ids:{{s{shard}}}:{account}" for account in accounts),
                *(keys.window(kind, account) for kind in WindowKind for account in own),
                *(key(account) for key in of_one for account in own),
            ],
        )


async def _unlink(valkey: Valkey, keys: Sequence[str]) -> None:
    """Unlinks keys of one shard, which lie in one slot of a Valkey Cluster."""
    for start in range(0, len(keys), KEYS_PER_CALL):
        await valkey.unlink(*keys[start : start + KEYS_PER_CALL])
