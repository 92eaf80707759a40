"""What a log says of errors that nobody expected: enough to find them, and no row."""

import logging

import grpc
import psycopg
import pytest

from mesh import errors
from tests.integration.accounts import Accounts

WORDS = "planted_words"


async def test_an_error_of_the_database_is_logged_without_its_rows(
    accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    insert = f"INSERT INTO users (id, username, display_name) VALUES (%s, '{WORDS}', '')"
    await accounts.rows(f"{insert} RETURNING id", 1)

    for statement in (
        f"UPDATE users SET username = '{WORDS}', follower_count = -1 WHERE id = 1",
        insert.replace("%s", "2"),
        f"SELECT '{WORDS}'::bigint",
    ):
        with pytest.raises(psycopg.Error) as caught:
            await accounts.rows(statement)
        assert WORDS in str(caught.value), "else the test shows nothing"
        wrapped = RuntimeError("a call failed")
        wrapped.__cause__ = caught.value
        for error in (caught.value, wrapped):
            with caplog.at_level(logging.ERROR):
                answered = errors.translate(error, "/chirp.v1.UserService/GetMe")

            assert answered.message == "internal error"
            assert WORDS not in caplog.text
            assert type(caught.value).__name__ in caplog.text
            assert str(caught.value.sqlstate) in caplog.text
            assert "in rows" in caplog.text, "where it came from"
    assert "users_follower_count_check" in caplog.text


async def test_what_a_call_answers_says_nothing_of_it_either(accounts: Accounts) -> None:
    person, other = await accounts.insert(2)
    async with accounts.pool.connection() as connection:
        await connection.execute(
            "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION '{WORDS}'; END $$".encode()
        )
        await connection.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON follows EXECUTE FUNCTION broken()"
        )

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await accounts.follow(person, other)

    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error"
    assert WORDS not in str(caught.value.trailing_metadata())
