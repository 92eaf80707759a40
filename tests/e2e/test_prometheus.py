"""A real Prometheus over a running `chirp up`: it reaches every process, evaluates every rule, and
has every metric that the rules and the dashboard name."""

import math
import time
from collections.abc import Iterator

import httpx
import pytest

from mesh.catalogue import METRICS
from ops.processes import KINDS
from tests import prometheus
from tests.e2e.chirp_up import ChirpUp, run_chirp
from tests.e2e.people import Person, sign_up, until
from tests.prometheus import Server

WITHIN_S = 40.0
OBJECTIVES = ("availability", "home_latency", "freshness", "event_lag")
RATIOS = [f"chirp:{name}_errors:ratio_5m" for name in OBJECTIVES]
# Queries that have data only once something went wrong. Counters of errors do not belong here: the
# catalogue declares them, and they are told from the start, at 0; a code is once it was answered.
ON_FAILURE = (
    "ALERTS",
    'chirp_rpc_calls_total{code!="OK"}',
)


@pytest.fixture(scope="module")
def server(shared: ChirpUp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Looks 5 times a second, so that the test need not wait."""
    folder = tmp_path_factory.mktemp("prometheus")
    done = run_chirp("prometheus-config", str(folder), CHIRP_DATA=str(shared.data))
    assert done.returncode == 0, done.stderr
    configuration = folder / "prometheus.yml"
    checked = prometheus.promtool("check", "config", str(configuration))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    text = configuration.read_text()
    configuration.write_text(text.replace("_interval: 15s", "_interval: 200ms"))
    with prometheus.running(configuration, folder / "data") as running:
        yield running


@pytest.fixture(scope="module")
def client(shared: ChirpUp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url, timeout=10) as opened:
        yield opened


def live_a_little(author: Person, follower: Person) -> None:
    """Lets two people do what moves the numbers."""
    posted = author.post("seen by Prometheus")["id"]

    def newest() -> list[str]:
        page = follower.ask("GET", "/api/timeline/home", limit=1)
        return [tweet["id"] for tweet in page["tweets"]]

    until(newest, [posted])
    follower.ask("POST", f"/api/tweets/{posted}/like")


def value_of(server: Server, expression: str) -> float:
    """The one number; none where there is none yet, or it is nothing by nothing."""
    found = server.query(expression)
    return float(found[0]["value"][1]) if found else math.nan


def test_it_has_every_metric_and_answers_every_query_of_the_dashboard(
    server: Server, client: httpx.Client
) -> None:
    author, follower = (sign_up(client, f"{name}_{time.monotonic_ns()}") for name in "ab")
    follower.follow(author)
    queries = prometheus.dashboard_queries()
    quiet = [query for query in queries if any(about in query for about in ON_FAILURE)]
    wanted = {f"{m.name}_bucket" if m.kind == "histogram" else m.name for m in METRICS}
    wanted |= prometheus.names([*queries, *(rule["expr"] for rule in prometheus.rules())])
    wanted |= {rule["record"] for rule in prometheus.rules() if "record" in rule}
    wanted -= {"ALERTS"}

    deadline = time.monotonic() + WITHIN_S
    while True:
        live_a_little(author, follower)
        missing = wanted - server.names()
        empty = [query for query in queries if query not in quiet and not server.query(query)]
        ratios = [value_of(server, name) for name in RATIOS]
        if not missing and not empty and not any(map(math.isnan, ratios)):
            break
        assert time.monotonic() < deadline, (missing, empty, ratios)
        time.sleep(0.2)
    for query in quiet:
        server.query(query)

    assert len(quiet) == len(ON_FAILURE)
    assert value_of(server, "count(up == 1)") == 2 * len(KINDS) + 1
    assert all(0 <= ratio <= 1 for ratio in ratios)


def test_it_evaluates_every_rule(server: Server) -> None:
    deadline = time.monotonic() + WITHIN_S
    rules = server.rules()
    while any(rule["health"] == "unknown" for rule in rules):
        assert time.monotonic() < deadline, rules
        time.sleep(0.1)
        rules = server.rules()

    assert len(rules) == len(prometheus.rules())
    assert [rule for rule in rules if rule["health"] != "ok"] == []
