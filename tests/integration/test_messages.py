"""Several statements in one message: the same as one after the other, whatever goes wrong."""

import asyncio
from collections.abc import AsyncGenerator

import psycopg
import pytest
import pytest_asyncio

from mesh.settings import Settings
from storage import database
from storage.messages import BEGIN, COMMIT, Connection, Statement

COUNT = Statement("SELECT count(*) FROM kept")
DIVIDE = Statement("SELECT 1 / $1::int", [0])


def keep(number: int) -> Statement:
    return Statement("INSERT INTO kept VALUES ($1::bigint)", [number])


@pytest_asyncio.fixture
async def connection(settings: Settings) -> AsyncGenerator[Connection]:
    """The only one of its pool."""
    async with database.open_pool(settings, size_max=1) as pool, pool.connection() as opened:
        await opened.execute("CREATE TABLE kept (number bigint PRIMARY KEY)")
        yield opened


async def test_each_gets_its_rows_and_values_of_any_kind_arrive(connection: Connection) -> None:
    numbers = [0, -1, 2**31, 2**63 - 1]
    texts = ["", "NULL", 'quo"te', "back\\slash", "{com,ma}", "  spaces ", "\U0001f426", "'; --"]
    contents = [b"", b"\x00\xff", b"\\x41", bytes(range(256))]
    values = Statement(
        "SELECT $1::bigint[], $2::text[], $3::bytea[], $4::json, $5::bytea, $6::text",
        [numbers, texts, contents, '{"a": [1]}', contents[3], None],
    )
    nothing = Statement("SELECT $1::bigint[], $2::text[], $3::bytea[]", [[], [], []])
    for _ in range(3):  # prepared, and again
        found = await connection.together([values, nothing, COUNT, Statement("SELECT FROM kept")])
        assert found == [
            [(numbers, texts, contents, {"a": [1]}, contents[3], None)],
            [([], [], [])],
            [(0,)],
            [],
        ]


async def test_what_is_larger_than_any_buffer_goes_both_ways(connection: Connection) -> None:
    large = Statement("SELECT $1::bytea[]", [[b"x" * 1_000_000] * 8])
    found = await asyncio.wait_for(connection.together([large] * 4), 30)
    assert [len(rows[0][0]) for rows in found] == [8] * 4


async def test_behind_an_error_nothing_runs_and_all_goes_on(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await connection.together([keep(1), DIVIDE, keep(2)])
    # The one ahead of it fell with it; what was prepared for it stays, and is not prepared again.
    assert await connection.together([COUNT, keep(2), keep(3), COUNT]) == [[(0,)], [], [], [(2,)]]
    with pytest.raises(psycopg.errors.SyntaxError):
        await connection.together([Statement("SELEKT"), COUNT])
    assert await connection.together([COUNT]) == [[(2,)]]


async def test_a_transaction_ends_as_a_whole(connection: Connection) -> None:
    await connection.together([BEGIN, keep(1)])
    with pytest.raises(psycopg.errors.UniqueViolation):
        await connection.together([keep(1), COMMIT])
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        await connection.together([COUNT])
    await connection.rollback()
    await connection.together([BEGIN, keep(1)])
    await connection.together([keep(2), COMMIT])
    await connection.rollback()
    assert await connection.together([COUNT]) == [[(2,)]]


async def test_a_cancelled_task_leaves_the_connection_as_it_was(connection: Connection) -> None:
    sleeping = Statement("SELECT pg_sleep($1::float)", [60])
    task = asyncio.create_task(connection.together([keep(1), sleeping, keep(2)]))
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert await connection.together([COUNT]) == [[(0,)]]


async def test_a_connection_that_breaks_says_so(connection: Connection) -> None:
    hang_up = Statement("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(psycopg.OperationalError):
        await connection.together([keep(1), hang_up, keep(2)])
    assert connection.broken
    with pytest.raises(psycopg.OperationalError):
        await connection.together([COUNT])
