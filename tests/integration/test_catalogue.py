"""The catalogue of metrics against what the processes tell, both ways, as Prometheus' own parser
reads it; and that no label can take many values."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from chirp.v1 import graph_pb2, timeline_pb2, tweet_pb2
from prometheus_client.parser import text_string_to_metric_families

from domain.rate import Kind
from mesh import catalogue
from mesh.access import RULES
from mesh.metrics import Metric
from mesh.settings import Settings
from tests.all_processes import Chirp, open_all
from tests.integration.accounts import Account

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 20.0
CREATE, HOME = "/chirp.v1.TweetService/CreateTweet", "/chirp.v1.TimelineService/GetHomeTimeline"
DELETE, FOLLOW = "/chirp.v1.TweetService/DeleteTweet", "/chirp.v1.GraphService/FollowUser"
STREAM = "/chirp.v1.TimelineService/StreamHomeTimeline"
PARTITIONS = 3

Samples = Mapping[str, list[Any]]
"""Samples as the parser gives them, by the name of their metric."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chirp(module_settings: Settings) -> AsyncGenerator[Chirp]:
    tiers = {"influencer_followers": 1, "celebrity_followers": 2, "tier_hysteresis": 1.0}
    settings = module_settings.model_copy(update={**tiers, "eventlog_partitions": PARTITIONS})
    async with open_all(settings) as opened:
        yield opened


async def scraped(chirp: Chirp, process: str) -> Samples:
    """Returns what a process tells, once it told all it can."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{chirp.metrics[process]}/metrics")).text
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a metric in two places"
    found: dict[str, list[Any]] = {}
    for family in families:
        # The parser takes `_total` off a counter's name.
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = KNOWN.get(name)
        assert metric is not None, f"{process} tells {name}, which the catalogue does not have"
        assert (metric.kind, metric.meaning) == (family.type, family.documentation), name
        found[name] = family.samples
    return found


async def everything(chirp: Chirp) -> dict[str, Samples]:
    return {process: await scraped(chirp, process) for process in chirp.metrics}


KNOWN = {metric.name: metric for metric in catalogue.METRICS}


async def play(chirp: Chirp, people: list[Account]) -> None:
    """Lets people do what moves the numbers: tweets of each tier, reads, refusals, a stream."""
    reader, fan, *authors = people
    for author, followers in zip(authors, ([], [reader], [reader, fan]), strict=True):
        for follower in followers:
            await chirp.call(FOLLOW, "graph_server")(
                graph_pb2.FollowUserRequest(id=author.id), metadata=follower.metadata
            )
    call = chirp.call(STREAM, "timeline_server")(
        timeline_pb2.StreamHomeTimelineRequest(), metadata=reader.metadata
    )
    await call.read()
    await home(chirp, reader)
    for author in authors:
        await chirp.call(CREATE, "tweet_server")(
            tweet_pb2.CreateTweetRequest(content="hello #chirp"), metadata=author.metadata
        )
    await call.read()
    call.cancel()
    await home(chirp, reader)
    with pytest.raises(grpc.aio.AioRpcError):
        await chirp.call(DELETE, "tweet_server")(
            tweet_pb2.DeleteTweetRequest(id=1), metadata=reader.metadata
        )
    with pytest.raises(grpc.aio.AioRpcError):
        await chirp.call(HOME, "timeline_server")(timeline_pb2.GetHomeTimelineRequest())


async def home(chirp: Chirp, reader: Account) -> None:
    await chirp.call(HOME, "timeline_server")(
        timeline_pb2.GetHomeTimelineRequest(), metadata=reader.metadata
    )


async def until_handled(chirp: Chirp) -> None:
    """Waits until no event waits for anybody."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            relay = await scraped(chirp, "outbox_relay")
            lag = [await scraped(chirp, f"{name}_worker") for name in ("fanout", "notification")]
            waiting = total(relay, catalogue.OUTBOX_UNSENT)
            waiting += sum(total(each, catalogue.EVENT_LAG) for each in lag)
            if not waiting:
                return
            await asyncio.sleep(0.02)


def total(samples: Samples, metric: Metric, suffix: str = "", **labels: str) -> float:
    """Returns the sum of the samples that have these labels."""
    return sum(
        sample.value
        for sample in samples[metric.name]
        if sample.name == metric.name + suffix and labels.items() <= sample.labels.items()
    )


async def test_processes_tell_what_the_catalogue_declares_and_nothing_else(chirp: Chirp) -> None:
    await play(chirp, await chirp.accounts.insert(5))
    await until_handled(chirp)

    told = await everything(chirp)

    names = {name for samples in told.values() for name in samples}
    assert KNOWN.keys() - names == set(), "declared, and told by no process"
    for process, samples in told.items():
        for name, found in samples.items():
            for sample in found:
                labels = set(sample.labels) - {"le"}
                assert labels == set(KNOWN[name].labels), f"{process}: {name}"


async def test_numbers_are_those_of_what_happened(chirp: Chirp) -> None:
    await until_handled(chirp)
    before = await everything(chirp)
    await play(chirp, await chirp.accounts.insert(5))
    await until_handled(chirp)
    after = await everything(chirp)

    def risen(process: str, metric: Metric, suffix: str = "", **labels: str) -> float:
        was = total(before[process], metric, suffix, **labels)
        return total(after[process], metric, suffix, **labels) - was

    tweets, timelines, fanout = "tweet_server", "timeline_server", "fanout_worker"
    assert risen(tweets, catalogue.RPC_CALLS, method="CreateTweet", code="OK") == 3
    assert risen(tweets, catalogue.RPC_SECONDS, "_count", method="CreateTweet") == 3
    assert 0 < risen(tweets, catalogue.RPC_SECONDS, "_sum", method="CreateTweet") < 60
    assert risen(tweets, catalogue.RPC_CALLS, method="DeleteTweet", code="NOT_FOUND") == 1
    assert risen(timelines, catalogue.RPC_CALLS, method="GetHomeTimeline", code="OK") == 2
    refused = {"method": "GetHomeTimeline", "code": "UNAUTHENTICATED"}
    assert risen(timelines, catalogue.RPC_CALLS, **refused) == 1
    assert risen(timelines, catalogue.RPC_CALLS, method="StreamHomeTimeline") == 1
    for tier in ("normal", "influencer", "celebrity"):
        assert risen(fanout, catalogue.FRESHNESS, "_count", tier=tier) == 1
    assert risen(fanout, catalogue.DELIVERIES, tier="influencer", way="pushed") == 1
    assert total(after[fanout], catalogue.RPC_IN_FLIGHT) == 0
    assert total(after[timelines], catalogue.OPEN_STREAMS) == 0
    assert total(after["outbox_relay"], catalogue.RELAY_LEADS) == 1
    assert risen("outbox_relay", catalogue.OUTBOX_SENT) == risen(
        fanout, catalogue.EVENTS_HANDLED, group="fanout"
    )
    assert risen(fanout, catalogue.EVENT_SECONDS, "_count", group="fanout") > 0
    assert risen(timelines, catalogue.POOL_REQUESTS) > 0
    assert risen(timelines, catalogue.CACHE_LOOKUPS, cache="viewers") > 0


async def test_labels_have_few_values(chirp: Chirp) -> None:
    told = await everything(chirp)

    for process, samples in told.items():
        for name, found in samples.items():
            for sample in found:
                for label, value in sample.labels.items():
                    if label != "le":
                        assert value in ALLOWED[label], f"{process}: {name} {label}={value}"
        assert sum(map(len, samples.values())) < 1_000, f"{process} tells too many series"


def values(*texts: str) -> frozenset[str]:
    return frozenset(texts)


def parts(place: int, paths: Iterable[str]) -> frozenset[str]:
    """Returns services or methods of the protos."""
    return frozenset(re.split(r"[./]", path)[place] for path in paths)


ALLOWED = {
    "service": parts(-2, RULES),
    "method": parts(-1, RULES),
    "code": frozenset(code.name for code in grpc.StatusCode),
    "kind": frozenset(kind.value for kind in Kind) | values("sign_in", "sign_up"),
    "cache": values("viewers", "names", "tweets", "tweet_records", "timelines", "recents"),
    "result": values("hit", "miss"),
    "state": values("idle", "used"),
    "group": values("fanout", "trends", "notifications"),
    "partition": frozenset(map(str, range(PARTITIONS))),
    "tier": values("normal", "influencer", "celebrity"),
    "way": values("pushed", "pulled"),
    "outcome": values("mended", "failed"),
}
"""Whatever a label may say. An account, an address or a text is in none of these."""
