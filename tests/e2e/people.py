"""People who use a running Chirp over REST."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

VISIBLE_WITHIN_S = 5.0
PASSWORD = "correct horse battery"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token, and calls on the gateway."""

    client: httpx.Client
    id: str
    username: str
    token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def call(self, method: str, path: str, body: object = None, **query: object) -> httpx.Response:
        return self.client.request(
            method,
            path,
            json=body,
            params={name: str(value) for name, value in query.items()},
            headers=self.bearer,
        )

    def ask(self, method: str, path: str, body: object = None, **query: object) -> dict[str, Any]:
        """What a call that succeeds is answered with."""
        answer = self.call(method, path, body, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, content: str, **fields: object) -> dict[str, Any]:
        return self.ask("POST", "/api/tweets", {"content": content, **fields})

    def follow(self, other: "Person") -> None:
        self.ask("POST", f"/api/users/{other.id}/follow")

    def home(self, limit: int = 20) -> list[str]:
        """All pages laid end to end."""
        ids: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.ask("GET", "/api/timeline/home", limit=limit, **cursor)
            ids += [tweet["id"] for tweet in page["tweets"]]
            if not page["hasMore"]:
                return ids
            cursor = {"cursor": page["nextCursor"]}


def sign_up(client: httpx.Client, name: str) -> Person:
    answer = client.post("/api/users", json={"username": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return Person(client, body["user"]["id"], name, body["accessToken"])


def until(seen: Callable[[], object], wanted: object) -> None:
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while (got := seen()) != wanted:
        assert time.monotonic() < deadline, f"{got} is not {wanted}"
        time.sleep(0.02)
