"""Live, through the gateway of a real `chirp up --replicas 2`: notifications, and streams as lines
of JSON, as server-sent events, by gRPC, and in a browser."""

import os
import subprocess
import time

import grpc
import pytest
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from tests.e2e import browser
from tests.e2e.chirp_up import ChirpUp
from tests.e2e.live_stack import SignUp, client, person
from tests.e2e.streaming import EVENTS, WITHIN_S, items, messages, streaming

__all__ = ["client", "person"]


def test_notifications_are_listed_counted_marked_and_streamed(person: SignUp) -> None:
    ada, grace = person(), person()
    tweet = ada.post("hello")["id"]
    with streaming(ada, "/api/notifications:stream") as stream:
        assert "heartbeat" in next(stream)
        grace.ask("POST", f"/api/tweets/{tweet}/like")
        ((notification, token),) = items(stream, 1)
    grace.follow(ada)

    deadline = time.monotonic() + WITHIN_S
    while len((page := ada.ask("GET", "/api/notifications"))["notifications"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with streaming(ada, "/api/notifications:stream", token, EVENTS) as stream:
        ((followed, _),) = items(stream, 1)
    marked = ada.ask("POST", "/api/notifications:markRead", {"upToId": notification})

    newest, oldest = page["notifications"]
    assert (newest["id"], oldest["id"]) == (followed, notification)
    assert (oldest["kind"], newest["kind"]) == ("LIKE", "FOLLOW")
    assert (oldest["tweetId"], oldest["actorCount"], oldest["read"]) == (tweet, "1", False)
    assert [actor["id"] for actor in oldest["actors"]] == [grace.id]
    assert oldest["createdAt"].endswith("Z")
    assert (page["unreadCount"], page["hasMore"], page["nextCursor"]) == ("2", False, "")
    assert marked == {"unreadCount": "1"}


def test_curl_reads_a_home_stream_as_lines_and_resumes_it_as_events(
    shared: ChirpUp, person: SignUp
) -> None:
    reader, author = person(), person()
    reader.follow(author)
    curl = ["curl", "-sN", "-H", f"authorization: Bearer {reader.token}"]
    url = f"{shared.url}/api/timeline/home:stream"
    with subprocess.Popen([*curl, url], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        stream = messages(iter(first.stdout.readline, ""))
        assert "heartbeat" in next(stream)
        posted = [author.post("one")["id"]]
        (got,) = items(stream, 1)
        first.terminate()
    posted += [author.post("two")["id"], author.post("three")["id"]]
    resumed = [*curl, "-H", "accept: text/event-stream", f"{url}?resumeToken={got[1]}"]
    with subprocess.Popen(resumed, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        lines = iter(second.stdout.readline, "")
        rest = items(messages(line.strip() for line in lines), 2)
        second.terminate()

    assert [got[0], *(tweet for tweet, _ in rest)] == posted


def test_a_token_in_the_url_signs_in_and_stands_in_no_log(shared: ChirpUp, person: SignUp) -> None:
    reader = person()
    posted = ""
    with reader.client.stream(
        "GET", "/api/timeline/home:stream", params={"access_token": reader.token}, headers=EVENTS
    ) as answer:
        stream = messages(answer.iter_lines())
        next(stream)
        posted = reader.post("my own")["id"]
        assert items(stream, 1)[0][0] == posted
    elsewhere = reader.client.get("/api/timeline/home", params={"access_token": reader.token})

    assert elsewhere.status_code == 400
    secret = reader.token.rsplit(".", 1)[1]
    deadline = time.monotonic() + WITHIN_S
    while "home:stream" not in (text := (shared.data / "logs" / "access.log").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for log in (shared.data / "logs").iterdir():
        assert secret not in log.read_text(errors="replace"), log
    assert secret not in text


def test_a_home_stream_by_grpc_through_the_gateway(shared: ChirpUp, person: SignUp) -> None:
    reader = person()
    with grpc.insecure_channel(shared.url.removeprefix("http://")) as channel:
        stub = timeline_pb2_grpc.TimelineServiceStub(channel)
        call = stub.StreamHomeTimeline(
            timeline_pb2.StreamHomeTimelineRequest(),
            metadata=(("authorization", f"Bearer {reader.token}"),),
        )
        assert next(call).HasField("heartbeat")
        posted = reader.post("mine")["id"]
        message = next(call)
        while not message.HasField("item"):
            message = next(call)
        call.cancel()

    assert str(message.item.id) == posted
    assert message.resume_token


def test_a_browser_reads_its_home_stream(shared: ChirpUp, person: SignUp) -> None:
    path = browser.find()
    if path is None:
        assert not os.environ.get(browser.REQUIRED), "no Chromium, and this run requires one"
        pytest.skip("NOT RUN: a browser's EventSource; install Debian's package `chromium`")
    reader, author = person(), person()
    reader.follow(author)
    with browser.opened(path) as page:
        page.open(f"{shared.url}/healthz")  # the same origin; what it shows does not matter
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
        posted = [author.post(f"to a browser {n}")["id"] for n in range(3)]
        page.wait_for("window.got.length >= 3")
        page.run("window.source.close()")
        posted.append(author.post("while it is closed")["id"])
        page.run("window.open_stream(window.tokens.at(-1))")
        page.wait_for("window.got.length >= 4")
        got = page.run("window.got")
        page.run("window.source.close()")

    assert got == posted
