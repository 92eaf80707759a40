"""The main job through the gateway of a real `chirp up --replicas 2`: REST and gRPC on one port."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from chirp.v1 import timeline_pb2, timeline_pb2_grpc, tweet_pb2, tweet_pb2_grpc

from tests.e2e.chirp_up import ChirpUp
from tests.e2e.people import PASSWORD, sign_up, until


@pytest.fixture(scope="module")
def client(shared: ChirpUp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url, timeout=10) as opened:
        yield opened


@pytest.fixture(scope="module")
def somebody(client: httpx.Client) -> dict[str, str]:
    """The headers of somebody's calls. Signed up once: sign-ups under one name are throttled."""
    answer = client.post("/api/users", json={"username": "wrong", "password": PASSWORD})
    return {"authorization": f"Bearer {answer.json()['accessToken']}"}


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
    follower.follow(author)
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
        "liked": False,
        "retweeted": False,
    }
    assert (reply["replyTo"], reply["conversationId"]) == (tweet["id"], tweet["id"])
    assert client.get(f"/api/tweets/{tweet['id']}").json()["replyCount"] == "1"


def test_the_short_form_posts_follows_and_reads(client: httpx.Client) -> None:
    author, reader = sign_up(client, "short_author"), sign_up(client, "short_reader")
    own = {"userId": author.id}

    follows = {"followerId": reader.id, "followeeId": author.id}
    assert reader.ask("POST", "/api/follow", follows) == {}
    answers = [author.ask("POST", "/api/tweet", own | {"content": f"no {n}"}) for n in range(3)]
    posted = [answer["tweetId"] for answer in answers]
    until(reader.home, posted[::-1])
    first = reader.ask("GET", "/api/feed", userId=reader.id, limit=2)
    rest = reader.ask("GET", "/api/feed", userId=reader.id, cursor=first["nextCursor"])

    assert all(answer["timestamp"].endswith("Z") for answer in answers)
    pages = [[tweet["id"] for tweet in page["tweets"]] for page in (first, rest)]
    assert pages == [posted[:0:-1], posted[:1]]
    assert (first["hasMore"], rest["hasMore"], rest["nextCursor"]) == (True, False, "")


def test_the_short_form_names_what_is_wrong(client: httpx.Client) -> None:
    person, other = sign_up(client, "short_person"), sign_up(client, "short_other")
    own = {"userId": person.id}
    for field, refused in (
        ("userId", person.call("POST", "/api/tweet", {"content": "whose?"})),
        ("content", person.call("POST", "/api/tweet", own)),
        ("media[0]", person.call("POST", "/api/tweet", own | {"content": "x", "media": ["x"]})),
        ("userId", person.call("GET", "/api/feed")),
        ("limit", person.call("GET", "/api/feed", userId=person.id, limit=0)),
        ("followerId", person.call("POST", "/api/follow", {"followeeId": other.id})),
        ("followeeId", person.call("POST", "/api/follow", {"followerId": person.id})),
    ):
        assert (refused.status_code, f'"field":"{field}"' in refused.text) == (400, True), field
    for refused in (
        other.call("POST", "/api/tweet", own | {"content": "not me"}),
        other.call("GET", "/api/feed", userId=person.id),
        other.call("POST", "/api/follow", {"followerId": person.id, "followeeId": other.id}),
    ):
        assert (refused.status_code, '"NOT_YOURS"' in refused.text) == (403, True), refused.text

    assert person.home() == []
    assert other.ask("GET", f"/api/users/{person.id}")["followingCount"] == "0"


def test_likes_retweets_and_their_lists(client: httpx.Client) -> None:
    author, fan = sign_up(client, "liked_author"), sign_up(client, "liking_fan")
    fan.follow(author)
    path = f"/api/tweets/{author.post('like me')['id']}"

    liked, retweeted = (
        [fan.call("POST", f"{path}/{action}").json() for _ in range(2)][-1]
        for action in ("like", "retweet")
    )
    assert (liked["likeCount"], liked["liked"]) == ("1", True)
    assert (retweeted["id"], retweeted["retweetCount"]) == (liked["id"], "1")
    assert (retweeted["liked"], retweeted["retweeted"]) == (True, True)
    anonymous = client.get(path).json()
    assert "liked" not in anonymous and "retweeted" not in anonymous
    author.call("POST", f"{path}/like")

    likers = client.get(f"{path}/likes", params={"limit": 1}).json()
    rest = fan.call("GET", f"{path}/likes", limit=1, cursor=likers["nextCursor"]).json()
    assert [user["id"] for user in likers["users"]] == [author.id]
    assert ([user["id"] for user in rest["users"]], rest["hasMore"]) == ([fan.id], False)
    assert "following" not in likers["users"][0] and rest["users"][0]["following"] is False
    retweeters = client.get(f"{path}/retweets").json()
    assert [user["username"] for user in retweeters["users"]] == ["liking_fan"]

    # The own retweet is an entry of the own timeline, and stands there with its original.
    of_fan = fan.call("GET", f"/api/timeline/user/{fan.id}").json()["tweets"]
    assert [tweet["retweetedTweet"]["liked"] for tweet in of_fan] == [True]
    unliked, undone = (
        [fan.call("DELETE", f"{path}/{action}").json() for _ in range(2)][-1]
        for action in ("like", "retweet")
    )
    assert (unliked["likeCount"], unliked["liked"]) == ("1", False)
    assert (undone["retweetCount"], undone["retweeted"]) == ("0", False)
    fan.call("POST", f"{path}/retweet")
    (redone,) = fan.call("GET", f"/api/timeline/user/{fan.id}").json()["tweets"]
    assert redone["id"] != of_fan[0]["id"]
    assert fan.call("DELETE", f"/api/tweets/{redone['id']}").json() == {}
    assert client.get(path).json()["retweetCount"] == "0"


def test_a_thread_with_its_gone_member(client: httpx.Client) -> None:
    author, other = sign_up(client, "thread_author"), sign_up(client, "thread_other")
    root = author.post("root")["id"]
    middle = other.post("middle", replyTo=root)["id"]
    last = author.post("last", replyTo=middle, quoteOf=root)["id"]
    replies = [other.post(f"reply {n}", replyTo=last)["id"] for n in range(3)]
    author.call("POST", f"/api/tweets/{root}/like")
    other.call("DELETE", f"/api/tweets/{middle}")

    first = author.call("GET", f"/api/tweets/{last}/thread", limit=2).json()
    rest = client.get(
        f"/api/tweets/{last}/thread", params={"limit": 2, "cursor": first["nextCursor"]}
    ).json()

    assert [tweet["id"] for tweet in first["ancestors"]] == [root, middle]
    gone = first["ancestors"][1]
    assert (gone["gone"], gone["content"], gone["replyTo"]) == (True, "", root)
    assert first["ancestors"][0]["liked"] is True
    assert (first["tweet"]["id"], first["tweet"]["quotedTweet"]["id"]) == (last, root)
    pages = [[tweet["id"] for tweet in page["replies"]] for page in (first, rest)]
    assert pages == [replies[:2], replies[2:]]
    assert (first["hasMore"], rest["hasMore"], rest["nextCursor"]) == (True, False, "")
    members = (*first["ancestors"], first["tweet"], *first["replies"])
    assert {tweet["conversationId"] for tweet in members} == {root}
    assert client.get(f"/api/tweets/{middle}/thread").status_code == 404


def test_blocks_mutes_and_explanations(client: httpx.Client) -> None:
    author, blocker = sign_up(client, "block_author"), sign_up(client, "block_blocker")
    blocker.follow(author)
    tweet, own = author.post("read me")["id"], blocker.post("own")["id"]
    until(blocker.home, [own, tweet])

    def explained() -> tuple[bool, str]:
        path = "/api/timeline/home:explain"
        answer = blocker.call("GET", path, tweetId=tweet).json()
        assert answer["sentence"]
        return answer["shown"], answer["reason"]

    assert explained() == (True, "EXPLAIN_REASON_SHOWN")
    assert blocker.call("POST", f"/api/users/{author.id}/mute").json()["muted"] is True
    until(blocker.home, [own])
    assert explained() == (False, "EXPLAIN_REASON_MUTED")
    assert blocker.call("DELETE", f"/api/users/{author.id}/mute").json()["muted"] is False
    until(blocker.home, [own, tweet])

    blocked = blocker.call("POST", f"/api/users/{author.id}/block").json()
    assert (blocked["blocked"], blocked["following"]) == (True, False)
    until(blocker.home, [own])
    for who, path, body in (
        (author, f"/api/tweets/{own}/like", None),
        (blocker, f"/api/tweets/{tweet}/retweet", None),
        (author, "/api/tweets", {"content": "x", "replyTo": own}),
        (blocker, "/api/tweets", {"content": "x", "quoteOf": tweet}),
        (author, f"/api/users/{blocker.id}/follow", None),
    ):
        refused = who.call("POST", path, body)
        assert refused.status_code == 403, refused.text
        assert refused.json()["details"][0]["reason"] == "BLOCKED"
    assert author.call("GET", f"/api/tweets/{own}").status_code == 200
    assert blocker.call("DELETE", f"/api/users/{author.id}/block").json()["blocked"] is False
    assert author.call("POST", f"/api/tweets/{own}/like").json()["likeCount"] == "1"
    own_block = author.call("POST", f"/api/users/{author.id}/block")
    assert (own_block.status_code, own_block.json()["details"][0]["reason"]) == (400, "SELF_BLOCK")


def test_a_deleted_tweet_is_gone_everywhere(client: httpx.Client) -> None:
    author, follower = sign_up(client, "gone_author"), sign_up(client, "gone_follower")
    follower.follow(author)
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
        ("POST", "/api/tweets/1/like", 404, "TWEET_NOT_FOUND", None),
        ("DELETE", "/api/tweets/1/retweet", 404, "TWEET_NOT_FOUND", None),
        ("POST", "/api/tweets/-1/retweet", 400, "INVALID_ARGUMENT", "id"),
        ("GET", "/api/tweets/1/thread?limit=0", 400, "INVALID_ARGUMENT", "limit"),
        ("GET", "/api/tweets/1/likes?cursor=broken", 400, "INVALID_ARGUMENT", "cursor"),
        ("GET", "/api/timeline/home:explain", 400, "INVALID_ARGUMENT", "tweetId"),
        ("POST", "/api/users/1/mute", 404, "USER_NOT_FOUND", None),
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
    client: httpx.Client,
    somebody: dict[str, str],
    method: str,
    path: str,
    status: int,
    reason: str,
    field: str | None,
) -> None:
    answer = client.request(method, path, json={}, headers=somebody)

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
