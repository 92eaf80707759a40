"""A caller's deadline, where its call makes another server work; and the end of a call that uses up
what its method may take."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from chirp.v1 import user_pb2, user_pb2_grpc

from mesh import clients, deadlines, rpc, server
from mesh.rpc import Call
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity, TokenVerifier

SERVICE = "chirp.v1.UserDirectoryService"
MARGIN_S = deadlines.MARGIN_S - 0.01  # gRPC sends hundredths of a second, below 10 s, rounded up
OWN_S = deadlines.RULES[f"/{SERVICE}/ResolveUsernames"].deadline_s or 0.0

Stub = user_pb2_grpc.UserDirectoryServiceStub
Request = user_pb2.ResolveUsernamesRequest
Response = user_pb2.ResolveUsernamesResponse


class Servicer:
    """Answers UserDirectoryService by a function."""

    def __init__(self, answer: Callable[[], Awaitable[Response]]) -> None:
        self._answer = answer

    async def ResolveUsernames(self, request: Request, call: Call) -> Response:
        """Answers."""
        return await self._answer()

    BatchGetUsers = BatchGetUserSummaries = ResolveUsernames


async def told_remaining() -> Response:
    """Answers with what the caller still waits, in milliseconds, as an id."""
    caller = deadlines.CALLER.get()
    remaining_s = None if caller is None else caller.remaining_s()
    assert remaining_s is not None
    return Response(users=[user_pb2.UserSummary(id=round(remaining_s * 1000))])


@asynccontextmanager
async def answering(
    settings: Settings, answer: Callable[[], Awaitable[Response]]
) -> AsyncGenerator[str]:
    descriptor = user_pb2.DESCRIPTOR.services_by_name["UserDirectoryService"]
    bound = rpc.bind(descriptor, Servicer(answer), TokenVerifier(settings))
    async with server.serving(settings, [bound]) as serving:
        yield f"dns:///127.0.0.1:{serving.port}"


async def test_a_deadline_travels_on_less_a_margin_and_no_longer_than_the_table_says(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"deadline_factor": 4})
    identity = ServiceIdentity(settings, "tweet_server")
    async with (
        answering(settings, told_remaining) as behind,
        clients.channel(settings, behind, SERVICE, identity=identity) as onward,
        answering(settings, lambda: Stub(onward).ResolveUsernames(Request())) as front,
        grpc.aio.insecure_channel(front) as outside,
    ):

        async def left_s(timeout_s: float | None) -> float:
            answer = await Stub(outside).ResolveUsernames(
                Request(), timeout=timeout_s, metadata=identity.metadata
            )
            return answer.users[0].id / 1000

        own_s = OWN_S * settings.deadline_factor
        assert 0 < await left_s(3.0) <= 3.0 - MARGIN_S
        assert own_s / 2 < await left_s(own_s * 5) <= own_s - MARGIN_S
        # A caller who names none waits as long as the table says.
        assert own_s / 2 < await left_s(None) <= own_s - MARGIN_S


async def test_a_call_that_takes_longer_than_the_table_says_is_answered_and_its_work_stopped(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"deadline_factor": 0.1})
    ended = asyncio.Event()

    async def never() -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with (
        answering(settings, never) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await Stub(channel).ResolveUsernames(
                Request(), metadata=ServiceIdentity(settings, "tweet_server").metadata
            )

    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert failed.value.details() == rpc.LATE
    assert ended.is_set()
