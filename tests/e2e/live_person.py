"""Somebody who reads streams through the gateway, in either of their two forms."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

WITHIN_S = 15.0
EVENTS = {"accept": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Person:
    client: httpx.Client
    id: str
    username: str
    token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        answer = self.client.request(method, path, json=body, headers=self.bearer)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, content: str) -> str:
        return self.call("POST", "/api/tweets", {"content": content})["id"]

    def follow(self, other: "Person") -> None:
        self.call("POST", f"/api/users/{other.id}/follow")

    @contextmanager
    def streaming(
        self, path: str, token: str = "", headers: dict[str, str] | None = None
    ) -> Generator[Iterator[dict[str, Any]]]:
        query = {"resumeToken": token} if token else {}
        with self.client.stream(
            "GET", path, params=query, headers={**self.bearer, **(headers or {})}
        ) as answer:
            assert answer.status_code == 200, answer.read()
            yield messages(answer.iter_lines())


def messages(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Messages of either form."""
    for line in lines:
        if line:
            yield json.loads(line.removeprefix("data: "))


def items(stream: Iterator[dict[str, Any]], count: int) -> list[tuple[str, str]]:
    """The next items: id and resume token."""
    found: list[tuple[str, str]] = []
    deadline = time.monotonic() + WITHIN_S
    while len(found) < count:
        assert time.monotonic() < deadline
        message = next(stream)
        assert "end" not in message, message
        if "item" in message:
            found.append((message["item"]["id"], message["resumeToken"]))
    return found
