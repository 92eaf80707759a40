"""Live, through the gateway of a real `chirp up --replicas 2`: notifications, and streams as lines
of JSON, as server-sent events, by gRPC, and in a browser; and servers that die under them."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import grpc
import httpx
import pytest
from chirp.v1 import timeline_pb2, timeline_pb2_grpc
from chirp_up import (
    ROOT,
    ChirpUp,
    chirp_up,
    command_line,
    data_folder,
    descendants,
    plain_environment,
)

from mesh.settings import Settings
from ops import embedded
from tests.e2e import browser, many_streams
from tests.e2e.live_person import EVENTS, WITHIN_S, Person, items, messages

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def up() -> Iterator[ChirpUp]:
    with (
        data_folder() as data,
        chirp_up(
            data,
            embedded.free_port(),
            *("--replicas", "2"),
            CHIRP_HEARTBEAT_S="1",
            CHIRP_TREND_AUTHORS_MIN="1",
        ) as running,
    ):
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def client(up: ChirpUp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=up.url, timeout=WITHIN_S) as opened:
        yield opened


People = Callable[[], Person]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def person(client: httpx.Client) -> People:
    """Signs somebody up."""

    def sign_up() -> Person:
        account = {"username": f"live_{next(_numbers)}", "password": PASSWORD}
        answer = client.post("/api/users", json=account)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return Person(client, body["user"]["id"], account["username"], body["accessToken"])

    return sign_up


def test_notifications_are_listed_counted_marked_and_streamed(person: People) -> None:
    ada, grace = person(), person()
    tweet = ada.post("hello")
    with ada.streaming("/api/notifications:stream") as stream:
        assert "heartbeat" in next(stream)
        grace.call("POST", f"/api/tweets/{tweet}/like")
        ((notification, token),) = items(stream, 1)
    grace.follow(ada)

    deadline = time.monotonic() + WITHIN_S
    while len((page := ada.call("GET", "/api/notifications"))["notifications"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with ada.streaming("/api/notifications:stream", token, EVENTS) as stream:
        ((followed, _),) = items(stream, 1)
    marked = ada.call("POST", "/api/notifications:markRead", {"upToId": notification})

    newest, oldest = page["notifications"]
    assert (newest["id"], oldest["id"]) == (followed, notification)
    assert (oldest["kind"], newest["kind"]) == ("LIKE", "FOLLOW")
    assert (oldest["tweetId"], oldest["actorCount"], oldest["read"]) == (tweet, "1", False)
    assert [actor["id"] for actor in oldest["actors"]] == [grace.id]
    assert oldest["createdAt"].endswith("Z")
    assert (page["unreadCount"], page["hasMore"], page["nextCursor"]) == ("2", False, "")
    assert marked == {"unreadCount": "1"}


def test_curl_reads_a_home_stream_as_lines_and_resumes_it_as_events(
    up: ChirpUp, person: People
) -> None:
    reader, author = person(), person()
    reader.follow(author)
    curl = ["curl", "-sN", "-H", f"authorization: Bearer {reader.token}"]
    url = f"{up.url}/api/timeline/home:stream"
    with subprocess.Popen([*curl, url], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        stream = messages(iter(first.stdout.readline, ""))
        assert "heartbeat" in next(stream)
        posted = [author.post("one")]
        (got,) = items(stream, 1)
        first.terminate()
    posted += [author.post("two"), author.post("three")]
    resumed = [*curl, "-H", "accept: text/event-stream", f"{url}?resumeToken={got[1]}"]
    with subprocess.Popen(resumed, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        lines = iter(second.stdout.readline, "")
        rest = items(messages(line.strip() for line in lines), 2)
        second.terminate()

    assert [got[0], *(tweet for tweet, _ in rest)] == posted


def test_a_token_in_the_url_signs_in_and_stands_in_no_log(up: ChirpUp, person: People) -> None:
    reader = person()
    posted = ""
    with reader.client.stream(
        "GET", "/api/timeline/home:stream", params={"access_token": reader.token}, headers=EVENTS
    ) as answer:
        stream = messages(answer.iter_lines())
        next(stream)
        posted = reader.post("my own")
        assert items(stream, 1)[0][0] == posted
    elsewhere = reader.client.get("/api/timeline/home", params={"access_token": reader.token})

    assert elsewhere.status_code == 400
    secret = reader.token.rsplit(".", 1)[1]
    deadline = time.monotonic() + WITHIN_S
    while "home:stream" not in (text := (up.data / "logs" / "access.log").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for log in (up.data / "logs").iterdir():
        assert secret not in log.read_text(errors="replace"), log
    assert secret not in text


def test_a_home_stream_by_grpc_through_the_gateway(up: ChirpUp, person: People) -> None:
    reader = person()
    with grpc.insecure_channel(up.url.removeprefix("http://")) as channel:
        stub = timeline_pb2_grpc.TimelineServiceStub(channel)
        call = stub.StreamHomeTimeline(
            timeline_pb2.StreamHomeTimelineRequest(),
            metadata=(("authorization", f"Bearer {reader.token}"),),
        )
        assert next(call).HasField("heartbeat")
        posted = reader.post("mine")
        message = next(call)
        while not message.HasField("item"):
            message = next(call)
        call.cancel()

    assert str(message.item.id) == posted
    assert message.resume_token


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_streams_of_a_server_that_goes_resume_at_another_and_miss_nothing(
    up: ChirpUp, person: People, number: signal.Signals
) -> None:
    readers, author = [person() for _ in range(4)], person()
    for reader in readers:
        reader.follow(author)
    servers = [child for child in descendants(up.process.pid) if is_timeline_server(child)]
    assert len(servers) == 2
    restarts = up.output.count("runs again")
    got: list[list[str]] = []
    tokens: list[str] = []
    ended = 0
    with ExitStack() as stack:
        streams = [
            stack.enter_context(reader.streaming("/api/timeline/home:stream")) for reader in readers
        ]
        for stream in streams:
            next(stream)
        posted = [author.post(f"while open {n}") for n in range(3)]
        for stream in streams:
            found = items(stream, 3)
            got.append([tweet for tweet, _ in found])
            tokens.append(found[-1][1])
        os.kill(servers[0], number)
        posted += [author.post(f"while it goes {n}") for n in range(5)]
        for index, stream in enumerate(streams):
            try:
                # Those at the other server go on; four streams are spread over both.
                while len(got[index]) < 8:
                    message = next(stream)
                    if "item" in message:
                        got[index].append(message["item"]["id"])
                        tokens[index] = message["resumeToken"]
                    if "end" in message:
                        assert message["end"]["reason"] == "DRAINING"
                        tokens[index] = message["end"]["resumeToken"]
                        ended += 1
                        break
            except (httpx.TransportError, StopIteration):
                continue
    broken = sum(len(each) < 8 for each in got)
    for index, reader in enumerate(readers):
        if len(got[index]) < 8:
            got[index] += resumed(reader, tokens[index], 8 - len(got[index]))

    assert got == [posted] * 4
    if number is signal.SIGTERM:
        assert ended >= broken
    deadline = time.monotonic() + WITHIN_S
    while up.output.count("runs again") == restarts:
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_a_thousand_streams_of_a_draining_server_resume_elsewhere_and_miss_nothing(
    up: ChirpUp, person: People
) -> None:
    author = person()
    described = up.stack()
    settings = Settings(
        keys=Path(described.settings["CHIRP_KEYS"]),
        database_url=described.settings["CHIRP_DATABASE_URL"],
    )
    readers = await many_streams.make_readers(settings, int(author.id))
    draining, other = described.ports["timeline_server"]
    process_id = many_streams.process_at(up.process.pid, draining)
    begun = asyncio.Event()
    reading = asyncio.create_task(many_streams.read_all(readers, draining, begun))
    await begun.wait()

    async def post(count: int) -> list[int]:
        return [int(await asyncio.to_thread(author.post, f"to all {n}")) for n in range(count)]

    posted = await post(4)
    os.kill(process_id, signal.SIGTERM)
    ending = asyncio.create_task(many_streams.until_gone(process_id))
    posted += await post(8)
    await reading
    took_s = await ending
    at_the_end = [len(reader.got) for reader in readers]
    await many_streams.read_all(readers, other, asyncio.Event(), until=posted)

    assert {reader.reason for reader in readers} == {"DRAINING"}
    assert min(at_the_end) > 0
    assert {tuple(reader.got) for reader in readers} == {tuple(posted)}
    assert took_s < settings.drain_delay_s + settings.drain_grace_s
    print(f"drained in {took_s:.2f} s; {min(at_the_end)} to {max(at_the_end)} items before")


def test_chirp_watch_shows_what_comes_and_comes_back(up: ChirpUp, person: People) -> None:
    reader, author = person(), person()
    reader.follow(author)
    with watching(up, "home", reader.username, "4") as home:
        texts = ["one", "two"]
        for text in texts:
            author.post(text)
        shown = [home.readline() for _ in texts]
        for child in descendants(up.process.pid):
            if is_timeline_server(child):
                os.kill(child, signal.SIGTERM)
        # Behind a gateway without a healthy server posts still succeed: they need the others.
        for text in ("three", "four"):
            author.post(text)
            texts.append(text)
        shown += [home.readline() for _ in range(2)]
    with watching(up, "notifications", author.username, "1") as notifications:
        reader.call("POST", f"/api/tweets/{author.post('a tweet')}/like")
        told = notifications.readline()
    with watching(up, "trends", "world", "2") as trends:  # the list, then what enters it
        author.post("#watched")
        entered = trends.readline()

    assert [line.split("  ", 1)[1].strip() for line in shown] == [
        f"@{author.username}: {text}" for text in texts
    ]
    assert f"@{reader.username} liked your tweet" in told
    assert entered.split("  ", 1)[1] == "#watched enters at 1\n"


@contextmanager
def watching(up: ChirpUp, what: str, user: str, count: str) -> Generator[IO[str]]:
    """The output of `chirp watch`, when it has begun; it ends by itself."""
    with subprocess.Popen(
        [sys.executable, "-m", "ops.cli", "watch", what, user, "--count", count],
        cwd=ROOT,
        env={**plain_environment(), "CHIRP_DATA": str(up.data)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "watching" in process.stderr.readline()
        yield process.stdout
        assert process.wait(timeout=WITHIN_S) == 0


def resumed(reader: Person, token: str, count: int) -> list[str]:
    """Comes back as clients do: again and again, for a while."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            with reader.streaming("/api/timeline/home:stream", token) as stream:
                return [tweet for tweet, _ in items(stream, count)]
        except (AssertionError, httpx.HTTPError, StopIteration):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def is_timeline_server(process_id: int) -> bool:
    return "servers.timeline_server" in command_line(process_id)


def test_a_browser_reads_its_home_stream(up: ChirpUp, person: People) -> None:
    path = browser.find()
    if path is None:
        assert not os.environ.get(browser.REQUIRED), "no Chromium, and this run requires one"
        pytest.skip("NOT RUN: a browser's EventSource; install Debian's package `chromium`")
    reader, author = person(), person()
    reader.follow(author)
    with browser.opened(path) as page:
        page.open(f"{up.url}/healthz")  # the same origin; what it shows does not matter
        page.run(
            "window.got = []; window.tokens = []; window.open_stream = (token) => {"
            " const url = '/api/timeline/home:stream?access_token=" + reader.token + "'"
            "  + (token ? '&resumeToken=' + token : '');"
            " window.source = new EventSource(url);"
            # A browser comes back by itself where a stream breaks, but not from an error's status.
            " window.source.onerror = () => { if (window.source.readyState === EventSource.CLOSED)"
            "  setTimeout(() => window.open_stream(window.tokens.at(-1) || ''), 200); };"
            " window.source.onmessage = (event) => {"
            "  const message = JSON.parse(event.data);"
            "  window.tokens.push(message.resumeToken);"
            "  if (message.item) window.got.push(message.item.id); }; };"
            " window.open_stream('')"
        )
        page.wait_for("window.tokens.length > 0")
        posted = [author.post(f"to a browser {n}") for n in range(3)]
        page.wait_for("window.got.length >= 3")
        page.run("window.source.close()")
        posted.append(author.post("while it is closed"))
        page.run("window.open_stream(window.tokens.at(-1))")
        page.wait_for("window.got.length >= 4")
        got = page.run("window.got")
        page.run("window.source.close()")

    assert got == posted
