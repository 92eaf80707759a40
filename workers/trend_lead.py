"""Who counts trends: one worker leads and works, the others stand by."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from eventlog.outages import Backoff, is_outage, raise_if_cancelled
from eventlog.runner import Runner
from mesh.settings import Settings
from storage import database, tag_uses
from storage.database import Connection, Pool

STANDBY_REST_S = 0.25
LOOK_EVERY_S = 1.0
# Partitions come soon after joining, all at once where nobody had them.
JOINING_REST_S = 0.05

log = logging.getLogger(__name__)


class Worker(Protocol):
    """What is done while leading."""

    async def refresh(self, owned: Mapping[int, int]) -> None:
        """One turn of the work."""
        ...

    def stop(self) -> None:
        """The lead is over."""
        ...


class TrendLead:
    """Stands by, leads and works, for ever. Joins the group only while it leads, so that one member
    owns all partitions."""

    def __init__(
        self,
        pool: Pool,
        open_runner: Callable[[], AbstractAsyncContextManager[Runner]],
        worker: Worker,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._open_runner = open_runner
        self._worker = worker
        self._refresh_s = settings.trend_refresh_ms / 1000

    async def run(self) -> None:
        """Works until cancelled. Waits while a part is away, or another leads."""
        backoff = Backoff()
        while True:
            raise_if_cancelled()
            try:
                async with self._pool.connection() as connection:
                    if not await database.try_lead(connection, tag_uses.LEAD_LOCK):
                        await asyncio.sleep(STANDBY_REST_S)
                        continue
                    try:
                        log.info("this worker counts trends")
                        await self._lead(connection, backoff)
                    finally:
                        self._worker.stop()
                        await database.stop_leading(connection, tag_uses.LEAD_LOCK)
            except Exception as error:
                if not is_outage(error):
                    raise
                if backoff.fresh:
                    log.warning("the trend worker waits: %s: %s", type(error).__name__, error)
            await backoff.wait()

    async def _lead(self, connection: Connection, backoff: Backoff) -> None:
        """Works until one of its parts fails; raises what that part raised."""
        async with self._open_runner() as group:
            parts = [
                asyncio.create_task(part)
                for part in (group.run(), self._refresh(group, backoff), _look(connection))
            ]
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in done:
                    part.result()
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)

    async def _refresh(self, group: Runner, backoff: Backoff) -> None:
        loop = asyncio.get_running_loop()
        while True:
            raise_if_cancelled()
            begun = loop.time()
            owned = group.owned()
            try:
                await self._worker.refresh(owned)
                backoff.reset()
            except Exception as error:
                if not is_outage(error):
                    raise
                if backoff.fresh:
                    log.warning("trends wait: %s: %s", type(error).__name__, error)
                await backoff.wait()
            rest_s = self._refresh_s if owned else JOINING_REST_S
            await asyncio.sleep(max(0.0, begun + rest_s - loop.time()))


async def _look(connection: Connection) -> None:
    # The lock is gone with the connection: raises then, and the lead is over.
    while True:
        raise_if_cancelled()
        await database.still_leads(connection)
        await asyncio.sleep(LOOK_EVERY_S)
