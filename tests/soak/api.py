"""Chirp as its clients see it: REST through the gateway. Counts what fails, and raises nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

from tests.soak.model import Outcome, Shown

TIMEOUT_S = 12.0  # longer than the gateway waits for a server
CONNECTIONS_MAX = 64

# What is answered to a call that is right, while others change what it speaks of.
REFUSED = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token."""

    id: int
    token: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended. Times are the event loop's."""

    outcome: Outcome
    status: int
    body: dict[str, Any]
    asked_at: float


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a home timeline."""

    tweets: list[Shown]
    next_cursor: str
    asked_at: float
    flaw: str
    """What is wrong with it whatever is on it."""


@dataclass(slots=True)
class Counts:
    """What became of all calls."""

    calls: Counter[str] = field(default_factory=Counter[str])
    """By operation."""
    refused: Counter[str] = field(default_factory=Counter[str])
    """By operation and reason."""
    failed: Counter[str] = field(default_factory=Counter[str])
    """By operation and status or error."""


class Api:
    """Calls of anybody."""

    def __init__(self, client: httpx.AsyncClient, counts: Counts) -> None:
        self._client = client
        self.counts = counts
        self.flaws: list[str] = []
        """Answers that are wrong whatever happens beside them."""

    async def call(
        self, operation: str, person: Person, method: str, path: str, **options: Any
    ) -> Answer:
        """Calls once. An internal error, or an answer to a right call as if it were wrong, is a
        flaw."""
        self.counts.calls[operation] += 1
        asked_at = asyncio.get_running_loop().time()
        try:
            response = await self._client.request(
                method, path, headers={"authorization": f"Bearer {person.token}"}, **options
            )
            status, text = response.status_code, response.text
            body: dict[str, Any] = response.json() if status == HTTPStatus.OK else {}
        except (httpx.HTTPError, ValueError) as error:
            self.counts.failed[f"{operation}: {type(error).__name__}"] += 1
            return Answer(Outcome.FAILED, 0, {}, asked_at)
        if status == HTTPStatus.OK:
            return Answer(Outcome.DONE, status, body, asked_at)
        if status in REFUSED:
            self.counts.refused[f"{operation}: {status} {_reason(response)}"] += 1
            return Answer(Outcome.REFUSED, status, {}, asked_at)
        self.counts.failed[f"{operation}: {status} {_reason(response)}"] += 1
        if status < HTTPStatus.TOO_MANY_REQUESTS or status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.flaws.append(f"{operation}: {method} {path} is answered {status}: {text[:300]}")
        return Answer(Outcome.FAILED, status, {}, asked_at)

    async def home_page(self, person: Person, *, limit: int, cursor: str = "") -> Page | None:
        """Reads a page of a home timeline; None where that failed."""
        parameters = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        answer = await self.call("read", person, "GET", "/api/timeline/home", params=parameters)
        if answer.outcome is not Outcome.DONE:
            return None
        tweets = [_shown(tweet) for tweet in answer.body.get("tweets", ())]
        has_more, next_cursor = bool(answer.body.get("hasMore")), answer.body.get("nextCursor", "")
        flaw = ""
        if has_more is not bool(next_cursor):
            flaw = f"hasMore is {has_more} with the cursor {next_cursor!r}"
        elif has_more and len(tweets) != limit:
            flaw = f"a page of {limit} has {len(tweets)} entries and is not the last"
        return Page(tweets, next_cursor, answer.asked_at, flaw)


@asynccontextmanager
async def open_api(url: str, counts: Counts) -> AsyncGenerator[Api]:
    """Opens a client of a gateway."""
    limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        yield Api(client, counts)


def _shown(tweet: dict[str, Any]) -> Shown:
    repeated: dict[str, Any] = tweet.get("retweetedTweet") or {}
    quoted: dict[str, Any] = (repeated or tweet).get("quotedTweet") or {}
    return Shown(
        id=int(tweet["id"]),
        author=int(tweet["authorId"]),
        original=int(tweet.get("retweetOf", 0)),
        original_author=int(repeated.get("authorId", 0)),
        reply_to=int(tweet.get("replyTo", 0)),
        quoted=int(quoted.get("id", 0)),
        quoted_author=int(quoted.get("authorId", 0)),
    )


def _reason(response: httpx.Response) -> str:
    try:
        details: list[dict[str, Any]] = response.json().get("details", [])
    except ValueError:
        return "(not JSON)"
    return next((str(detail["reason"]) for detail in details if "reason" in detail), "")
