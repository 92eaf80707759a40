"""Calls by REST, as browsers and other outside clients make them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import httpx

from tests.soak import api
from tests.soak.api import TIMEOUT_S, Counts, Page, Person, Post, Posted
from tests.soak.model import Outcome, Shown

CONNECTIONS_MAX = 64

# What is answered to a call that is right, while others change what it speaks of.
REFUSED = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}

_CHANGES = {
    "follow": ("POST", "/api/users/{}/follow"),
    "unfollow": ("DELETE", "/api/users/{}/follow"),
    "block": ("POST", "/api/users/{}/block"),
    "unblock": ("DELETE", "/api/users/{}/block"),
    "mute": ("POST", "/api/users/{}/mute"),
    "unmute": ("DELETE", "/api/users/{}/mute"),
    "like": ("POST", "/api/tweets/{}/like"),
    "unlike": ("DELETE", "/api/tweets/{}/like"),
    "retweet": ("POST", "/api/tweets/{}/retweet"),
    "undo retweet": ("DELETE", "/api/tweets/{}/retweet"),
}


class RestApi:
    """See Api."""

    def __init__(self, client: httpx.AsyncClient, counts: Counts) -> None:
        self._client = client
        self._counts = counts
        self.flaws: list[str] = []

    async def post(self, person: Person, post: Post) -> Posted:
        """See Api."""
        body: dict[str, str] = {"content": post.content, "requestId": post.request_id}
        if post.target:
            body["replyTo" if post.operation == "reply" else "quoteOf"] = str(post.target)
        outcome, answer = await self._call(post.operation, person, "POST", "/api/tweets", json=body)
        return Posted(outcome, int(answer["id"]) if outcome is Outcome.DONE else 0)

    async def delete(self, person: Person, tweet: int) -> Outcome:
        """See Api."""
        return (await self._call("delete", person, "DELETE", f"/api/tweets/{tweet}"))[0]

    async def change(self, operation: str, person: Person, other: int) -> Outcome:
        """See Api."""
        method, path = _CHANGES[operation]
        return (await self._call(operation, person, method, path.format(other)))[0]

    async def home_page(self, person: Person, *, limit: int, cursor: str = "") -> Page | None:
        """See Api."""
        asked_at = asyncio.get_running_loop().time()
        parameters = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        outcome, body = await self._call(
            "read", person, "GET", "/api/timeline/home", params=parameters
        )
        if outcome is not Outcome.DONE:
            return None
        tweets = [_shown(tweet) for tweet in body.get("tweets", ())]
        return api.page(
            tweets, body.get("nextCursor", ""), bool(body.get("hasMore")), limit, asked_at
        )

    async def _call(
        self, operation: str, person: Person, method: str, path: str, **options: Any
    ) -> tuple[Outcome, dict[str, Any]]:
        """Calls once. An internal error, or an answer to a right call as if it were wrong, is a
        flaw."""
        counts = self._counts
        counts.calls[operation] += 1
        try:
            response = await self._client.request(
                method, path, headers={"authorization": f"Bearer {person.token}"}, **options
            )
            status = response.status_code
            body: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            counts.failed[f"{operation}: {type(error).__name__}"] += 1
            return Outcome.FAILED, {}
        if status == HTTPStatus.OK:
            return Outcome.DONE, body
        reason = next((d["reason"] for d in body.get("details", ()) if "reason" in d), "")
        if status in REFUSED:
            counts.refused[f"{operation}: {status} {reason}"] += 1
            return Outcome.REFUSED, {}
        counts.failed[f"{operation}: {status} {reason}"] += 1
        if status < HTTPStatus.TOO_MANY_REQUESTS or status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.flaws.append(f"{operation}: {method} {path} is answered {status}: {body}")
        return Outcome.FAILED, {}


@asynccontextmanager
async def open_api(url: str, counts: Counts) -> AsyncGenerator[RestApi]:
    """Opens a client of a gateway."""
    limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        yield RestApi(client, counts)


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
