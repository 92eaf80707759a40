"""One connection to Valkey shared by all calls of a process: the hot path of reads, and fan-out.

redis-py gives each call a pooled connection and costs about 60 us of CPU a command; a home read has
125 us in all. Here calls share writes: while replies are awaited, further calls gather, and a turn
of the event loop after the last reply they leave together; or some turns, where that is asked for.
So a busy server pays for few system calls, and interrupts itself less often by waking Valkey. At an
idle one, where calls leave alone, they soon wait for one turn only. A long command leaves at once,
and takes along what has gathered. Replies are parsed by hiredis. It does nothing else: no
transactions, and one node; `valkey_cluster.py` has one such connection for each node of a cluster.

URLs are those of redis-py: `rediss://` is TLS, with `?ssl_ca_certs=<file>` by an authority of one's
own; the server's name is always checked. `unix://:password@/path?db=0` is a socket of this machine.

Guarantees: replies come in the order of the commands; a call either gets all its replies or raises
ConnectionError, at the latest after twice `timeout_s`. Nothing is sent twice. While there is no
connection every call fails at once, and the connection is tried again with back-off.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from mesh.redis_connections import tls_context
from mesh.tasks import raise_if_cancelled

PENDING_MAX = 10_000  # calls waiting for replies; one more fails at once
READS_GATHER_TURNS = 32  # of the event loop (docs/decisions/0004); an empty one takes 1 us
GATHERING_S = 0.003  # a turn that serves thousands of streams takes longer than many others
LONG_BYTES = 4_096  # what is longer waits for no reply: Valkey is to find it when it is done
RETRY_FIRST_S = 0.05
RETRY_LAST_S = 1.0

Command = tuple[str | bytes | int, ...]

_pack = cast(Callable[[Command], bytes], hiredis.pack_command)  # its stub takes one-word commands

log = logging.getLogger(__name__)


def pack(commands: Iterable[Command]) -> bytes:
    """Returns commands as they are sent."""
    return b"".join(map(_pack, commands))


class HotConnection(Protocol):
    """What the hot path calls: one node's connection, or a cluster's."""

    @property
    def connected(self) -> bool:
        """Whether every call would be sent now."""
        ...

    def call(self, commands: Sequence[Command]) -> "Awaitable[list[Any]]":
        """See SharedConnection; already sent when it returns, whether or not it is awaited."""
        ...

    def call_packed(self, packed: bytes, count: int) -> "Awaitable[list[Any]]":
        """See SharedConnection."""
        ...


class _Call:
    __slots__ = ("deadline", "expected", "future", "replies")

    def __init__(self, expected: int, deadline: float, future: "asyncio.Future[list[Any]]") -> None:
        self.expected = expected
        self.deadline = deadline
        self.future = future
        self.replies: list[Any] = []


class SharedConnection(asyncio.Protocol):
    """See the module. Made by `open_connection`."""

    def __init__(self, url: str, timeout_s: float, gather_turns: int) -> None:
        self._url = urlsplit(url)
        self._timeout_s = timeout_s
        self._turns_max = gather_turns
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._ready = False
        self._reader = hiredis.Reader()
        self._calls: deque[_Call] = deque()
        self._outgoing: list[bytes] = []
        self._unanswered = 0  # calls that were sent; the others wait in _outgoing
        self._turns = 1  # in which calls gather
        self._lost = asyncio.Event()
        self.first_connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether a call would be sent now."""
        return self._ready

    def call(self, commands: Sequence[Command]) -> "asyncio.Future[list[Any]]":
        """Sends commands together; returns their replies, in order, an error reply as an exception
        object in its place. Raises ConnectionError where there is no connection or no answer."""
        return self.call_packed(pack(commands), len(commands))

    def call_packed(self, packed: bytes, count: int) -> "asyncio.Future[list[Any]]":
        """The same for `count` commands that were packed before."""
        if not self._ready:
            raise ConnectionError("Valkey is not connected")
        return self._send(packed, count)

    def _send(self, packed: bytes, count: int) -> "asyncio.Future[list[Any]]":
        if self._transport is None:
            # It hung up before our greeting; a call in the queue would shift the next replies.
            raise ConnectionError("the connection to Valkey was lost")
        if len(self._calls) >= PENDING_MAX:
            raise ConnectionError("too many calls wait for Valkey")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if not count:
            future.set_result([])
            return future
        if not self._outgoing and not self._unanswered:
            self._gather()
        self._outgoing.append(packed)
        self._calls.append(_Call(count, self._loop.time() + self._timeout_s, future))
        if len(packed) >= LONG_BYTES:
            self._flush()
        return future

    def _gather(self) -> None:
        """Sends what waits some turns of the event loop later, and no turn after GATHERING_S."""
        self._gather_for(self._turns, self._loop.time() + GATHERING_S)

    def _gather_for(self, turns: int, until: float) -> None:
        if turns and self._loop.time() <= until:
            self._loop.call_soon(self._gather_for, turns - 1, until)
        elif self._outgoing:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._outgoing)
        # A lone call has waited for nobody; soon the next ones wait no more.
        together = len(self._outgoing) > 1
        self._turns = self._turns_max if together else max(1, self._turns // 2)
        self._outgoing.clear()
        self._unanswered = len(self._calls)
        if self._transport is not None:
            self._transport.write(data)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the new connection into use."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._reader = hiredis.Reader()
        self._lost.clear()

    def data_received(self, data: bytes) -> None:
        """Hands replies to the calls that wait, first come, first served."""
        self._reader.feed(data)
        while True:
            reply = self._reader.gets()
            if reply is False:
                break
            call = self._calls[0]
            call.replies.append(reply)
            if len(call.replies) == call.expected:
                self._calls.popleft()
                self._unanswered -= 1
                if not call.future.done():
                    call.future.set_result(call.replies)
        if self._outgoing and not self._unanswered:
            self._gather()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails every call that waits."""
        self._ready = False
        self._transport = None
        self._outgoing.clear()
        self._unanswered = 0
        while self._calls:
            future = self._calls.popleft().future
            if not future.done():
                future.set_exception(ConnectionError("the connection to Valkey was lost"))
                future.exception()  # a caller that went away need not look
        self._lost.set()

    # The life of the connection

    async def keep(self) -> None:
        """Connects, watches for calls that wait too long, connects again; until cancelled, which
        closes the connection."""
        try:
            await self._keep()
        finally:
            self._abort()

    async def _keep(self) -> None:
        delay = RETRY_FIRST_S
        while True:
            try:
                await asyncio.wait_for(self._connect(), self._timeout_s * 4)
                delay = RETRY_FIRST_S
                await self._watch()
                log.warning("lost the connection to Valkey")
            except (OSError, ConnectionError, TimeoutError) as error:
                log.debug("Valkey does not answer: %s", error)
            self._abort()
            raise_if_cancelled()
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_LAST_S)

    async def _connect(self) -> None:
        if self._url.scheme == "unix":
            await self._loop.create_unix_connection(lambda: self, unquote(self._url.path))
            database = parse_qs(self._url.query).get("db", ["0"])[0]
        else:
            await self._loop.create_connection(
                lambda: self,
                self._url.hostname or "127.0.0.1",
                self._url.port or 6379,
                ssl=self._tls(),
            )
            database = self._url.path.strip("/") or "0"
        hello: list[Command] = []
        if self._url.password:
            user = unquote(self._url.username or "") or "default"
            hello.append(("AUTH", user, unquote(self._url.password)))
        hello.append(("SELECT", database))
        for reply in await self._send(pack(hello), len(hello)):
            if isinstance(reply, Exception):
                raise ConnectionError(f"Valkey refused us: {reply}")
        self._ready = True
        self.first_connected.set()

    def _tls(self) -> ssl.SSLContext | None:
        if self._url.scheme != "rediss":
            return None
        return tls_context(parse_qs(self._url.query).get("ssl_ca_certs", [None])[0])

    async def _watch(self) -> None:
        while not self._lost.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), self._timeout_s / 2)
            if self._calls and self._calls[0].deadline < self._loop.time():
                log.warning("Valkey did not answer in time")
                return

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self.connection_lost(None)


@asynccontextmanager
async def open_connection(
    url: str, timeout_s: float, *, gather_turns: int = 1
) -> AsyncGenerator[SharedConnection]:
    """Opens a shared connection; where Valkey is away it goes on trying, and calls fail at once.
    Calls gather for `gather_turns` turns of the event loop, at most, and no turn after GATHERING_S:
    more than one where many calls come by themselves, as a busy server's reads do."""
    connection = SharedConnection(url, timeout_s, gather_turns)
    keeper = asyncio.create_task(connection.keep())
    # The first call after start should find it connected, where there is anything to connect to.
    with suppress(TimeoutError):
        await asyncio.wait_for(connection.first_connected.wait(), timeout_s)
    try:
        yield connection
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
