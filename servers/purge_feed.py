"""Keeps a server's process caches honest: asks PostgreSQL four times a second what changed.

A server whose feed is stale must not trust its caches: `fresh` says so.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import psycopg
import psycopg_pool

from domain.ids import UserId
from mesh import catalogue
from mesh.metrics import Sample
from mesh.settings import Settings
from mesh.tasks import raise_if_cancelled
from storage import erasures, purges
from storage.database import Pool

STALE_AFTER_S = 1.5  # with the poll, below the two seconds that readers are promised

log = logging.getLogger(__name__)


class PurgeFeed:
    """Polls `purges` and tells its listeners; they forget all where it fell too far behind."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._poll_s = settings.purge_poll_ms / 1000
        self._listeners: list[tuple[Callable[[purges.Purge], None], Callable[[], None]]] = []
        self._xid: str | None = None
        self._anew = False
        self._polled_at = float("-inf")
        self._polled = asyncio.Event()
        self.erased: set[UserId] = set()
        """Accounts that were deleted, of which tweets may be left: they are as deleted."""

    @property
    def fresh(self) -> bool:
        """Whether caches hold nothing that changed more than two seconds ago."""
        return time.monotonic() - self._polled_at < STALE_AFTER_S

    async def collect(self) -> list[Sample]:
        """Returns whether it is fresh."""
        return [Sample(catalogue.PURGE_FEED_FRESH, int(self.fresh))]

    async def until_fresh(self) -> None:
        """Returns when `fresh` holds."""
        while not self.fresh:
            self._polled.clear()
            await self._polled.wait()

    def listen(
        self, on_purge: Callable[[purges.Purge], None], forget_all: Callable[[], None]
    ) -> None:
        """Registers a cache."""
        self._listeners.append((on_purge, forget_all))

    def begin_anew(self) -> None:
        """Has the next poll forget everything: a listener could not do what it was told."""
        self._anew = True

    async def poll(self) -> None:
        """Asks once; raises what the database raises."""
        started = time.monotonic()
        if self._xid is None or self._anew:
            self._anew = False
            # What was cached before the feed began was never checked.
            xid = await purges.current_xid(self._pool)
            await self._forget_all()
            self._xid = xid
        else:
            found = await purges.fetch_since(self._pool, self._xid)
            if found.complete:
                for purge in found.purges:
                    self._note_erased(purge)
                    for on_purge, _ in self._listeners:
                        on_purge(purge)
            else:
                await self._forget_all()
            self._xid = found.next_xid
        self._polled_at = started
        self._polled.set()

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            try:
                await self.poll()
            except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as error:
                log.warning("cannot ask what changed: %s", type(error).__name__)
            raise_if_cancelled()
            await asyncio.sleep(self._poll_s)

    def _note_erased(self, purge: purges.Purge) -> None:
        if purge.kind is purges.Kind.ERASED:
            if purge.version:
                self.erased.discard(UserId(purge.subject_id))
            else:
                self.erased.add(UserId(purge.subject_id))

    async def _forget_all(self) -> None:
        # One object for ever: caches hold it.
        self.erased |= await erasures.fetch_with_tweets(self._pool)
        for _, forget_all in self._listeners:
            forget_all()
