"""PostgreSQL: bounded pools and forward-only migrations.

Where a task is cancelled while its statement runs, psycopg has PostgreSQL cancel the statement,
waits until it ended, and rolls back; the connection is good again. Two things get lost on that way,
and are mended here: a cancellation of the statement that arrives before the statement, and one of
the task in the turn of the event loop in which it gets its connection.
"""

import asyncio
import importlib.resources
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, LiteralString, Self, cast

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from mesh import catalogue, traces
from mesh.metrics import Sample
from mesh.settings import Settings
from mesh.tasks import losing_no_cancellation
from storage import messages

Connection = psycopg.AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[messages.Connection]

MIGRATION_LOCK = 0x43686972  # "Chir": one process migrates at a time
IDLE_S = 600.0
POOL_WAITING_MAX = 256  # callers that may wait for a connection; one more is refused at once
CANCEL_FIRST_S, CANCEL_S = 0.01, 5.0
# Of a process that was killed while it waited: the statement must not run on for nobody.
CLIENT_CHECK_MS = 1_000


class _Connection(messages.Connection):
    async def cancel_safe(self, *, timeout: float = CANCEL_S) -> None:  # noqa: ASYNC109 - psycopg's
        """Requests the end of the running statement, again and again until PostgreSQL answers."""
        rest_s = CANCEL_FIRST_S
        while timeout > 0:
            await super().cancel_safe(timeout=timeout)
            if await self._answers(rest_s):
                return
            timeout -= rest_s
            rest_s *= 2

    async def _answers(self, within_s: float) -> bool:
        """Whether something comes from PostgreSQL. Nobody else reads: the task was cancelled."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.pgconn.socket, readable.set)
        try:
            async with asyncio.timeout(within_s):
                return await readable.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self.pgconn.socket)


class _Pool(AsyncConnectionPool[messages.Connection]):
    async def getconn(self, timeout: float | None = None) -> messages.Connection:  # noqa: ASYNC109
        """As psycopg_pool's, which loses a cancellation now and then: see mesh/tasks.py."""
        connection = None
        try:
            with losing_no_cancellation():
                connection = await super().getconn(timeout)
        except asyncio.CancelledError:
            if connection is not None:
                await self.putconn(connection)
            raise
        return connection


@asynccontextmanager
async def open_pool(
    settings: Settings, *, size_max: int | None = None, idle_s: float = IDLE_S
) -> AsyncGenerator[Pool]:
    """Opens a bounded pool, which each `idle_s` closes a connection that it could have done
    without. A statement or a wait over `database_timeout_s` fails."""

    async def configure(connection: Connection) -> None:
        await connection.set_autocommit(True)
        if traces.enabled():
            connection.cursor_factory = _TracedCursor

    pool = _Pool(
        settings.database_url,
        connection_class=_Connection,
        min_size=1,
        max_size=size_max or settings.database_pool_max,
        timeout=settings.database_timeout_s,
        max_idle=idle_s,
        max_waiting=POOL_WAITING_MAX,
        configure=configure,
        check=None,
        kwargs={
            "options": f"-c statement_timeout={int(settings.database_timeout_s * 1000)}"
            f" -c client_connection_check_interval={CLIENT_CHECK_MS}",
            "application_name": "chirp",
            "connect_timeout": 5,
            "prepare_threshold": 2,
        },
        open=False,
    )
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


class _TracedCursor(psycopg.AsyncCursor[TupleRow]):
    """Has a span for each statement of a sampled request."""

    async def execute(self, query: Any, *arguments: Any, **options: Any) -> Self:
        with traces.statement(query):
            return await super().execute(query, *arguments, **options)


async def collect(*pools: Pool) -> list[Sample]:
    """Returns what a process's pools say of themselves, all of them together."""
    stats: Counter[str] = Counter()
    for pool in pools:
        stats.update(pool.get_stats())
    idle = stats["pool_available"]
    return [
        Sample(catalogue.POOL_CONNECTIONS, idle, ("idle",)),
        Sample(catalogue.POOL_CONNECTIONS, stats["pool_size"] - idle, ("used",)),
        Sample(catalogue.POOL_WAITING, stats["requests_waiting"]),
        Sample(catalogue.POOL_REQUESTS, stats["requests_num"]),
        Sample(catalogue.POOL_WAITS, stats["requests_queued"]),
        Sample(catalogue.POOL_WAIT_SECONDS, stats["requests_wait_ms"] / 1000),
        Sample(catalogue.POOL_REFUSALS, stats["requests_errors"]),
    ]


async def migrate(url: str) -> list[str]:
    """Applies the migrations that are missing, each in its own transaction; returns their names."""
    applied: list[str] = []
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        cursor = await connection.execute("SELECT name FROM schema_migrations")
        known = {str(row[0]) for row in await cursor.fetchall()}
        for name, statements in _migrations():
            if name in known:
                continue
            async with connection.transaction():
                # The text is a file of this package, not input.
                await connection.execute(sql.SQL(cast(LiteralString, statements)))
                await connection.execute(
                    "INSERT INTO schema_migrations (name) VALUES (%s)", (name,)
                )
            applied.append(name)
    return applied


async def fix_fact(pool: Pool, name: str, value: str) -> str:
    """Records a fact that is fixed for ever the first time it is said; returns what holds."""
    async with pool.connection() as connection:
        cursor: psycopg.AsyncCursor[Any] = await connection.execute(
            "INSERT INTO deployment_facts (name, value) VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET value = deployment_facts.value RETURNING value",
            (name, value),
        )
        row = await cursor.fetchone()
    assert row is not None
    return str(row[0])


async def require_fact(pool: Pool, setting: str, value: str) -> None:
    """Raises ValueError where a setting is not what this database began with: data lies where the
    first value put it."""
    fixed = await fix_fact(pool, setting, value)
    if fixed != value:
        raise ValueError(
            f"CHIRP_{setting.upper()} is {value}, but this database began with {fixed}"
        )


async def try_lead(connection: Connection, lock: int) -> bool:
    """Takes an advisory lock for as long as the connection lives, if nobody has it.

    The server pings a silent holder, so that the lock of a dead machine is free within 11 seconds.
    """
    cursor: psycopg.AsyncCursor[Any] = await connection.execute(
        "SELECT set_config('tcp_keepalives_idle', '5', false),"
        " set_config('tcp_keepalives_interval', '2', false),"
        " set_config('tcp_keepalives_count', '3', false), pg_try_advisory_lock(%s)",
        (lock,),
    )
    row = await cursor.fetchone()
    return bool(row and row[3])


async def still_leads(connection: Connection) -> bool:
    """Whether the connection, and so its lock, still lives; raises what psycopg raises if not."""
    cursor: psycopg.AsyncCursor[Any] = await connection.execute("SELECT 1")
    return await cursor.fetchone() is not None


async def stop_leading(connection: Connection, lock: int) -> None:
    """Frees an advisory lock. Where that fails, closes the connection: the lock lives as long as it
    does, and must not go back into a pool with it."""
    try:
        await connection.execute("SELECT pg_advisory_unlock(%s)", (lock,))
    except psycopg.Error:
        await connection.close()


def _migrations() -> list[tuple[str, str]]:
    folder = importlib.resources.files("storage.migrations")
    files = [file for file in folder.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", file.name)]
    return [(file.name, file.read_text()) for file in sorted(files, key=lambda f: f.name)]
