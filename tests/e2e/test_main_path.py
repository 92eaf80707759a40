"""The main job through the gateway of a real `chirp up --replicas 2`: REST and gRPC on one port."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from chirp.v1 import timeline_pb2, timeline_pb2_grpc, tweet_pb2, tweet_pb2_grpc
from chirp_up import chirp_up, data_folder

from ops import embedded

VISIBLE_WITHIN_S = 5.0
PASSWORD = "correct horse battery"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token, and calls on the gateway."""

    client: httpx.Client
    id: str
    username: str
    token: str

    def call(self, method: str, path: str, body: object = None, **query: object) -> httpx.Response:
        return self.client.request(
            method,
            path,
            json=body,
            params={name: str(value) for name, value in query.items()},
            headers={"authorization": f"Bearer {self.token}"},
        )

    def post(self, content: str, **fields: object) -> dict[str, Any]:
        answer = self.call("POST", "/api/tweets", {"content": content, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def home(self, limit: int = 20) -> list[str]:
        """All pages laid end to end."""
        ids: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            answer = self.call("GET", "/api/timeline/home", limit=limit, **cursor)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            ids += [tweet["id"] for tweet in page["tweets"]]
            if not page["hasMore"]:
                return ids
            cursor = {"cursor": page["nextCursor"]}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with data_folder() as data:
        port = embedded.free_port()
        # Three followers make an author pulled, so that both ways are used.
        few = {"CHIRP_INFLUENCER_FOLLOWERS": "3", "CHIRP_TIMELINE_LENGTH": "5"}
        with chirp_up(data, port, "--replicas", "2", **few) as up:
            up.wait_until_ready()
            with httpx.Client(base_url=up.url, timeout=10) as opened:
                yield opened


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


def test_a_post_reaches_its_followers_pushed_or_pulled(client: httpx.Client) -> None:
    author, *followers = (sign_up(client, f"reach_{n}") for n in range(4))
    expected: list[str] = []

    for follower in followers:
        followed = follower.call("POST", f"/api/users/{author.id}/follow").json()
        assert followed["following"] is True
        expected.insert(0, author.post(f"with one more: {follower.username} #chirp")["id"])
        assert author.home() == expected
    tier = client.get(f"/api/users/{author.id}").json()["tier"]

    assert tier == "TIER_INFLUENCER"
    for follower in followers:
        until(lambda reader=follower: reader.home(limit=2), expected)


def test_pages_go_past_the_length_of_the_list(client: httpx.Client) -> None:
    author, follower = sign_up(client, "long_author"), sign_up(client, "long_follower")
    follower.call("POST", f"/api/users/{author.id}/follow")
    assert follower.home() == []

    posted = [author.post(f"number {number}")["id"] for number in range(12)]

    until(lambda: follower.home(limit=2), posted[::-1])
    newer = follower.call("GET", "/api/timeline/home:countNewer", sinceId=posted[3]).json()
    assert newer == {"count": 8}
    of_user = client.get(f"/api/timeline/user/{author.id}", params={"limit": 3}).json()
    assert [tweet["id"] for tweet in of_user["tweets"]] == posted[:-4:-1]
    assert of_user["hasMore"] is True


def test_a_tweet_as_json_is_as_the_contract_says(client: httpx.Client) -> None:
    author, mentioned = sign_up(client, "json_author"), sign_up(client, "json_friend")

    tweet = author.post("Grüße an @json_friend #Chirp", location="us-ny", requestId="once")
    again = author.post("something else", requestId="once")
    reply = mentioned.post("thanks", replyTo=tweet["id"])

    assert again["id"] == tweet["id"]
    created = tweet.pop("createdAt")
    assert created.endswith("Z")
    assert tweet == {
        "id": again["id"],
        "authorId": author.id,
        "author": {"id": author.id, "username": "json_author", "displayName": "json_author"},
        "content": "Grüße an @json_friend #Chirp",
        "mediaUrls": [],
        "hashtags": ["chirp"],
        "mentions": [mentioned.id],
        "replyTo": "0",
        "retweetOf": "0",
        "quoteOf": "0",
        "conversationId": again["id"],
        "location": "us-ny",
        "likeCount": "0",
        "retweetCount": "0",
        "replyCount": "0",
        "quoteCount": "0",
    }
    assert (reply["replyTo"], reply["conversationId"]) == (tweet["id"], tweet["id"])
    assert client.get(f"/api/tweets/{tweet['id']}").json()["replyCount"] == "1"


def test_a_deleted_tweet_is_gone_everywhere(client: httpx.Client) -> None:
    author, follower = sign_up(client, "gone_author"), sign_up(client, "gone_follower")
    follower.call("POST", f"/api/users/{author.id}/follow")
    kept, gone = author.post("kept")["id"], author.post("gone")["id"]
    until(follower.home, [gone, kept])

    refused = follower.call("DELETE", f"/api/tweets/{gone}")
    deleted = author.call("DELETE", f"/api/tweets/{gone}")

    assert refused.status_code == 403
    assert deleted.json() == {}
    assert client.get(f"/api/tweets/{gone}").status_code == 404
    until(follower.home, [kept])
    until(author.home, [kept])
    batch = client.get("/api/tweets:batchGet", params={"ids": [gone, kept]}).json()
    assert [tweet["id"] for tweet in batch["tweets"]] == [kept]


def test_a_tag_that_people_use_trends_is_streamed_and_explained(client: httpx.Client) -> None:
    people = [sign_up(client, f"trend_{n}") for n in range(3)]
    path = "/api/trends:stream?limit=50"
    for person in people:
        person.post("Look: #Comet", location="nl-nh")

    def comet() -> list[tuple[str, int, int]]:
        trends = client.get("/api/trends/nl").json()["trends"]
        found = [trend for trend in trends if trend["name"] == "comet"]
        return [(trend["tag"], trend["count"], trend["authors"]) for trend in found]

    until(comet, [("Comet", 3, 3)])
    explained = client.get("/api/trends/nl-nh/Comet:explain").json()
    with client.stream("GET", path, headers={"accept": "text/event-stream"}) as stream:
        lines = stream.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))["item"]
        for person in people:
            person.post("And now #Meteor")
        changes: list[Any] = []
        while not any(change["trend"]["tag"] == "Meteor" for change in changes):
            line = next(lines)
            changes = json.loads(line[6:]).get("item", {}).get("changes", []) if line else []

    assert "Comet" in [trend["tag"] for trend in first["trends"]]
    assert (explained["thisHour"], explained["lastHour"], len(explained["buckets"])) == (3, 0, 60)
    assert changes[-1]["kind"] in ("TREND_CHANGE_KIND_ENTERED", "TREND_CHANGE_KIND_MOVED")


@pytest.mark.parametrize(
    ("method", "path", "status", "reason", "field"),
    [
        ("GET", "/api/timeline/home?limit=0", 400, "INVALID_ARGUMENT", "limit"),
        ("GET", "/api/timeline/home?cursor=broken", 400, "INVALID_ARGUMENT", "cursor"),
        ("GET", "/api/timeline/home?sinceId=-1", 400, "INVALID_ARGUMENT", "sinceId"),
        ("GET", "/api/timeline/home?nonsense=1", 400, "INVALID_ARGUMENT", None),
        ("GET", "/api/timeline/user/1", 404, "USER_NOT_FOUND", None),
        ("GET", "/api/tweets/1", 404, "TWEET_NOT_FOUND", None),
        ("GET", "/api/trends?order=loudest", 400, "INVALID_ARGUMENT", "order"),
        ("GET", "/api/trends/US", 400, "INVALID_ARGUMENT", "location"),
        ("GET", "/api/trends/world:stream?limit=0", 400, "INVALID_ARGUMENT", "limit"),
        ("GET", "/api/trends/world/12:explain", 400, "INVALID_ARGUMENT", "tag"),
        ("GET", "/api/nothing", 404, "NOT_FOUND", None),
        ("PUT", "/api/tweets", 404, "NOT_FOUND", None),
        ("POST", "/api/tweets", 400, "INVALID_ARGUMENT", "content"),
    ],
)
def test_errors_are_google_rpc_status(
    client: httpx.Client, method: str, path: str, status: int, reason: str, field: str | None
) -> None:
    signed_in = client.post("/api/users", json={"username": "wrong", "password": PASSWORD})
    if signed_in.status_code == 409:
        body = {"username": "wrong", "password": PASSWORD}
        signed_in = client.post("/api/sessions", json=body)
    token = signed_in.json()["accessToken"]

    answer = client.request(method, path, json={}, headers={"authorization": f"Bearer {token}"})

    assert answer.status_code == status, answer.text
    details = answer.json()["details"]
    infos = [each for each in details if each["@type"].endswith("ErrorInfo")]
    assert [(info["reason"], info["domain"]) for info in infos] == [(reason, "chirp")]
    if field is not None:
        violations = [v for each in details for v in each.get("fieldViolations", [])]
        assert [violation["field"] for violation in violations] == [field]


def test_what_is_not_open_wants_a_token(client: httpx.Client) -> None:
    missing = client.get("/api/timeline/home")
    wrong = client.get("/api/trends", headers={"authorization": "Bearer nonsense"})

    assert (missing.status_code, wrong.status_code) == (401, 401)
    assert missing.json()["details"][0]["reason"] == "UNAUTHENTICATED"


def test_the_same_port_speaks_grpc(client: httpx.Client) -> None:
    person = sign_up(client, "grpc_person")
    metadata = (("authorization", f"Bearer {person.token}"),)
    with grpc.insecure_channel(str(client.base_url).removeprefix("http://").rstrip("/")) as channel:
        tweets = tweet_pb2_grpc.TweetServiceStub(channel)
        timelines = timeline_pb2_grpc.TimelineServiceStub(channel)

        tweet = tweets.CreateTweet(
            tweet_pb2.CreateTweetRequest(content="by gRPC"), metadata=metadata
        )
        page = timelines.GetHomeTimeline(timeline_pb2.GetHomeTimelineRequest(), metadata=metadata)
        with pytest.raises(grpc.RpcError) as refused:
            tweets.CreateTweet(tweet_pb2.CreateTweetRequest(content="no token"))

    assert [each.id for each in page.tweets] == [tweet.id]
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_public_keys_are_published(client: httpx.Client) -> None:
    answer = client.get("/.well-known/jwks.json")

    assert answer.headers["content-type"] == "application/json"
    (key,) = json.loads(answer.text)["keys"]
    assert (key["kty"], key["crv"], key["alg"]) == ("OKP", "Ed25519", "EdDSA")
    assert "d" not in key
