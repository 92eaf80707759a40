"""What redis-py and our own connections promise alike, on real Valkeys: with a password, plain and
behind TLS, one node, by its port and its socket, and a cluster of three."""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from ops import embedded
from tests.contract.valkey_clients import (
    KINDS,
    TLS_KINDS,
    Client,
    Kind,
    Place,
    tls_url,
    until_answering,
)
from tests.valkey_clusters import OwnCluster, key_on, make_certificates, own_cluster, tls_front
from tests.valkeys import PASSWORD, OwnValkey, own_valkey

TIMEOUT_S = 0.3
KEYS = [key_on(number) for number in range(3)]


class Servers:
    """What all tests of the module use; none of them stops it."""

    def __init__(self, node: OwnValkey, clusters: dict[bool, OwnCluster], folder: Path) -> None:
        self.node = node
        self.front = embedded.free_port()
        self.clusters = clusters
        self.authority, self.certificate = make_certificates(folder)


@pytest.fixture(scope="module")
def servers() -> Generator[Servers]:
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:
        stack = runner.run(_entered(AsyncExitStack()))
        node = runner.run(stack.enter_async_context(own_valkey()))
        clusters = {
            tls: runner.run(stack.enter_async_context(own_cluster(announced=tls)))
            for tls in (False, True)
        }
        yield Servers(node, clusters, Path(folder))
        runner.run(stack.aclose())


async def _entered(stack: AsyncExitStack) -> AsyncExitStack:
    return await stack.__aenter__()


@pytest_asyncio.fixture(params=KINDS, ids=lambda kind: kind.name)
async def place(request: pytest.FixtureRequest, servers: Servers) -> AsyncGenerator[Place]:
    kind: Kind = request.param
    cluster = servers.clusters[kind.tls]
    nodes = cluster.nodes if kind.cluster else [servers.node]
    for node in nodes:
        await node.command("FLUSHALL")
    url = cluster.url if kind.cluster else servers.node.url
    if kind.socket:
        url = servers.node.local_url
        assert url.startswith("unix:")
    if not kind.tls:
        yield Place(kind, url, servers.authority)
        return
    fronts = cluster.fronts if kind.cluster else {servers.front: servers.node.port}
    async with tls_front(fronts, servers.certificate):
        yield Place(kind, tls_url(url, next(iter(fronts)), servers.authority), servers.authority)


async def test_replies_come_in_the_order_of_the_commands(place: Place):
    async with place.open() as client:
        answers = await client.call(
            [command for key in KEYS for command in (("INCRBY", key, 4), ("GET", key))]
            + [("INCRBY", key.encode(), 1) for key in reversed(KEYS)]
        )

        assert answers == [4, b"4", 4, b"4", 4, b"4", 5, 5, 5]


async def test_calls_of_one_turn_each_get_their_own_replies(place: Place):
    async with place.open() as client:
        # No more at once than redis-py's pools take of one node of a cluster.
        calls = [
            client.call([("APPEND", f"{key}{number}", "x" * number), ("GET", f"{key}{number}")])
            for number, key in enumerate(KEYS * 10)
        ]

        answers = await asyncio.gather(*calls)

        assert answers == [[number, b"x" * number or None or b""] for number in range(30)]


async def test_error_reply_stands_in_its_place_and_hurts_nobody_else(place: Place):
    async with place.open() as client:
        await client.call([("INCRBY", key, 1) for key in KEYS])

        first = client.call(
            [("GET", KEYS[0]), ("LPUSH", KEYS[1], "x"), ("GET", KEYS[1]), ("GET", KEYS[2])]
        )
        second = client.call([("INCRBY", KEYS[2], 1)])

        before, error, after, other = await first
        assert (before, after) == (b"1", b"1")
        assert other in (b"1", b"2")  # redis-py sends the two calls by two connections
        assert isinstance(error, Exception)
        assert "WRONGTYPE" in str(error)
        assert await second == [2]


async def test_replies_larger_than_a_packet_arrive_whole(place: Place):
    large = b"\x00\r\n" * 1_000_000
    async with place.open(10.0) as client:
        await client.call([("APPEND", key, large) for key in KEYS])

        assert await client.call([("GET", key) for key in KEYS]) == [large] * 3


async def test_call_without_commands_is_answered(place: Place):
    async with place.open() as client:
        assert await asyncio.wait_for(client.call([]), 5) == []


async def test_caller_that_went_away_does_not_shift_the_replies(place: Place):
    async with place.open() as client:
        await client.call([("INCRBY", key, number) for number, key in enumerate(KEYS)])
        gone = client.call([("GET", key) for key in KEYS])
        stays = client.call([("GET", key) for key in reversed(KEYS)])

        gone.cancel()

        assert await stays == [b"2", b"1", b"0"]


async def test_silent_server_fails_calls_in_time_and_answers_again(place: Place, servers: Servers):
    silent = servers.clusters[place.kind.tls].nodes[1] if place.kind.cluster else servers.node
    async with place.open(TIMEOUT_S) as client:
        await until_answering(client, *(("INCRBY", key, 7) for key in KEYS))
        silent.freeze()
        try:
            started = time.monotonic()
            with pytest.raises(ConnectionError):
                await client.call([("GET", KEYS[1])])
            # Connecting, its greeting, and the reply may each take the timeout.
            assert time.monotonic() - started < 3 * TIMEOUT_S + 0.3
        finally:
            silent.thaw()

        assert await until_answering(client, ("GET", KEYS[1])) == [b"7"]


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_wrong_password_fails_calls_and_not_the_process(place: Place, password: str):
    wrong = place.url.replace(f":{PASSWORD}@", f":{password}@")
    assert wrong != place.url

    async with place.open(TIMEOUT_S, wrong) as client:
        with pytest.raises(ConnectionError):
            await _refused(client)


async def _refused(client: Client) -> None:
    """redis-py without a password connects, and answers NOAUTH to each command."""
    for reply in await client.call([("GET", KEYS[0])]):
        if "NOAUTH" in str(reply) or "Authentication required" in str(reply):
            raise ConnectionError


@pytest.mark.parametrize("place", TLS_KINDS, ids=lambda kind: kind.name, indirect=True)
async def test_server_of_an_unknown_authority_is_not_talked_to(place: Place):
    async with place.open(TIMEOUT_S, place.url.partition("?")[0]) as client:
        with pytest.raises(ConnectionError):
            await client.call([("GET", KEYS[0])])


@pytest.mark.parametrize("place", TLS_KINDS, ids=lambda kind: kind.name, indirect=True)
async def test_server_of_another_name_is_not_talked_to(
    place: Place, servers: Servers, tmp_path: Path
):
    authority, certificate = make_certificates(tmp_path, "127.0.0.9")
    node = servers.clusters[True].nodes[0] if place.kind.cluster else servers.node
    front = embedded.free_port()
    url = tls_url(place.url.partition("?")[0], front, authority)

    async with tls_front({front: node.port}, certificate), place.open(TIMEOUT_S, url) as client:
        with pytest.raises(ConnectionError):
            await client.call([("GET", KEYS[0])])
