import asyncio
import time

import pytest

from mesh import server
from tests.e2e import gateway_stack
from tests.e2e.gateway_stack import NOT_SERVING, SERVING, Stack, stack, until_status

__all__ = ["stack"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("process", "service"),
    [
        ("graph_server", "chirp.v1.GraphService"),
        ("timeline_server", "chirp.v1.TimelineService"),
        ("outbox_relay", ""),
        ("fanout_worker", ""),
        ("trend_server", "chirp.v1.TrendService"),
        ("trend_worker", ""),
    ],
)
async def test_healthz_is_200_only_while_all_are_healthy(
    stack: Stack, process: str, service: str
) -> None:
    await stack.set_health(process, service, NOT_SERVING)
    down = await until_status(stack.rest, 503)
    await stack.set_health(process, service, SERVING)
    await until_status(stack.rest, 200)

    assert down.json()["details"][0]["reason"] == "UNAVAILABLE"


async def test_without_a_healthy_replica_nothing_is_sent(stack: Stack) -> None:
    await stack.set_health("tweet_server", "chirp.v1.TweetService", NOT_SERVING)
    await until_status(stack.rest, 503)
    stack.seen.clear()

    answer = await stack.rest.get("/api/tweets/5")
    await stack.set_health("tweet_server", "chirp.v1.TweetService", SERVING)
    await until_status(stack.rest, 200)

    assert answer.status_code == 503
    assert answer.json()["details"][0]["reason"] == "UNAVAILABLE"
    assert stack.seen == []
    assert (await stack.rest.get("/api/tweets/5")).status_code == 200


async def test_a_read_is_tried_again_and_a_write_is_not(stack: Stack) -> None:
    stack.seen.clear()

    await stack.rest.get(f"/api/tweets/{gateway_stack.DOWN}")
    await stack.rest.post("/api/tweets", json={"content": "down"}, headers=stack.bearer)

    calls = [seen.method for seen in stack.seen]
    assert calls == [*["TweetService/GetTweet"] * 3, "TweetService/CreateTweet"]


async def test_no_call_fails_while_a_replica_comes_and_drains(stack: Stack) -> None:
    failures: list[str] = []
    stopping = asyncio.Event()

    async def write_all_the_time() -> None:
        while not stopping.is_set():
            answer = await stack.rest.post(
                "/api/tweets", json={"content": "x"}, headers=stack.bearer
            )
            if answer.status_code != 200:
                failures.append(answer.text)

    spare_calls: list[gateway_stack.Seen] = []
    settings = stack.settings.model_copy(update={"listen": f"127.0.0.1:{stack.spare_port}"})
    writers = [asyncio.create_task(write_all_the_time()) for _ in range(3)]
    services = gateway_stack.bound("tweet_server", settings, spare_calls)
    async with server.serving(settings, services) as spare:
        async with asyncio.timeout(gateway_stack.HEALTH_TIMEOUT_S):
            while not spare_calls:
                await asyncio.sleep(0.01)
        # As mesh/server.py drains: calls may still come during the default delay, not after it.
        await spare.health.enter_graceful_shutdown()
        closed_at = time.monotonic() + type(settings).model_fields["drain_delay_s"].default
        while time.monotonic() < closed_at + 0.2:
            await stack.rest.get("/api/tweets/5")
    stopping.set()
    await asyncio.gather(*writers)

    assert failures == []
    assert max(call.at for call in spare_calls) < closed_at
