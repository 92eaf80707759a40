"""Streams as people read them through the gateway, in either of their two forms."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from tests.e2e.people import Person

WITHIN_S = 15.0
EVENTS = {"accept": "text/event-stream"}


@contextmanager
def streaming(
    person: Person, path: str, token: str = "", headers: dict[str, str] | None = None
) -> Generator[Iterator[dict[str, Any]]]:
    query = {"resumeToken": token} if token else {}
    with person.client.stream(
        "GET", path, params=query, headers={**person.bearer, **(headers or {})}
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
