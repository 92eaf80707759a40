"""Whom the gateway believes to be a server of Chirp, where CHIRP_TLS is 1."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from gateway_stack import Stack, bound, open_stack

from mesh import server, tls
from mesh.settings import Settings
from ops import certificates, probes

pytestmark = pytest.mark.asyncio(loop_scope="module")

WITHIN_S = 10.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stack]:
    async with open_stack(tmp_path_factory.mktemp("gateway"), tls=True) as opened:
        yield opened


@pytest.mark.parametrize(
    ("what", "counted"),
    [
        ("another name", "fail_verify_san"),
        ("another authority", "fail_verify_error"),
        ("expired", "fail_verify_error"),
        ("a client's", "fail_verify_error"),
    ],
)
async def test_a_server_that_is_not_the_one_meant_gets_no_call(
    stack: Stack, tmp_path: Path, what: str, counted: str
) -> None:
    settings = stack.settings.model_copy(
        update={"certs": tmp_path, "listen": f"127.0.0.1:{stack.spare_port}"}
    )
    _write(settings, stack.settings, what)
    counter = f"cluster.tweet_server.ssl.{counted}"
    before = await _counted(stack, counter)
    stack.seen.clear()

    async with server.serving(settings, bound("tweet_server", settings, []), "tweet_server"):
        deadline = time.monotonic() + WITHIN_S
        while await _counted(stack, counter) == before:
            assert time.monotonic() < deadline, "the gateway did not ask it"
            await asyncio.sleep(0.05)
        answers = [await stack.rest.get("/api/tweets/5") for _ in range(10)]
        healthy = await probes.healthy_ports("127.0.0.1", stack.described.admin_port)

    assert {answer.status_code for answer in answers} == {200}
    assert len(stack.seen) == len(answers)  # by the other replica, all of them
    assert stack.spare_port not in healthy


async def test_the_gateways_own_clusters_are_all_behind_tls(stack: Stack) -> None:
    async with httpx.AsyncClient() as client:
        admin = f"http://127.0.0.1:{stack.described.admin_port}"
        told = (await client.get(f"{admin}/stats?filter=ssl.handshake")).text

    handshakes = dict(line.split(": ") for line in told.splitlines())
    clusters = {name.split(".")[1] for name, count in handshakes.items() if count != "0"}
    assert clusters >= {*stack.servings, "trend_streams", "timeline_streams"}


def _write(settings: Settings, good: Settings, what: str) -> None:
    authority, name = certificates.read_authority(good.certs), "tweet_server"
    identity = {
        "another name": lambda: tls.identity_file(good, "graph_server").read_bytes(),
        "another authority": lambda: certificates.issue(certificates.make_authority(), name),
        "expired": lambda: certificates.issue(authority, name, -timedelta(days=1)),
        "a client's": lambda: certificates.issue(authority, "gateway", dns=tls.dns_name(name)),
    }[what]()
    path = tls.identity_file(settings, name)
    path.parent.mkdir()
    path.write_bytes(identity)
    tls.authority_file(settings, name).write_bytes(tls.authority_file(good, name).read_bytes())


async def _counted(stack: Stack, counter: str) -> int:
    async with httpx.AsyncClient() as client:
        admin = f"http://127.0.0.1:{stack.described.admin_port}"
        told = (await client.get(f"{admin}/stats?filter=^{counter}$")).text
    return int(told.split(": ")[1]) if told else 0
