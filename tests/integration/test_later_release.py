"""What a later release says to this one's workers, while both run."""

import asyncio

from chirp.v1 import events_pb2

from eventlog import deadletters
from eventlog.valkey_streams import open_log
from mesh.settings import Settings
from ops.processes import KINDS
from storage import outbox
from tests.all_processes import open_all
from workers import fanout_worker, notification_worker, trend_worker

DEADLINE_S = 20.0
GROUPS = (fanout_worker.GROUP, notification_worker.GROUP, trend_worker.GROUP)
WORKERS = [kind for kind in KINDS if not kind.is_server or kind.name == "graph_server"]
KEYS = 64  # so many that every partition gets some


async def test_events_of_a_later_release_are_passed_over(settings: Settings) -> None:
    later = events_pb2.Event()
    later.occurred_at.GetCurrentTime()
    # A kind that is not known, field 1000, of three bytes.
    payload = later.SerializeToString() + bytes([0xC2, 0x3E, 3]) + b"new"
    assert events_pb2.Event.FromString(payload).WhichOneof("kind") is None

    async with open_all(settings, WORKERS) as chirp, open_log(settings) as event_log:
        async with chirp.accounts.pool.connection() as connection:
            await outbox.insert_all(connection, [(key, payload) for key in range(KEYS)])

        async def passed() -> bool:
            unsent = await chirp.accounts.rows("SELECT FROM outbox WHERE sent_at IS NULL LIMIT 1")
            lags = [sum((await event_log.lag(group)).values()) for group in GROUPS]
            return not unsent and lags == [0, 0, 0]

        async with asyncio.timeout(DEADLINE_S):
            while not await passed():
                await asyncio.sleep(0.02)
    for group in GROUPS:
        async with deadletters.open_letters(settings, group) as letters:
            assert await letters.count() == 0, group
