"""Mutual TLS in a running `chirp up`: the ways of test_main_path.py and test_live.py once more, and
certificates that change under them."""

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from chirp.v1 import timeline_pb2, timeline_pb2_grpc
from chirp_up import ChirpUp, ready, run_chirp

from mesh import tls
from ops.processes import KINDS
from tests.e2e.people import sign_up, until
from tests.e2e.streaming import EVENTS, items, streaming

FOLLOWED_S = 15.0
POLL_S = 0.1


@pytest.fixture(scope="module")
def up() -> Iterator[ChirpUp]:
    # Two followers make an author pulled, so that both ways are used.
    few = {
        "CHIRP_TLS": "1",
        "CHIRP_RATE_LIMITS": "0",
        "CHIRP_INFLUENCER_FOLLOWERS": "2",
        "CHIRP_TREND_AUTHORS_MIN": "1",
        "CHIRP_HEARTBEAT_S": "1",
    }
    with ready("--replicas", "2", **few) as running:
        yield running


@pytest.fixture(scope="module")
def client(up: ChirpUp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=up.url, timeout=FOLLOWED_S) as opened:
        yield opened


def test_tweets_reach_home_timelines_trends_streams_and_notifications(
    up: ChirpUp, client: httpx.Client
) -> None:
    author, *followers = (sign_up(client, f"tls_{number}") for number in range(3))
    followers[0].follow(author)
    assert followers[0].home() == []

    with streaming(followers[0], "/api/timeline/home:stream", headers=EVENTS) as stream:
        pushed = author.post("pushed to @tls_1 #chirp")["id"]
        assert [item for item, _ in items(stream, 1)] == [pushed]
    followers[1].follow(author)
    pulled = author.post("pulled #chirp")["id"]

    for follower in followers:
        until(follower.home, [pulled, pushed])
    until(lambda: [t["tag"] for t in client.get("/api/trends").json()["trends"]], ["chirp"])
    until(lambda: len(followers[0].ask("GET", "/api/notifications")["notifications"]), 1)
    with grpc.insecure_channel(up.url.removeprefix("http://")) as channel:
        page = timeline_pb2_grpc.TimelineServiceStub(channel).GetHomeTimeline(
            timeline_pb2.GetHomeTimelineRequest(),
            metadata=(("authorization", f"Bearer {followers[0].token}"),),
        )
    assert [str(tweet.id) for tweet in page.tweets] == [pulled, pushed]
    # The worker alone knows this: one of Chirp's services asks another.
    assert client.get("/api/trends/world/chirp:explain").status_code == 200


def test_the_command_line_reaches_services(up: ChirpUp, client: httpx.Client) -> None:
    viewer = sign_up(client, "tls_viewer")
    tweet = viewer.post("explain me")["id"]

    verified = run_chirp("verify", CHIRP_DATA=str(up.data))
    explained = run_chirp("explain", "tls_viewer", tweet, CHIRP_DATA=str(up.data))

    assert verified.returncode == 0, verified.stderr
    assert explained.returncode == 0, explained.stderr


def test_health_is_asked_of_whom_one_names(up: ChirpUp) -> None:
    address = f"127.0.0.1:{up.stack().ports['tweet_server'][0]}"

    right, wrong, nobody = (
        run_chirp("health", address, *named, CHIRP_DATA=str(up.data)).returncode
        for named in (("--name", "tweet_server"), ("--name", "graph_server"), ())
    )

    assert (right, wrong, nobody) == (0, 1, 2)


def test_no_port_of_a_server_or_worker_answers_without_a_certificate(up: ChirpUp) -> None:
    for kind in KINDS:
        for port in up.stack().ports[kind.name]:
            with (
                grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
                pytest.raises(grpc.RpcError) as refused,
            ):
                channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=2)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_new_certificates_are_taken_up_by_all_while_calls_go_on(
    up: ChirpUp, client: httpx.Client
) -> None:
    reader = sign_up(client, "tls_reader")
    before = {kind.name: shown(up, kind.name) for kind in KINDS}
    of_gateway = gateways_serials(up)
    stopping, answers = threading.Event(), list[int]()

    def read_and_write() -> None:
        while not stopping.is_set():
            answers.append(reader.call("GET", "/api/timeline/home").status_code)
            # A mention asks graph_server who that is, a reply who blocks whom.
            answers.append(
                reader.call("POST", "/api/tweets", {"content": "to @tls_reader"}).status_code
            )

    calls = threading.Thread(target=read_and_write)
    calls.start()
    try:
        done = run_chirp("certs", "rotate", CHIRP_DATA=str(up.data))
        assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + FOLLOWED_S
        while any(shown(up, name) & serials for name, serials in before.items()):
            assert time.monotonic() < deadline, "a server shows its old certificate"
            time.sleep(POLL_S)
        while gateways_serials(up) & of_gateway:
            assert time.monotonic() < deadline, "the gateway shows its old certificate"
            time.sleep(POLL_S)
        # Nobody needs an old connection: servers that come anew are reached.
        come_anew(up, "tweet_server", "graph_server", "timeline_server")
        enough = len(answers) + 40
        while len(answers) < enough:
            assert time.monotonic() < deadline + FOLLOWED_S, "nobody is answered any more"
            time.sleep(POLL_S)
    finally:
        stopping.set()
        calls.join()

    assert set(answers) == {200}
    assert up.health() == 200


def come_anew(up: ChirpUp, *names: str) -> None:
    """Stops the first replica of each, and waits until the gateway reaches those that follow."""
    said = up.output.count("runs again")
    for name in names:
        os.kill(up.process_at(up.stack().ports[name][0]), signal.SIGTERM)
    deadline = time.monotonic() + 2 * FOLLOWED_S
    while up.output.count("runs again") < said + len(names) or up.unreached():
        assert time.monotonic() < deadline, up.output[-1_000:]
        time.sleep(POLL_S)


def shown(up: ChirpUp, name: str) -> set[str]:
    """The serial numbers of the certificates that a process's replicas show."""
    folder = up.data / "certs" / "chirp"
    context = ssl.create_default_context(cafile=str(folder / tls.AUTHORITY_FILE))
    context.load_cert_chain(folder / tls.IDENTITY_FILE)
    context.set_alpn_protocols(["h2"])
    found = set[str]()
    for port in up.stack().ports[name]:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname=tls.dns_name(name)) as encrypted,
        ):
            certificate = encrypted.getpeercert()
            assert certificate is not None
            found.add(str(certificate["serialNumber"]))
    return found


def gateways_serials(up: ChirpUp) -> set[str]:
    """The serial numbers of the certificates that the gateway shows its upstreams."""
    told = httpx.get(f"{up.stack().gateway_admin}/certs").json()["certificates"]
    return {chain["serial_number"] for each in told for chain in each.get("cert_chain", [])}


def test_private_keys_are_their_owners_alone(up: ChirpUp) -> None:
    folder = up.data / "certs"

    keys = [*folder.glob("*/identity.pem"), folder / "authority-key.pem"]

    assert len(keys) == len(tls.NAMES) + 1
    assert {_mode(path) for path in keys} == {0o600}
    assert {_mode(path) for path in (folder, *(key.parent for key in keys))} == {0o700}


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
