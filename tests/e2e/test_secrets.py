"""What people say stays where it belongs, on a real `chirp up --replicas 2`: no log, no metric, no
event and no outbox row holds a password, a token or a word of a text; and when somebody deletes the
account, nothing of it is left anywhere within a minute."""

import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from mesh.settings import Settings
from ops import gateway
from storage import database, valkey
from tests.e2e.chirp_up import ChirpUp, run_chirp
from tests.e2e.people import Person, sign_up, until
from tests.e2e.streaming import EVENTS, WITHIN_S, items, streaming
from tests.planted import found_in, found_in_database, found_in_valkey

GONE_WITHIN_S = 60.0
NAME, PASSWORD, WRONG = "planted_xylograph", "planted-Password-7f3a", "planted-wrong-91c2"
DISPLAY, BIO, AVATAR = "Planted Quetzalcoatl", "planted biography", "https://a.example/plantedface"
TEXT, TAG, MEDIA = "planted marzipan", "plantedtag", "https://a.example/plantedmedia.png"
REFUSED = "planted refusal "
WORDS = (NAME, PASSWORD, WRONG, DISPLAY, BIO, AVATAR, TEXT, TAG, MEDIA, REFUSED)
# The name stands in the account's own row, and the texts in the tweets' rows.
PUBLIC = (NAME, DISPLAY, BIO, AVATAR, TEXT, TAG, MEDIA)


def test_words_of_people_are_in_no_log_metric_or_event_and_go_with_the_account(
    shared: ChirpUp,
) -> None:
    with httpx.Client(base_url=shared.url, timeout=WITHIN_S) as client:
        friend = sign_up(client, "planted_friend")
        person = _join(client)
        tokens = [person.token, shared.token(NAME)]
        tweet, quote = _live(person, friend)
        _fail(person)
        # By the signature: the head of a token is the same in all of them.
        secrets = [*WORDS, *(token.rsplit(".", 1)[1] for token in tokens)]

        assert _in_logs(shared, secrets) == {}
        assert _in_metrics(shared, secrets) == {}
        stored = asyncio.run(_stored(shared, secrets))
        assert set(stored["database"]) <= {"users", "tweets"}
        assert stored["database"]["users"] <= set(PUBLIC)
        assert stored["database"]["tweets"] <= set(PUBLIC)
        assert stored["event log"] == {}
        assert set().union(*stored["cache"].values()) <= set(PUBLIC)

        with streaming(friend, "/api/timeline/home:stream", headers=EVENTS) as stream:
            next(stream)
            refused = person.call("DELETE", "/api/me", {"password": WRONG})
            assert refused.status_code == 401, refused.text
            assert person.call("DELETE", "/api/me", {"password": PASSWORD}).json() == {}
            begun = time.monotonic()
            _hidden_within(2.5, begun, friend, person, tweet, quote)
            assert person.call("GET", "/api/me").status_code == 401
            _gone_within(GONE_WITHIN_S, begun, shared, client, secrets)
            friend.post("after it all")
            items(stream, 1)
        verified = run_chirp("verify", "--all", CHIRP_DATA=str(shared.data))
        assert verified.returncode == 0, verified.stdout + verified.stderr
        me = friend.ask("GET", "/api/me")
        assert (me["followerCount"], me["followingCount"]) == ("0", "0")


def _join(client: httpx.Client) -> Person:
    answer = client.post(
        "/api/users",
        json={"username": NAME, "password": PASSWORD, "displayName": DISPLAY, "bio": BIO},
    )
    assert answer.status_code == 200, answer.text
    signed_in = client.post("/api/sessions", json={"username": NAME, "password": PASSWORD})
    person = Person(client, answer.json()["user"]["id"], NAME, signed_in.json()["accessToken"])
    person.ask("PATCH", "/api/me", {"avatarUrl": AVATAR})
    return person


def _live(person: Person, friend: Person) -> tuple[str, str]:
    """Does what people do; returns a tweet, and the friend's quote of it."""
    person.follow(friend)
    friend.follow(person)
    friend.home()
    person.home()
    with person.client.stream(
        "GET", "/api/timeline/home:stream", params={"access_token": person.token}, headers=EVENTS
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        tweet = person.post(f"{TEXT} #{TAG}", mediaUrls=[MEDIA], location="nl-nh")["id"]
        while TEXT not in next(lines):
            pass
    gone = person.post(f"{TEXT} deleted")["id"]
    person.ask("DELETE", f"/api/tweets/{gone}")
    # Without the name: what others say stays theirs, also about somebody who is gone.
    other = friend.post("hello")["id"]
    person.post(TEXT, replyTo=other)
    person.post(f"{TEXT} @{friend.username}", quoteOf=other)
    person.ask("POST", f"/api/tweets/{other}/like")
    person.ask("POST", f"/api/tweets/{other}/retweet")
    quote = friend.post("look", quoteOf=tweet)["id"]
    friend.ask("POST", f"/api/tweets/{tweet}/like")
    friend.client.get(f"/api/users/by-username/{NAME}")
    until(lambda: _trends(friend), True)
    friend.ask("GET", f"/api/trends/nl-nh/{TAG}:explain")
    until(lambda: len(friend.ask("GET", "/api/notifications")["notifications"]) >= 4, True)
    assert friend.ask("GET", f"/api/tweets/{quote}")["quotedTweet"]["content"].startswith(TEXT)
    return tweet, quote


def _fail(person: Person) -> None:
    """Calls that are refused, with words in every place where they can be."""
    client = person.client
    client.post("/api/sessions", json={"username": NAME, "password": WRONG})
    client.post("/api/users", json={"username": NAME, "password": PASSWORD})
    client.post("/api/users", json={"username": f"{NAME}!", "password": WRONG, "bio": REFUSED * 99})
    client.post("/api/sessions", content=f'{{"username": "{NAME}", "password": "{WRONG}"')
    client.get("/api/me", headers={"authorization": f"Bearer {person.token[:-2]}"})
    client.get("/api/me", params={"access_token": person.token})
    person.call("POST", "/api/tweets", {"content": REFUSED * 99})
    person.call("POST", "/api/tweets", {"content": [REFUSED]})
    person.call("POST", "/api/tweets", {"content": REFUSED, "replyTo": REFUSED})
    person.call("POST", "/api/tweets", {"content": REFUSED, "mediaUrls": [REFUSED]})
    person.call("GET", "/api/timeline/home", cursor=REFUSED)
    person.call("GET", f"/api/users/by-username/{NAME}/{NAME}")


def _trends(reader: Person) -> bool:
    return TAG in reader.client.get("/api/trends", params={"limit": 50}).text


def _in_logs(up: ChirpUp, words: list[str]) -> dict[str, set[str]]:
    """Waits until the access log is written, then looks into every log."""
    mark = f"/api/tweets/{time.time_ns()}"
    httpx.get(f"{up.url}{mark}")
    access_log = up.data / "logs" / "access.log"
    until(lambda: mark in access_log.read_text(), True)
    files: list[Path] = [path for path in (up.data / "logs").rglob("*") if path.is_file()]
    assert len(files) > 10
    contents = {path.name: path.read_bytes() for path in files}
    contents |= {"out": up.output.encode(), "err": up.errors.encode()}
    return {name: here for name, text in contents.items() if (here := found_in(text, words))}


def _in_metrics(up: ChirpUp, words: list[str]) -> dict[str, set[str]]:
    described = up.stack()
    pages = {
        f"{name} {port}": httpx.get(f"http://127.0.0.1:{port}/metrics").text
        for name, ports in described.metrics_ports.items()
        for port in ports
    }
    pages["gateway"] = httpx.get(f"{described.gateway_admin}/stats").text
    assert len(pages) > 10
    assert any("chirp_" in page for page in pages.values())
    return {name: here for name, text in pages.items() if (here := found_in(text.encode(), words))}


async def _stored(up: ChirpUp, words: list[str]) -> dict[str, dict[str, set[str]]]:
    told: dict[str, Any] = {
        name.removeprefix("CHIRP_").lower(): value for name, value in up.stack().settings.items()
    }
    settings = Settings(**told)
    async with (
        database.open_pool(settings, size_max=1) as pool,
        valkey.connect(settings.valkey_url, settings) as cache,
        valkey.connect(settings.eventlog_url, settings) as event_log,
    ):
        return {
            "database": await found_in_database(pool, words),
            "cache": await found_in_valkey(cache, words),
            "event log": await found_in_valkey(event_log, words),
        }


def _hidden_within(
    seconds: float, begun: float, friend: Person, gone: Person, tweet: str, quote: str
) -> None:
    """Waits until the friend is shown nothing of it by any route that there is."""
    urls = _every_page(friend, gone, tweet, quote)
    assert len(urls) > 30
    while True:
        pages = {url: friend.client.get(url, headers=friend.bearer).content for url in urls}
        shown = {url: here for url, page in pages.items() if (here := found_in(page, PUBLIC))}
        if not shown:
            break
        assert time.monotonic() < begun + seconds, shown
        time.sleep(0.05)
    assert friend.call("GET", f"/api/tweets/{tweet}").status_code == 404
    assert friend.client.get(f"/api/users/by-username/{NAME}").status_code == 404


def _every_page(friend: Person, gone: Person, tweet: str, quote: str) -> list[str]:
    """Every GET route of the gateway's document about every person and tweet that there is."""
    ids = [friend.id, gone.id, tweet, quote]
    known: dict[str, list[str]] = {
        "id": ids, "ids": ids, "tweetId": ids, "sinceId": ["1"], "userId": [friend.id],
        "username": [NAME, friend.username], "location": ["world", "nl", "nl-nh"],
    }  # fmt: skip
    urls: list[str] = []
    for path, verbs in json.loads(gateway.DOCUMENT.read_text())["paths"].items():
        # Streams have no end; an explanation repeats the tag that was asked for.
        if "get" not in verbs or path.endswith(":stream") or "{tag}" in path:
            continue
        parameters = verbs["get"].get("parameters", [])
        required = [each["name"] for each in parameters if each.get("required")]
        for values in itertools.product(*(known[name] for name in required)):
            named = dict(zip(required, values, strict=True))
            query = {name: value for name, value in named.items() if f"{{{name}}}" not in path}
            urls.append(f"{path.format_map(named)}?{urlencode(query)}")
    return urls


def _gone_within(
    seconds: float, begun: float, up: ChirpUp, client: httpx.Client, words: list[str]
) -> None:
    """Waits until nothing is left in any store, in trends, or in any log."""
    while True:
        stored = asyncio.run(_stored(up, words))
        left = {store: found for store, found in stored.items() if found}
        trends = found_in(client.get("/api/trends", params={"limit": 50}).content, words)
        if not left and not trends:
            break
        assert time.monotonic() < begun + seconds, (left, trends)
        time.sleep(0.2)
    assert _in_logs(up, words) == {}
    assert _in_metrics(up, words) == {}
