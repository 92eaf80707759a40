"""Live, through the gateway of a real `chirp up --replicas 2`: servers die and drain under open
streams, which go on at the other replica; and `chirp watch`, which does so by itself."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

from mesh.settings import Settings
from tests.e2e import many_streams
from tests.e2e.chirp_up import ROOT, ChirpUp, command_line, descendants, plain_environment
from tests.e2e.live_stack import SignUp, client, person
from tests.e2e.people import Person
from tests.e2e.streaming import WITHIN_S, items, streaming

__all__ = ["client", "person"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_streams_of_a_server_that_goes_resume_at_another_and_miss_nothing(
    shared: ChirpUp, person: SignUp, number: signal.Signals
) -> None:
    readers, author = [person() for _ in range(4)], person()
    for reader in readers:
        reader.follow(author)
    servers = [child for child in descendants(shared.process.pid) if is_timeline_server(child)]
    assert len(servers) == 2
    got: list[list[str]] = []
    tokens: list[str] = []
    ended = 0
    with ExitStack() as stack:
        streams = [
            stack.enter_context(streaming(reader, "/api/timeline/home:stream"))
            for reader in readers
        ]
        for stream in streams:
            next(stream)
        posted = [author.post(f"while open {n}")["id"] for n in range(3)]
        for stream in streams:
            found = items(stream, 3)
            got.append([tweet for tweet, _ in found])
            tokens.append(found[-1][1])
        os.kill(servers[0], number)
        posted += [author.post(f"while it goes {n}")["id"] for n in range(5)]
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
    shared.wait_until_whole()  # the oftener one died of late, the later it starts again


async def test_a_thousand_streams_of_a_draining_server_resume_elsewhere_and_miss_nothing(
    shared: ChirpUp, person: SignUp
) -> None:
    author = person()
    described = shared.stack()
    settings = Settings(
        keys=Path(described.settings["CHIRP_KEYS"]),
        database_url=described.settings["CHIRP_DATABASE_URL"],
    )
    readers = await many_streams.make_readers(settings, int(author.id))
    draining, other = described.ports["timeline_server"]
    process_id = shared.process_at(draining)
    begun = asyncio.Event()
    reading = asyncio.create_task(many_streams.read_all(readers, draining, begun))
    await begun.wait()

    async def post(count: int) -> list[int]:
        found: list[int] = []
        for number in range(count):
            tweet = await asyncio.to_thread(author.post, f"to all {number}")
            found.append(int(tweet["id"]))
        return found

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


def test_chirp_watch_shows_what_comes_and_comes_back(shared: ChirpUp, person: SignUp) -> None:
    reader, author = person(), person()
    reader.follow(author)
    with watching(shared, "home", reader.username, "4") as home:
        texts = ["one", "two"]
        for text in texts:
            author.post(text)
        shown = [home.readline() for _ in texts]
        for child in descendants(shared.process.pid):
            if is_timeline_server(child):
                os.kill(child, signal.SIGTERM)
        # Behind a gateway without a healthy server posts still succeed: they need the others.
        for text in ("three", "four"):
            author.post(text)
            texts.append(text)
        shown += [home.readline() for _ in range(2)]
    with watching(shared, "notifications", author.username, "1") as notifications:
        reader.ask("POST", f"/api/tweets/{author.post('a tweet')['id']}/like")
        told = notifications.readline()
    with watching(shared, "trends", "world", "2") as trends:  # the list, then what enters it
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
            with streaming(reader, "/api/timeline/home:stream", token) as stream:
                return [tweet for tweet, _ in items(stream, count)]
        except (AssertionError, httpx.HTTPError, StopIteration):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def is_timeline_server(process_id: int) -> bool:
    return "servers.timeline_server" in command_line(process_id)
