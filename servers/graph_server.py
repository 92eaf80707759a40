"""The graph server: accounts (UserService), follows, blocks and mutes (GraphService), and what
other servers ask of both.

    python -m servers.graph_server

It alone signs tokens. It makes the key folder's files where there are none.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg
from chirp.v1 import graph_pb2, user_pb2

from domain.tier import Thresholds
from mesh import keys, rpc, server
from mesh.client_address import ClientAddresses
from mesh.settings import Settings
from mesh.tasks import raise_if_cancelled
from mesh.tokens import TokenSigner
from servers.block_directory import BlockDirectoryService
from servers.follower_directory import FollowerDirectoryService
from servers.graph_service import GraphService
from servers.passwords import open_passwords
from servers.purge_feed import PurgeFeed
from servers.rate_limits import open_rate_limits
from servers.relation_eraser import RelationEraser
from servers.relations import Relations
from servers.session_verifier import SessionVerifier
from servers.short_form import ShortGraph
from servers.sign_in_throttle import SignInThrottle
from servers.user_directory import UserDirectoryService
from servers.user_service import UserService
from storage import database, sessions, snowflakes, valkey
from storage.database import Pool
from storage.signins import SignInStore
from storage.timelines import TimelineStore

SESSIONS_REST_S = 600  # between two rounds of clearing up expired sessions

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_process(settings: Settings) -> AsyncGenerator[server.Process]:
    """Opens what the services need, and closes it in the opposite order."""
    if not (settings.keys / keys.GATEWAY_SECRET_FILE).exists():
        keys.ensure_keys(settings)
    thresholds = Thresholds(
        settings.influencer_followers, settings.celebrity_followers, settings.tier_hysteresis
    )
    async with (
        database.open_pool(settings) as pool,
        snowflakes.lease(pool) as ids,
        valkey.connect(settings.valkey_url, settings) as cache,
        open_rate_limits(settings, cache) as rates,
        open_passwords(settings) as passwords,
    ):
        feed = PurgeFeed(pool, settings)
        verifier = SessionVerifier(pool, feed, settings)
        timelines = TimelineStore(cache, settings)
        throttle = SignInThrottle(SignInStore(cache), ClientAddresses(settings), settings)
        user_service = UserService(
            settings, pool, ids, passwords, TokenSigner(settings), throttle, time.time
        )
        relations = Relations(pool, ids, thresholds, timelines.drop, time.time)
        graph_service = GraphService(pool, relations)
        eraser = RelationEraser(pool, thresholds, timelines.drop, time.time)
        users = user_pb2.DESCRIPTOR.services_by_name
        graph = graph_pb2.DESCRIPTOR.services_by_name
        yield server.Process(
            services=[
                rpc.bind(users["UserService"], user_service, verifier, rates=rates),
                rpc.bind(users["UserDirectoryService"], UserDirectoryService(pool), verifier),
                rpc.bind(
                    graph["GraphService"],
                    (graph_service, ShortGraph(graph_service.FollowUser)),
                    verifier,
                    rates=rates,
                ),
                rpc.bind(graph["BlockDirectoryService"], BlockDirectoryService(pool), verifier),
                rpc.bind(
                    graph["FollowerDirectoryService"], FollowerDirectoryService(pool), verifier
                ),
            ],
            loops=[feed.run, lambda: _clear_sessions(pool), eraser.run, rates.run],
            collectors=[
                throttle.collect,
                rates.collect,
                feed.collect,
                lambda: database.collect(pool),
            ],
        )


async def _clear_sessions(pool: Pool) -> None:
    while True:
        try:
            while await sessions.delete_expired(pool) == sessions.DELETE_BATCH:
                pass
        except psycopg.Error as error:
            log.warning("expired sessions stay for now: %s", error)
        raise_if_cancelled()
        await asyncio.sleep(SESSIONS_REST_S)


if __name__ == "__main__":
    server.main("graph_server", open_process)
