"""The id of a request goes along with what is done for it, into logs and to other servers."""

import asyncio
import json
import os
import re
import sys

from chirp.v1 import user_pb2, user_pb2_grpc

from mesh import clients, requests, rpc, server
from mesh.rpc import Call
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity, TokenVerifier

START_S = 20.0
SERVICE = "chirp.v1.UserDirectoryService"


class Recorder:
    """Answers UserDirectoryService with the id of the request as a name."""

    async def ResolveUsernames(
        self, request: user_pb2.ResolveUsernamesRequest, call: Call
    ) -> user_pb2.ResolveUsernamesResponse:
        """In a task of its own, as handlers begin them."""
        told = await asyncio.create_task(self._told())
        assert told == requests.current_id(), "tasks of one request have one id"
        return user_pb2.ResolveUsernamesResponse(users=[user_pb2.UserSummary(username=told)])

    async def _told(self) -> str:
        return requests.current_id()

    BatchGetUsers = BatchGetUserSummaries = ResolveUsernames


async def test_the_id_of_a_request_goes_to_other_servers(settings: Settings) -> None:
    descriptor = user_pb2.DESCRIPTOR.services_by_name["UserDirectoryService"]
    bound = rpc.bind(descriptor, Recorder(), TokenVerifier(settings))
    async with server.serving(settings, [bound]) as serving:
        target = f"dns:///127.0.0.1:{serving.port}"
        identity = ServiceIdentity(settings, "tweet_server")
        async with clients.channel(settings, target, SERVICE, identity=identity) as channel:
            stub = user_pb2_grpc.UserDirectoryServiceStub(channel)

            async def asked(given: str | None) -> str:
                requests.CURRENT.set(None)
                if given is not None:
                    requests.begin(((requests.HEADER, given),))
                answer = await stub.ResolveUsernames(user_pb2.ResolveUsernamesRequest())
                return answer.users[0].username

            assert await asked("abc-123") == "abc-123"
            generated = await asked(None), await asked(None), await asked('"hostile"' * 9)
            assert len(set(generated)) == 3
            for each in generated:
                assert re.fullmatch(r"[0-9a-f-]{36}", each)


async def test_a_process_logs_one_json_object_a_line_where_nobody_looks(
    settings: Settings,
) -> None:
    environment = {
        **os.environ,
        "CHIRP_LISTEN": "127.0.0.1:0",
        "CHIRP_DATABASE_URL": settings.database_url,
        "CHIRP_EVENTLOG_URL": "redis://127.0.0.1:1/0",  # nobody is there
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers.outbox_relay",
        env=environment, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[bytes] = []
    async with asyncio.timeout(START_S):
        while not lines or b"waits" not in lines[-1]:
            lines.append(await process.stderr.readline())
        process.terminate()
        lines += (await process.communicate())[1].splitlines()

    said = [json.loads(line) for line in lines]
    assert all({"time", "level", "process", "logger", "message"} <= each.keys() for each in said)
    assert {each["process"] for each in said} == {"outbox_relay"}
    assert any(each["level"] == "WARNING" for each in said)
    assert "serves on port" in " ".join(each["message"] for each in said)
    assert process.returncode == 0
