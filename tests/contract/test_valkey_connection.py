"""What the shared connection promises, on a real Valkey and on servers that misbehave."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from storage import valkey_connection
from storage.valkey_connection import (
    LONG_BYTES,
    PENDING_MAX,
    READS_GATHER_TURNS,
    SharedConnection,
    open_connection,
)
from tests.valkeys import OwnValkey, own_valkey

TIMEOUT_S = 0.2
DEADLINE_S = 10.0
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@pytest_asyncio.fixture
async def valkey() -> AsyncGenerator[OwnValkey]:
    async with own_valkey() as running:
        yield running


@pytest_asyncio.fixture
async def connection(valkey: OwnValkey) -> AsyncGenerator[SharedConnection]:
    async with open_connection(valkey.url, 1.0, gather_turns=READS_GATHER_TURNS) as opened:
        yield opened


@asynccontextmanager
async def server(talk: Talk) -> AsyncGenerator[str]:
    """A plain TCP server; yields the URL under which a client takes it for a Valkey."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            outcome = talk(reader, writer)
            if asyncio.iscoroutine(outcome):
                await outcome
        except ConnectionError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    finally:
        listening.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


async def test_replies_come_in_the_order_of_the_commands(connection: SharedConnection):
    answers = await connection.call([("SET", "a", 1), ("GET", b"a"), ("INCRBY", "a", 5)])

    assert answers == [b"OK", b"1", 6]


async def test_calls_of_one_turn_each_get_their_own_replies(connection: SharedConnection):
    calls = [
        connection.call([("ECHO", f"{number}"), ("ECHO", f"again {number}")])
        for number in range(500)
    ]

    answers = await asyncio.gather(*calls)

    assert answers == [[f"{n}".encode(), f"again {n}".encode()] for n in range(500)]


async def test_calls_of_some_turns_of_the_loop_leave_together(
    connection: SharedConnection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(valkey_connection, "GATHERING_S", DEADLINE_S)

    async def reads() -> int:
        (stats,) = await connection.call([("INFO", "stats")])
        (line,) = [each for each in stats.splitlines() if each.startswith(b"total_reads_processed")]
        return int(line.partition(b":")[2])

    await asyncio.gather(connection.call([("PING",)]), connection.call([("PING",)]))
    before = await reads()
    calls: list[asyncio.Future[list[bytes]]] = []
    for number in range(READS_GATHER_TURNS // 4):
        calls.append(connection.call([("ECHO", f"{number}")]))
        await asyncio.sleep(0)
    answers = await asyncio.gather(*calls)

    assert answers == [[f"{n}".encode()] for n in range(len(calls))]
    assert await reads() - before == 2  # they, and the question


async def test_error_reply_stands_in_its_place_and_hurts_nobody_else(connection: SharedConnection):
    await connection.call([("SET", "text", "no list")])

    first = connection.call([("GET", "text"), ("LPUSH", "text", "x"), ("GET", "text")])
    second = connection.call([("NO SUCH COMMAND",)])
    third = connection.call([("ECHO", "fine")])

    before, error, after = await first
    assert (before, after) == (b"no list", b"no list")
    assert isinstance(error, Exception)
    assert "WRONGTYPE" in str(error)
    assert isinstance((await second)[0], Exception)
    assert await third == [b"fine"]


async def test_replies_larger_than_a_packet_arrive_whole(connection: SharedConnection):
    large = b"\x00\r\n" * 1_000_000

    answers = await connection.call([("SET", "large", large), ("GET", "large")])

    assert answers == [b"OK", large]


async def test_a_long_command_waits_for_no_reply_and_takes_along_what_waits():
    received = bytearray()

    async def answer_the_greeting_only(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"0\r\n")
        writer.write(b"+OK\r\n")
        while data := await reader.read(1 << 16):
            received.extend(data)

    async with (
        server(answer_the_greeting_only) as url,
        open_connection(url, DEADLINE_S) as connection,
    ):
        connection.call([("ECHO", "first")])
        await until(lambda: b"first" in received, "the first command did not leave")
        connection.call([("ECHO", "second")])
        connection.call([("ECHO", b"x" * LONG_BYTES)])
        await until(lambda: b"x" * LONG_BYTES in received, "the long command did not leave")

    assert b"second" in received


async def test_call_without_commands_is_answered(connection: SharedConnection):
    empty, echo = connection.call([]), connection.call([("ECHO", "after")])

    assert await asyncio.wait_for(empty, DEADLINE_S) == []
    assert await echo == [b"after"]


async def test_caller_that_went_away_does_not_shift_the_replies(connection: SharedConnection):
    gone = connection.call([("ECHO", "gone"), ("ECHO", "gone too")])
    stays = connection.call([("ECHO", "stays")])

    gone.cancel()

    assert await stays == [b"stays"]


async def test_calls_fail_at_once_while_valkey_is_away_and_work_again_after(
    valkey: OwnValkey, connection: SharedConnection
):
    waiting = connection.call([("BLPOP", "nothing", 0)])
    valkey.stop()
    with pytest.raises(ConnectionError):
        await waiting
    assert not connection.connected

    started = time.monotonic()
    for _ in range(100):
        with pytest.raises(ConnectionError):
            connection.call([("PING",)])
    assert time.monotonic() - started < 0.1

    await valkey.start()
    await until(lambda: connection.connected, "it does not connect again")
    assert await connection.call([("ECHO", "back")]) == [b"back"]


async def test_it_connects_again_by_a_socket_that_a_killed_valkey_left(valkey: OwnValkey):
    async with open_connection(valkey.local_url, TIMEOUT_S) as connection:
        assert await connection.call([("ECHO", "first")]) == [b"first"]
        valkey.stop()
        await until(lambda: not connection.connected, "it does not notice")

        await valkey.start()

        await until(lambda: connection.connected, "it does not connect again")
        assert await connection.call([("ECHO", "back")]) == [b"back"]


async def test_it_connects_where_valkey_starts_later(valkey: OwnValkey):
    valkey.stop()
    async with open_connection(valkey.url, TIMEOUT_S) as connection:
        assert not connection.connected

        await valkey.start()

        await until(lambda: connection.connected, "it does not connect")
        assert await connection.call([("PING",)]) == [b"PONG"]


async def test_silent_server_fails_a_call_within_twice_the_timeout(valkey: OwnValkey):
    async with open_connection(valkey.url, TIMEOUT_S) as connection:
        started = time.monotonic()
        stalled = connection.call([("ECHO", "not enough"), ("BLPOP", "nothing", 0)])
        behind = connection.call([("ECHO", "behind")])

        for call in (stalled, behind):
            with pytest.raises(ConnectionError):
                await call

        assert TIMEOUT_S <= time.monotonic() - started < 2 * TIMEOUT_S + 0.2
        await until(lambda: connection.connected, "it does not connect again")
        assert await connection.call([("ECHO", "new")]) == [b"new"]


async def test_server_that_swallows_everything_is_never_connected():
    async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass

    async with server(swallow) as url:
        started = time.monotonic()
        async with open_connection(url, TIMEOUT_S) as connection:
            assert time.monotonic() - started < 2 * TIMEOUT_S
            assert not connection.connected
            with pytest.raises(ConnectionError):
                connection.call([("PING",)])


@pytest.mark.parametrize(
    "greeting",
    [b"", b"-ERR max number of clients reached\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
)
async def test_connects_to_the_real_one_after_a_server_that_hung_up(
    valkey: OwnValkey, greeting: bytes, monkeypatch: pytest.MonkeyPatch
):
    """As a balancer whose backend is still away: it accepts, perhaps says something, and closes."""
    monkeypatch.setattr(valkey_connection, "RETRY_LAST_S", 0.1)
    refusals = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refusals
        if refusals < 3:
            refusals += 1
            writer.write(greeting)
            await writer.drain()
            return
        there, back = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async with server(talk) as url:
        started = time.monotonic()
        async with open_connection(url.replace("//", "//:its%20own%20secret@"), 1.0) as connection:
            await until(lambda: connection.connected, "it does not connect again")
            assert refusals == 3
            assert time.monotonic() - started < 2, "a hung-up connection was waited for"
            assert await connection.call([("ECHO", "through")]) == [b"through"]


async def test_reply_that_nobody_asked_for_ends_the_connection():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(b"+OK\r\n+and this?\r\n")
        await reader.read(1_000)

    async with server(talk) as url, open_connection(url, TIMEOUT_S) as connection:
        await until(lambda: not connection.connected, "an answer to nothing was taken")


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_wrong_password_fails_calls_and_not_the_process(valkey: OwnValkey, password: str):
    url = f"redis://:{password}@127.0.0.1:{valkey.port}/0"

    async with open_connection(url, TIMEOUT_S) as connection:
        assert not connection.connected
        with pytest.raises(ConnectionError):
            connection.call([("PING",)])


@pytest.mark.parametrize("by_socket", [False, True])
async def test_database_of_the_url_is_selected(valkey: OwnValkey, by_socket: bool):
    url = valkey.url.removesuffix("/0") + "/3"
    if by_socket:
        url = valkey.local_url.removesuffix("=0") + "=3"
    async with open_connection(url, 1.0) as third, open_connection(valkey.url, 1.0) as first:
        await third.call([("SET", "here", "3")])

        assert await first.call([("GET", "here")]) == [None]
        assert await third.call([("GET", "here")]) == [b"3"]


async def test_calls_that_wait_are_bounded(connection: SharedConnection):
    calls = [connection.call([("ECHO", "x")]) for _ in range(PENDING_MAX)]

    with pytest.raises(ConnectionError):
        connection.call([("ECHO", "one too many")])

    assert all(answer == [b"x"] for answer in await asyncio.gather(*calls))
    assert await connection.call([("ECHO", "room again")]) == [b"room again"]


async def test_closing_fails_the_calls_that_wait(valkey: OwnValkey):
    async with open_connection(valkey.url, 5.0) as connection:
        waiting = connection.call([("BLPOP", "nothing", 0)])

    with pytest.raises(ConnectionError):
        await waiting


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
