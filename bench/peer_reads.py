"""Home reads with other systems' command mixes (bench/peer_server.py) beside Chirp's, in turns."""

import random
from collections.abc import Sequence
from statistics import median

from bench import frames, http2, peer_server, tools
from bench.frames import Request
from bench.home import CONNECTIONS, STREAMS, encoded, forever
from bench.peer_server import FEED, LIST, POST, USER
from bench.rows import Row, at_least
from bench.stack import PEER_SERVICE, BenchStack
from bench.tools import LoadFailed
from bench.turns import Turn
from bench.world import World
from storage import valkey
from storage.timelines import Keys, WindowKind
from storage.windows import decode

TURNS, TURN_S = 5, 1.5
FEED_LENGTH = 400  # Mastodon's MAX_ITEMS
LIST_LENGTH = 300  # Misskey's default for a home timeline
READ_AT_ONCE = 100

WHAT = {
    "mastodon": "Mastodon's commands: ZREVRANGEBYSCORE on a sorted set of 400, MGET of 20 posts",
    "misskey": "Misskey's commands: LRANGE of a list of 300, 20 notes with users from PostgreSQL",
    "deathstarbench": "DeathStarBench's commands: ZREVRANGE, MGET of 20 posts (its memcached)",
    "pull": "plain pull in SQL: tweets of the followed, ORDER BY id, LIMIT 20",
}


async def measure(stack: BenchStack, world: World, page: bytes) -> list[Row]:
    """The rows. `page` is Chirp's average one: the peers' posts are a twentieth of it."""
    await _store(stack, world, page)
    port = await stack.start_peers()
    authority = f"127.0.0.1:{port}"
    sides: dict[str, tuple[int, str, list[Request], list[Turn]]] = {
        "chirp": (
            stack.port("timeline_server"), "timeline_server",
            encoded(world, stack.port("timeline_server")), [],
        )
    }  # fmt: skip
    for name in WHAT:
        requests = [
            frames.request(f"/{PEER_SERVICE}/{name}", authority, "", viewer.to_bytes(8))
            for viewer in world.viewers
        ]
        sides[name] = (port, "peers", requests, [])
    draw = random.Random(4)  # noqa: S311 -- not a secret
    for _ in range(TURNS):
        for serving, process, requests, turns in sides.values():
            before = tools.cpu_seconds(stack.process_id(process))
            result = await http2.run(
                serving, forever(requests, draw), connections=CONNECTIONS, streams=STREAMS,
                seconds=TURN_S,
            )  # fmt: skip
            if result.failed:
                raise LoadFailed(f"{result.failed} home reads failed")
            cpu_s = tools.cpu_seconds(stack.process_id(process)) - before
            turns.append(Turn(len(result.latencies), result.seconds, cpu_s))
    await stack.stop("peers")
    rates = {name: median(turn.rate for turn in turns) for name, (*_, turns) in sides.items()}
    cpu = {name: median(turn.per_cpu_second for turn in side[3]) for name, side in sides.items()}
    return [
        at_least(
            f"peer_{name}_home", rates[name], "requests/s",
            ratio=rates[name] / rates["chirp"],
            against=f"Chirp's home reads {rates['chirp']:,.0f}",
            how=f"command mix: {what}; behind a bare gRPC server (grpc.aio, uvloop, one shared"
            " connection to Valkey), which verifies no token, applies no rule and adds no counts"
            f" and marks; {CONNECTIONS} connections of {STREAMS} streams (bench/http2.py), random"
            f" viewers of {len(world.viewers):,}, median of {TURNS} turns of {TURN_S} s, in turns"
            f" with Chirp; {cpu[name]:,.0f} requests / CPU-s of the server alone,"
            f" Chirp's {cpu['chirp']:,.0f}; stores and client on the same cores",
        )
        for name, what in WHAT.items()
    ]  # fmt: skip


async def _store(stack: BenchStack, world: World, page: bytes) -> None:
    """Gives the viewers feeds in the other systems' structures, of what their windows hold."""
    body = page[: len(page) // peer_server.PAGE_TWEETS]
    keys = Keys(stack.settings.timeline_shards)
    async with valkey.connect(stack.settings.valkey_url, stack.settings) as cache:
        for start in range(0, len(world.viewers), READ_AT_ONCE):
            viewers = world.viewers[start : start + READ_AT_ONCE]
            reads = cache.pipeline(transaction=False)
            for viewer in viewers:
                reads.lrange(keys.window(WindowKind.TIMELINE, viewer), 0, FEED_LENGTH - 1)
            windows: Sequence[list[bytes]] = await reads.execute()
            writes = cache.pipeline(transaction=False)
            for viewer, elements in zip(viewers, windows, strict=True):
                window = decode(elements)
                if window is None or not window.entries:
                    raise LoadFailed("a viewer has no window")
                ids = [int(entry[0]) for entry in window.entries]
                writes.zadd(FEED.format(viewer), {str(one): one for one in ids})
                writes.copy(FEED.format(viewer), USER.format(viewer))
                writes.rpush(LIST.format(viewer), *ids[:LIST_LENGTH])
                writes.mset({POST.format(one): body for one in ids[: peer_server.PAGE_TWEETS]})
            await writes.execute()
