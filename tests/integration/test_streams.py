"""Server streams through gRPC: what mesh/streams.py promises, held with a servicer of our own."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from chirp.v1 import trend_pb2, trend_pb2_grpc

from domain import errors
from domain.ids import UserId
from mesh import keys, rpc, server, streams, tokens
from mesh.settings import Settings
from mesh.streams import Buffer, Streams
from tests.integration.accounts import bearer

DEADLINE_S = 10.0
Request = trend_pb2.StreamTrendsRequest
Answer = trend_pb2.StreamTrendsResponse


@dataclass
class Servicer:
    """Streams what tests offer to `buffer`. `closed` counts the generators that were closed."""

    buffer: Buffer[str] = field(default_factory=lambda: Buffer[str](2))
    closed: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends the calls for the place `waits`."""
    waiting: int = 0

    async def StreamTrends(self, request: Request, call: rpc.Call) -> streams.Answers:
        if request.location == "fails":
            raise errors.InvalidArgument.of("location", "no such place")
        buffer = self.buffer
        try:
            yield streams.HEARTBEAT
            while True:
                name = await buffer.take()
                if name == "broken":
                    raise RuntimeError("secret")
                call.stream.resume_token = name
                yield answer(name).SerializeToString()
        finally:
            self.closed += 1

    async def ListTrends(
        self, request: trend_pb2.ListTrendsRequest, call: rpc.Call
    ) -> trend_pb2.ListTrendsResponse:
        if request.location == "waits":
            self.waiting += 1
            await self.release.wait()
        return trend_pb2.ListTrendsResponse()

    async def ExplainTrend(
        self, request: trend_pb2.ExplainTrendRequest, call: rpc.Call
    ) -> trend_pb2.ExplainTrendResponse:
        return trend_pb2.ExplainTrendResponse()


@dataclass
class Bench:
    """A server with one such servicer."""

    servicer: Servicer
    streams: Streams
    stub: "trend_pb2_grpc.TrendServiceAsyncStub"
    signer: tokens.TokenSigner
    stop: Callable[[], "asyncio.Task[None]"]

    def metadata(self, user: int, session: int = 1) -> rpc.Any:
        return bearer(self.signer.sign_user(UserId(user), session, lifetime_s=600, now=time.time()))

    async def begin(self, user: int = 0) -> "grpc.aio.UnaryStreamCall[Request, Answer]":
        """Opens a stream and reads its first message."""
        call = self.stub.StreamTrends(Request(), metadata=self.metadata(user) if user else None)
        assert await read(call) == answer("", "heartbeat")
        return call


def answer(text: str, kind: str = "item", token: str = "") -> Answer:
    made = Answer()
    if kind == "item":
        made.item.location = text
    elif kind == "heartbeat":
        made.heartbeat.SetInParent()
    else:
        made.end.reason = text
        made.end.resume_token = token
    return made


async def read(call: "grpc.aio.UnaryStreamCall[Request, Answer]") -> Answer | None:
    async with asyncio.timeout(DEADLINE_S):
        message = await call.read()
    return message if isinstance(message, Answer) else None


async def outcome(call: "grpc.aio.UnaryStreamCall[Request, Answer]") -> grpc.StatusCode:
    """Reads to the end."""
    try:
        while await read(call) is not None:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def opened(
    folder: Path, clock: Callable[[], float] = time.time, **values: float
) -> AsyncGenerator[Bench]:
    settings = Settings.model_validate(
        {"keys": folder, "listen": "127.0.0.1:0", "drain_grace_s": 1, "heartbeat_s": 15, **values}
    )
    keys.ensure_keys(settings)
    servicer, open_streams = Servicer(), Streams(settings, clock)
    service = rpc.bind(
        trend_pb2.DESCRIPTOR.services_by_name["TrendService"],
        servicer,
        tokens.TokenVerifier(settings),
        open_streams,
    )
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(AsyncExitStack())
        serving = await running.enter_async_context(server.serving(settings, [service]))
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{serving.port}")
        )
        yield Bench(
            servicer,
            open_streams,
            trend_pb2_grpc.TrendServiceStub(channel),
            tokens.TokenSigner(settings),
            lambda: asyncio.create_task(running.aclose()),
        )


async def test_items_come_in_order_and_silence_is_filled_with_heartbeats(tmp_path: Path) -> None:
    async with opened(tmp_path, heartbeat_s=1) as bench:
        call = await bench.begin()
        bench.servicer.buffer.offer("one")
        bench.servicer.buffer.offer("two")

        assert [await read(call), await read(call)] == [answer("one"), answer("two")]
        assert await read(call) == answer("", "heartbeat")
        assert await read(call) == answer("", "heartbeat")


async def test_what_is_raised_before_the_first_answer_refuses_the_call(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await read(bench.stub.StreamTrends(Request(location="fails")))

        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bench.streams.count == 0


async def test_a_later_error_ends_the_stream_with_its_reason(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        call = await bench.begin()
        bench.servicer.buffer.offer("one")
        bench.servicer.buffer.offer("broken")

        rest = [await read(call), await read(call), await read(call)]

        assert rest == [answer("one"), answer("INTERNAL", "end", "one"), None]
        assert await call.code() == grpc.StatusCode.OK


async def test_a_draining_server_ends_its_streams_and_closes_their_generators(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as bench:
        calls = [await bench.begin() for _ in range(3)]
        started = time.monotonic()
        stopped = bench.stop()

        ends = [[await read(call), await read(call)] for call in calls]
        await stopped

        assert ends == [[answer("DRAINING", "end"), None]] * 3
        assert (bench.servicer.closed, bench.streams.count) == (3, 0)
        assert time.monotonic() - started < 1


async def test_a_client_that_goes_closes_the_generator(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        call = await bench.begin()

        call.cancel()

        await until(lambda: bench.servicer.closed == 1 and bench.streams.count == 0)


async def test_a_slow_consumer_gets_what_was_buffered_and_a_resume_token(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        call = await bench.begin()

        # Offered in one turn of the loop: nothing is taken in between.
        taken = [bench.servicer.buffer.offer(name) for name in ("one", "two", "three", "four")]
        rest = [await read(call) for _ in range(4)]

        assert taken == [True, True, False, False]
        assert rest == [
            answer("one"), answer("two"), answer("SLOW_CONSUMER", "end", "two"), None,
        ]  # fmt: skip


async def test_a_process_and_an_account_have_only_so_many_streams(tmp_path: Path) -> None:
    async with opened(tmp_path, streams_max=3, user_streams_max=2) as bench:
        first, _ = [await bench.begin(user=7) for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError) as of_account:
            await bench.begin(user=7)
        await bench.begin(user=8)
        with pytest.raises(grpc.aio.AioRpcError) as of_process:
            await bench.begin(user=9)
        unary = await bench.stub.ListTrends(trend_pb2.ListTrendsRequest())
        first.cancel()
        await until(lambda: bench.streams.count == 2)
        await bench.begin(user=7)

        assert of_account.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert of_process.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("retry-after", "1") in tuple(of_account.value.trailing_metadata())
        assert unary == trend_pb2.ListTrendsResponse()


async def test_a_stream_ends_when_its_token_expires(tmp_path: Path) -> None:
    now = time.time()
    async with opened(tmp_path, clock=lambda: now) as bench:
        signed_in, anonymous = await bench.begin(user=7), await bench.begin()

        now += 601

        assert await read(signed_in) == answer("TOKEN_EXPIRED", "end")
        await until(lambda: bench.streams.count == 1)
        anonymous.cancel()


async def test_the_streams_of_some_callers_can_be_ended(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        ended, kept = await bench.begin(user=7), await bench.begin(user=8)

        bench.streams.end_where(lambda claims: claims.user_id == 7, "SESSION_ENDED")

        assert await read(ended) == answer("SESSION_ENDED", "end")
        await until(lambda: bench.streams.count == 1)
        kept.cancel()


async def test_a_reader_that_does_not_read_stops_its_generator_only(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        stuck = await bench.begin()
        large = "x" * 1_000_000
        offered = 0
        async with asyncio.timeout(DEADLINE_S):
            while bench.servicer.buffer.offer(large):
                offered += 1
                # Until gRPC holds as much of the answers as it holds, and takes no more.
                await asyncio.sleep(0.01)
        bench.servicer.buffer = Buffer(2)

        other = await bench.begin()
        bench.servicer.buffer.offer("one")

        assert await read(other) == answer("one")
        rest = [await read(stuck) for _ in range(offered + 2)]
        assert rest[offered:] == [answer("SLOW_CONSUMER", "end", large), None]


async def test_a_reader_that_never_reads_is_cut_off_and_others_are_not(tmp_path: Path) -> None:
    async with opened(tmp_path, stream_write_s=1) as bench:
        stuck = await bench.begin()
        async with asyncio.timeout(DEADLINE_S):
            while bench.servicer.buffer.offer("x" * 1_000_000):
                await asyncio.sleep(0.01)
        bench.servicer.buffer = Buffer(2)
        reading = await bench.begin()

        await until(lambda: bench.streams.count == 1)

        assert bench.servicer.closed == 1
        bench.servicer.buffer.offer("one")
        assert await read(reading) == answer("one")
        # What was sent is still there for it; then it learns that it was cut off.
        assert await outcome(stuck) == grpc.StatusCode.DEADLINE_EXCEEDED
