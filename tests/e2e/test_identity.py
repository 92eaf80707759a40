"""Keys that change and sessions that end, in a running `chirp up` of two replicas."""

import time
from collections.abc import Iterator

import httpx
import jwt
import pytest
from chirp_up import ChirpUp, command_line, descendants, ready, run_chirp

ACCOUNT = {"username": "ada", "password": "correct horse"}
LEAD_S = 3
FOLLOW_S = 60.0  # as promised
ENDED_S = 2.0
POLL_S = 0.2


@pytest.fixture(scope="module")
def up() -> Iterator[ChirpUp]:
    soon = {"CHIRP_KEY_LEAD_S": str(LEAD_S), "CHIRP_JWKS_CACHE_S": "1"}
    with ready("--replicas", "2", **soon) as running:
        httpx.post(f"{running.url}/api/users", json=ACCOUNT).raise_for_status()
        yield running


def sign_in(up: ChirpUp) -> str:
    answer = httpx.post(f"{up.url}/api/sessions", json=ACCOUNT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["accessToken"])


def statuses(up: ChirpUp, token: str) -> set[int]:
    """How a token is answered by every server, and by each replica of some."""
    bearer = {"authorization": f"Bearer {token}"}
    paths = ("/api/me", "/api/timeline/home", "/api/notifications", "/api/trends", "/api/me")
    found = {httpx.get(up.url + path, headers=bearer).status_code for path in paths}
    # A mention asks graph_server who that is: servers know each other, too.
    post = httpx.post(f"{up.url}/api/tweets", headers=bearer, json={"content": "hello @ada"})
    if post.status_code == 200:
        assert post.json()["mentions"], "tweet_server does not ask graph_server any more"
    return found | {post.status_code}


def key_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def keys(up: ChirpUp, *arguments: str) -> str:
    done = run_chirp("keys", *arguments, CHIRP_DATA=str(up.data))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_ended_session_is_refused_by_all_replicas_and_its_streams_end(up: ChirpUp) -> None:
    token, other = sign_in(up), sign_in(up)
    for _ in range(4):  # whichever replica is asked
        assert statuses(up, token) == {200}
    with httpx.stream(
        "GET", f"{up.url}/api/timeline/home:stream?access_token={token}", timeout=FOLLOW_S
    ) as stream:
        lines = stream.iter_lines()
        assert "heartbeat" in next(lines)

        bearer = {"authorization": f"Bearer {token}"}
        started = time.monotonic()
        httpx.delete(f"{up.url}/api/sessions/current", headers=bearer).raise_for_status()

        rest = list(lines)
        ended_s = time.monotonic() - started
    # Twice, so that every replica was asked.
    while [statuses(up, token) for _ in range(2)] != [{401}, {401}]:
        assert time.monotonic() - started < ENDED_S

    assert '"reason":"SESSION_ENDED"' in rest[-1].replace(" ", "")
    assert ended_s < ENDED_S
    assert statuses(up, other) == {200}


def processes(up: ChirpUp) -> dict[int, str]:
    """The processes and their command lines, without those that PostgreSQL has for connections and
    for its own housekeeping: they come and go."""
    lines = {process_id: command_line(process_id) for process_id in descendants(up.process.pid)}
    return {each: line for each, line in lines.items() if line and not line.startswith("postgres:")}


def test_keys_change_without_a_restart_and_without_a_refusal(up: ChirpUp) -> None:
    old = sign_in(up)
    before = processes(up)
    started = time.monotonic()

    assert "11 new keys" in keys(up, "rotate")
    while key_of(newest := sign_in(up)) == key_of(old):
        # Whoever signs in while keys change is let in at once, and who was in stays in.
        assert statuses(up, newest) == statuses(up, old) == {200}
        assert time.monotonic() - started < FOLLOW_S
        time.sleep(POLL_S)

    assert statuses(up, newest) == statuses(up, old) == {200}
    assert time.monotonic() - started < FOLLOW_S
    published = httpx.get(f"{up.url}/.well-known/jwks.json").json()["keys"]
    assert {key["kid"] for key in published} == {key_of(old), key_of(newest)}
    assert keys(up, "list").count("users") == 2
    assert processes(up) == before


def test_a_revoked_key_is_refused_soon_and_everybody_can_sign_in_again(up: ChirpUp) -> None:
    stolen = sign_in(up)
    assert statuses(up, stolen) == {200}

    keys(up, "rotate", "--revoke")

    deadline = time.monotonic() + FOLLOW_S
    while statuses(up, stolen) != {401}:
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
    # Twice, so that every replica was asked.
    while [statuses(up, token) for token in (sign_in(up), sign_in(up))] != [{200}, {200}]:
        assert time.monotonic() < deadline
        time.sleep(POLL_S)


def test_a_service_acts_under_its_own_name(up: ChirpUp) -> None:
    done = run_chirp("token", "--service", "timeline_server", CHIRP_DATA=str(up.data))

    token = done.stdout.strip()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == "service:timeline_server"
    # Never from outside.
    assert statuses(up, token) == {401}
    unknown = run_chirp("token", "--service", "nobody", CHIRP_DATA=str(up.data))
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("chirp: no service nobody; there are ")
