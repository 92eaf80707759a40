"""Home reads with the command mixes of other systems, each behind the same bare gRPC server.

    python -m bench.peer_server HOST:PORT

A mix is the commands that a system sends to its stores for one page of a home timeline, taken from
its source; nothing else of it runs here. Each gets what Chirp has: uvloop, one shared connection to
Valkey, PostgreSQL over a pool. And it gets for nothing what Chirp does besides: no token is
verified, no rule is applied, no count or mark is put in, and the page is bytes one after another.

    Mastodon     app/models/feed.rb (from_redis): ZREVRANGEBYSCORE with a limit of 20; then the
                 cached posts, one MGET (Rails' read_multi)
    Misskey      packages/backend/src/core/FanoutTimelineService.ts (get): LRANGE of the whole list,
                 sorted; FanoutTimelineEndpointService.ts (getAndFilterFromDb): the notes with their
                 users, replies and renotes from PostgreSQL
    DeathStarBench  socialNetwork/src/HomeTimelineService/HomeTimelineHandler.h (ReadHomeTimeline):
                 ZREVRANGE; then PostStorageService: one multi-get of memcached, here MGET
    Pull         tweets of the followed accounts, ORDER BY and LIMIT, as in many a first design
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, LiteralString, cast

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bench.stack import PEER_SERVICE
from mesh import settings as settings_module
from mesh.server import SERVER_OPTIONS
from storage import database, valkey_connection
from storage.database import Pool
from storage.valkey_connection import SharedConnection

PAGE_TWEETS = 20
FEED, LIST, USER, POST = "peer:feed:{}", "peer:list:{}", "peer:user:{}", "peer:post:{}"

Read = Callable[[int], Awaitable[bytes]]

_NOTES: LiteralString = (
    "SELECT note.content, author.username, author.display_name, reply.content, replied.username,"
    " renote.content, renoted.username FROM tweets AS note"
    " JOIN users AS author ON author.id = note.author_id"
    " LEFT JOIN tweets AS reply ON reply.id = note.reply_to"
    " LEFT JOIN users AS replied ON replied.id = reply.author_id"
    " LEFT JOIN tweets AS renote ON renote.id = note.retweet_of"
    " LEFT JOIN users AS renoted ON renoted.id = renote.author_id"
    " WHERE note.id = ANY(%s) ORDER BY note.id DESC"
)
_PULL: LiteralString = (
    "SELECT t.content, u.username, u.display_name FROM tweets AS t JOIN users AS u"
    " ON u.id = t.author_id WHERE t.deleted_at IS NULL AND t.author_id IN"
    " (SELECT followee_id FROM follows WHERE follower_id = %s) ORDER BY t.id DESC LIMIT %s"
)


async def serve(listen: str) -> None:
    """Serves until SIGTERM. A request is the viewer's id in eight bytes."""
    settings = settings_module.load()
    async with (
        valkey_connection.open_connection(
            settings.valkey_url,
            settings.valkey_timeout_s,
            gather_turns=valkey_connection.READS_GATHER_TURNS,
        ) as hot,
        database.open_pool(settings) as pool,
    ):
        server = grpc.aio.server(options=SERVER_OPTIONS)
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(_answering(read))
            for name, read in _mixes(hot, pool).items()
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(PEER_SERVICE, handlers),)
        )
        servicer = cast(Any, health).aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        server.add_insecure_port(listen)
        await server.start()
        await servicer.set(PEER_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        await server.stop(0)


def _mixes(hot: SharedConnection, pool: Pool) -> dict[str, Read]:
    async def posts(ids: list[bytes]) -> bytes:
        keys = [POST.format(one.decode()) for one in ids]
        (bodies,) = await hot.call([("MGET", *keys)])
        return b"".join(bodies)

    async def mastodon(viewer: int) -> bytes:
        key = FEED.format(viewer)
        (found,) = await hot.call(
            [("ZREVRANGEBYSCORE", key, "(+inf", "(-inf", "WITHSCORES", "LIMIT", 0, PAGE_TWEETS)]
        )
        return await posts(found[::2])

    async def misskey(viewer: int) -> bytes:
        (found,) = await hot.call([("LRANGE", LIST.format(viewer), 0, -1)])
        ids = sorted(map(int, found), reverse=True)[:PAGE_TWEETS]
        return await _rows(pool, _NOTES, (ids,))

    async def deathstarbench(viewer: int) -> bytes:
        (found,) = await hot.call([("ZREVRANGE", USER.format(viewer), 0, PAGE_TWEETS - 1)])
        return await posts(found)

    async def pull(viewer: int) -> bytes:
        return await _rows(pool, _PULL, (viewer, PAGE_TWEETS))

    return {"mastodon": mastodon, "misskey": misskey, "deathstarbench": deathstarbench,
            "pull": pull}  # fmt: skip


async def _rows(pool: Pool, query: LiteralString, arguments: tuple[object, ...]) -> bytes:
    async with pool.connection() as connection:
        rows: list[Any] = await (await connection.execute(query, arguments)).fetchall()
    return "".join(text for row in rows for text in row if text).encode()


def _answering(read: Read) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def answer(request: bytes, context: Any) -> bytes:
        page = await read(int.from_bytes(request))
        if not page:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this viewer has no page")
        return page

    return answer


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
