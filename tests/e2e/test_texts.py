"""Text is text, through the gateway: JSON brings back exactly what was sent, in NFC; what is none
is refused with its field; nothing is ever answered as anything but JSON."""

import json
import unicodedata

import pytest

from tests.e2e.live_stack import SignUp, client, person
from tests.e2e.people import PASSWORD
from tests.e2e.streaming import EVENTS, streaming
from tests.hostile_texts import (
    BROKEN_UTF8,
    LONE_SURROGATE,
    LOOK_ALIKE_NAMES,
    REFUSED,
    TAKEN,
)

__all__ = ["client", "person"]


def test_text_comes_back_exactly_and_is_not_interpreted(person: SignUp) -> None:
    author = person()
    expected: dict[str, str] = {}
    with streaming(author, "/api/timeline/home:stream", headers=EVENTS) as stream:
        next(stream)
        for text in TAKEN.values():
            for ensure_ascii in (True, False):
                answer = author.client.post(
                    "/api/tweets",
                    content=json.dumps({"content": text}, ensure_ascii=ensure_ascii).encode(),
                    headers={**author.bearer, "content-type": "application/json"},
                )
                assert answer.status_code == 200, answer.text
                assert answer.headers["content-type"] == "application/json"
                normal = unicodedata.normalize("NFC", text)
                assert answer.json()["content"] == normal
                expected[answer.json()["id"]] = normal
        streamed: dict[str, str] = {}
        while len(streamed) < len(expected):
            item = next(stream).get("item")
            if item is not None:
                streamed[item["id"]] = item["content"]
    page = author.ask("GET", "/api/timeline/home", limit=100)

    assert streamed == expected
    assert {tweet["id"]: tweet["content"] for tweet in page["tweets"]} == expected


def test_what_is_refused_names_its_field(person: SignUp) -> None:
    author = person()

    for text in REFUSED.values():
        answer = author.call("POST", "/api/tweets", {"content": text})
        if len(json.dumps({"content": text})) > 65_536:
            assert answer.status_code == 413, answer.text
            continue
        assert answer.status_code == 400, answer.text
        assert '"field":"content"' in answer.text
    for name in LOOK_ALIKE_NAMES:
        answer = author.call("POST", "/api/users", {"username": name, "password": PASSWORD})
        assert (answer.status_code, '"field":"username"' in answer.text) == (400, True)
        found = author.client.get(f"/api/users/by-username/{name}")
        assert found.status_code == 400, found.text
    assert author.home() == []


@pytest.mark.parametrize("broken", [LONE_SURROGATE, *BROKEN_UTF8])
def test_what_is_no_unicode_is_refused_or_stored_as_the_gateway_read_it(
    person: SignUp, broken: bytes
) -> None:
    author = person()

    answer = author.client.post(
        "/api/tweets",
        content=b'{"content": "a' + broken + b'b"}',
        headers={**author.bearer, "content-type": "application/json"},
    )

    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert author.home() == []
