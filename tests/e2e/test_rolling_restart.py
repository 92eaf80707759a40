"""`chirp restart` replaces every server and worker of a running stack, one replica after the other,
while people post, read and stream: no request fails, and no item is lost or comes twice."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from chirp_up import ROOT, ChirpUp, command_line, data_folder, descendants, ready

from ops.processes import KINDS
from tests.e2e.chirp_up import plain_environment

PASSWORD = "correct horse battery"
WITHIN_S = 30.0
REQUEST_S = 15.0


@dataclass
class Load:
    """What was asked and answered meanwhile."""

    rest: httpx.AsyncClient
    bearer: dict[str, str]
    fan: dict[str, str]
    """Of somebody else, who likes what is posted."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)
    answers: int = 0
    failures: list[str] = field(default_factory=list[str])
    posted: list[str] = field(default_factory=list[str])
    got: list[str] = field(default_factory=list[str])
    liked: list[str] = field(default_factory=list[str])
    told: list[str] = field(default_factory=list[str])
    """The tweets of which a stream told that the fan likes them."""
    begun: set[str] = field(default_factory=set[str])
    """Streams that brought a message."""
    resumed: int = 0

    async def call(
        self, method: str, path: str, body: object = None, *, fan: bool = False
    ) -> dict[str, object]:
        headers = self.fan if fan else self.bearer
        try:
            answer = await self.rest.request(method, path, json=body, headers=headers)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            after_s = time.monotonic() - self.began
            self.failures.append(f"{method} {path} after {after_s:.1f} s: {error!r}")
            return {}
        self.answers += 1
        return answer.json()

    async def post(self) -> None:
        while not self.stop.is_set():
            tweet = await self.call("POST", "/api/tweets", {"content": f"no {self.answers}"})
            if "id" in tweet:
                self.posted.append(str(tweet["id"]))
            await asyncio.sleep(0.02)

    async def read(self, path: str) -> None:
        while not self.stop.is_set():
            await self.call("GET", path)
            await asyncio.sleep(0.02)

    async def like(self) -> None:
        while not self.stop.is_set():
            if self.posted:
                await self.call("POST", f"/api/tweets/{self.posted[-1]}/like")
                await self.call("DELETE", f"/api/tweets/{self.posted[-1]}/like")
            await asyncio.sleep(0.05)

    async def like_once(self) -> None:
        """The fan likes each tweet that it comes to once."""
        while not self.stop.is_set():
            newest = self.posted[-1] if self.posted else ""
            if newest and newest not in self.liked[-1:]:
                await self.call("POST", f"/api/tweets/{newest}/like", fan=True)
                self.liked.append(newest)
            await asyncio.sleep(0.05)

    async def read_home(self) -> None:
        """Reads the own home stream for ever."""
        async for item in self.items("/api/timeline/home:stream"):
            self.got.append(item["id"])

    async def read_notifications(self) -> None:
        """Reads the own notifications for ever."""
        async for item in self.items("/api/notifications:stream"):
            self.told.append(item["tweetId"])

    async def items(self, path: str) -> AsyncGenerator[dict[str, Any]]:
        """Reads a stream for ever, as clients do."""
        token = ""
        while True:
            query: dict[str, str] = {"resumeToken": token} if token else {}
            with contextlib.suppress(httpx.HTTPError):
                async for message in self.messages(path, query):
                    self.begun.add(path)
                    if "item" in message:
                        yield message["item"]
                    token = message.get("resumeToken") or token
                    if "end" in message:
                        token = message["end"]["resumeToken"] or token
            self.resumed += 1

    async def messages(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[dict[str, Any]]:
        async with self.rest.stream("GET", path, params=query, headers=self.bearer) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                yield json.loads(line)


@pytest.fixture
def up() -> Iterator[ChirpUp]:
    # Two people do what hundreds do elsewhere.
    with ready("--replicas", "2", CHIRP_RATE_LIMITS="0") as running:
        yield running


async def signed_up(rest: httpx.AsyncClient, name: str) -> dict[str, str]:
    """Makes an account; returns what its calls carry."""
    account = {"username": name, "password": PASSWORD}
    answer = (await rest.post("/api/users", json=account)).json()
    return {"authorization": f"Bearer {answer['accessToken']}"}


def ours(up: ChirpUp) -> set[int]:
    """The processes of our servers and workers."""
    modules = {kind.module for kind in KINDS}
    return {
        child
        for child in descendants(up.process.pid)
        if any(module in command_line(child) for module in modules)
    }


async def test_a_rolling_restart_under_load_fails_no_request_and_loses_no_item(
    up: ChirpUp,
) -> None:
    before = ours(up)
    async with httpx.AsyncClient(base_url=up.url, timeout=REQUEST_S) as rest:
        load = Load(rest, await signed_up(rest, "busy"), await signed_up(rest, "admirer"))
        streaming = [
            asyncio.create_task(work) for work in (load.read_home(), load.read_notifications())
        ]
        async with asyncio.timeout(WITHIN_S):
            while not load.got:  # it has begun
                await load.call("POST", "/api/tweets", {"content": "first"})
                await asyncio.sleep(0.1)
            while len(load.begun) < len(streaming):
                await asyncio.sleep(0.02)
        load.got.clear()
        tasks = [
            asyncio.create_task(work)
            for work in (
                load.post(),
                load.read("/api/timeline/home?limit=5"),
                load.read("/api/notifications"),
                load.read("/api/trends"),
                load.read("/api/trends/world/first:explain"),
                load.read("/api/me"),
                load.like(),
                load.like_once(),
            )
        ]
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ops.cli", "restart"),
            cwd=ROOT,
            env={**plain_environment(), "CHIRP_DATA": str(up.data)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await command.communicate()
        load.stop.set()
        await asyncio.gather(*tasks)
        deadline = time.monotonic() + WITHIN_S
        while missed := set(load.posted) - set(load.got) | set(load.liked) - set(load.told):
            assert time.monotonic() < deadline, missed
            await asyncio.sleep(0.05)
        for task in streaming:
            task.cancel()
        await asyncio.gather(*streaming, return_exceptions=True)
    after = ours(up)

    assert command.returncode == 0, errors
    assert output.startswith(f"restarted {2 * len(KINDS)} servers and workers".encode())
    assert before.isdisjoint(after)
    assert len(after) == len(before) == 2 * len(KINDS)
    assert load.failures == []
    assert [tweet for tweet in load.got if tweet in set(load.posted)] == load.posted
    assert load.told == load.liked
    assert load.resumed >= 2
    print(
        f"{load.answers} answers, {len(load.posted)} tweets, {len(load.liked)} likes,"
        f" {load.resumed} resumed; {output}"
    )


def test_a_restart_where_no_stack_runs_says_so() -> None:
    with data_folder() as data:
        done = subprocess.run(
            [sys.executable, "-m", "ops.cli", "restart"],
            cwd=ROOT,
            env={**plain_environment(), "CHIRP_DATA": str(data)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr.startswith("chirp: no stack runs here")
