"""How calls spread over the replicas of a server, and past those that are not ready."""

import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from chirp.v1 import user_pb2, user_pb2_grpc

from mesh import clients, rpc, server
from mesh.rpc import Call
from mesh.server import NOT_SERVING, SERVING, Serving
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity, TokenVerifier

SERVICE = "chirp.v1.UserDirectoryService"
SEEN_S = 20.0


class Named:
    """Answers UserDirectoryService with its own name."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def ResolveUsernames(
        self, request: user_pb2.ResolveUsernamesRequest, call: Call
    ) -> user_pb2.ResolveUsernamesResponse:
        """Answers."""
        return user_pb2.ResolveUsernamesResponse(users=[user_pb2.UserSummary(username=self._name)])

    BatchGetUsers = BatchGetUserSummaries = ResolveUsernames


@asynccontextmanager
async def replica(settings: Settings, name: str) -> AsyncGenerator[Serving]:
    descriptor = user_pb2.DESCRIPTOR.services_by_name["UserDirectoryService"]
    bound = rpc.bind(descriptor, Named(name), TokenVerifier(settings))
    async with server.serving(settings, [bound]) as serving:
        yield serving


async def test_calls_go_to_all_replicas_in_turn_and_to_none_that_is_not_serving(
    settings: Settings,
) -> None:
    async with replica(settings, "one") as one, replica(settings, "two") as two:
        target = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"
        identity = ServiceIdentity(settings, "tweet_server")
        async with clients.channel(settings, target, SERVICE, identity=identity) as channel:
            stub = user_pb2_grpc.UserDirectoryServiceStub(channel)

            async def who_answer() -> Counter[str]:
                calls = [
                    await stub.ResolveUsernames(user_pb2.ResolveUsernamesRequest())
                    for _ in range(10)
                ]
                return Counter(answer.users[0].username for answer in calls)

            async def come_to_be(wanted: dict[str, int]) -> None:
                started = time.monotonic()
                while (answered := await who_answer()) != wanted:
                    assert time.monotonic() - started < SEEN_S, answered

            await come_to_be({"one": 5, "two": 5})
            await one.health.set(SERVICE, NOT_SERVING)
            await come_to_be({"two": 10})
            await one.health.set(SERVICE, SERVING)
            await come_to_be({"one": 5, "two": 5})
