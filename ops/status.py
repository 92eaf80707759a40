"""`chirp status`, its pure part: what processes told at two moments, made into rows.

A look is what was seen at one moment; a report compares two. Rates and percentiles are those of the
time between them. A process that was started in between counts from its own start, so nothing is
negative; one that was not heard at the first moment has no rates, rather than those of its life.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from mesh import catalogue
from ops import scrape
from ops.scrape import Between, Scrape

GATEWAY, RELAY = "gateway", "outbox_relay"
FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""Status codes that are the server's fault, not the caller's."""
NOTHING = Scrape({})
# Envoy's names, of the listener for clients. Its durations are in milliseconds.
ENVOY_ANSWERS = "envoy_http_downstream_rq_xx"
ENVOY_MILLISECONDS = "envoy_http_downstream_rq_time"
ENVOY_UPTIME = "envoy_server_uptime"
ENVOY_MEMORY = "envoy_server_memory_physical_size"
CLIENTS = {"envoy_http_conn_manager_prefix": "gateway"}


class Health(Enum):
    """What a process says of itself, or that it says nothing."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Seen:
    """One process at one moment."""

    name: str
    """Such as `tweet_server-1`, `gateway`, `postgres`."""
    kind: str
    """Such as `tweet_server`; of a store its name."""
    serving: bool
    """Whether it says that it serves."""
    told: Scrape | None = None
    """Its metrics; None where it has none, or does not answer."""
    restarts: int | None = None
    """How often it died and was started again; None where somebody else supervises it."""


@dataclass(frozen=True, slots=True)
class Look:
    """All processes at one moment."""

    at: float
    """Seconds since 1970."""
    seen: Sequence[Seen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One process. None says that it does not tell, or that nothing happened."""

    name: str
    kind: str
    health: Health
    up_s: float | None = None
    rate: float | None = None
    """A second: requests of the gateway, calls of a server, events of a worker."""
    errors: float | None = None
    """The share of them that failed by the server's fault."""
    p50_s: float | None = None
    p99_s: float | None = None
    """Of calls; of a worker's batches of events. At most the histogram's largest bound."""
    lag: int | None = None
    """Events that wait for the worker's whole group; of the relay, those not sent."""
    streams: int | None = None
    restarts: int | None = None
    cpu: float | None = None
    """Cores."""
    memory: int | None = None
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `chirp status` shows."""

    at: float
    window_s: float
    """The time between the two looks."""
    rows: Sequence[Row]
    home_p99_s: float | None
    """Of home timelines, over all servers."""
    freshness_p99_s: float | None
    """From a post to its being where readers find it, over all tiers."""
    dead_letters: int

    @property
    def serving(self) -> int:
        """How many processes serve."""
        return sum(row.health is Health.SERVING for row in self.rows)

    @property
    def gateway(self) -> Row | None:
        """The gateway's row."""
        return next((row for row in self.rows if row.kind == GATEWAY), None)


def report(before: Look, now: Look) -> Report:
    """Compares two looks at the same stack."""
    window_s = max(now.at - before.at, 1e-3)
    earlier = {seen.name: seen.told for seen in before.seen}
    rows: list[Row] = []
    home: dict[float, float] = {}
    fresh: dict[float, float] = {}
    letters: dict[str, int] = {}
    for seen in now.seen:
        row = _standing(seen, now.at)
        between = _between(earlier.get(seen.name), seen.told, row.up_s, window_s)
        if between is not None:
            row = _moving(row, between, window_s)
            _add(home, between.buckets(catalogue.RPC_SECONDS.name, method="GetHomeTimeline"))
            _add(fresh, between.buckets(catalogue.FRESHNESS.name))
        if seen.told is not None:
            # Each member of a group tells the whole group's.
            kept = int(seen.told.total(catalogue.DEAD_LETTERS.name) or 0)
            letters[seen.kind] = max(letters.get(seen.kind, 0), kept)
        rows.append(row)
    return Report(
        at=now.at,
        window_s=window_s,
        rows=rows,
        home_p99_s=scrape.quantile(0.99, home),
        freshness_p99_s=scrape.quantile(0.99, fresh),
        dead_letters=sum(letters.values()),
    )


def _standing(seen: Seen, at: float) -> Row:
    """What needs no earlier look."""
    told = seen.told or NOTHING
    if seen.serving:
        health = Health.SERVING
    else:
        health = Health.NO_ANSWER if seen.told is None else Health.NOT_SERVING
    started = told.total(catalogue.PROCESS_STARTED.name)
    up_s = told.total(ENVOY_UPTIME) if started is None else max(0.0, at - started)
    waiting = catalogue.OUTBOX_UNSENT if seen.kind == RELAY else catalogue.EVENT_LAG
    memory = told.total(catalogue.PROCESS_MEMORY.name) or told.total(ENVOY_MEMORY)
    return Row(
        name=seen.name,
        kind=seen.kind,
        health=health,
        up_s=up_s,
        lag=_whole(told.total(waiting.name)),
        streams=_whole(told.total(catalogue.OPEN_STREAMS.name)),
        restarts=seen.restarts,
        memory=_whole(memory),
    )


def _between(
    before: Scrape | None, now: Scrape | None, up_s: float | None, window_s: float
) -> Between | None:
    if now is None or up_s is None:
        return None
    if up_s < window_s:
        return Between(NOTHING, now)
    return None if before is None else Between(before, now)


def _moving(row: Row, between: Between, window_s: float) -> Row:
    """Adds what happened between the looks."""
    errors: float | None = None
    if row.kind == GATEWAY:
        done = between.risen(ENVOY_ANSWERS, **CLIENTS)
        failed = between.risen(ENVOY_ANSWERS, **CLIENTS, envoy_response_code_class="5")
        milliseconds = between.buckets(ENVOY_MILLISECONDS, **CLIENTS)
        buckets = {bound / 1000: count for bound, count in milliseconds.items()}
        errors = failed / done if done else None
    elif row.kind.endswith("_server"):
        done = between.risen(catalogue.RPC_CALLS.name)
        failed = sum(between.risen(catalogue.RPC_CALLS.name, code=code) for code in FAULTS)
        buckets = between.buckets(catalogue.RPC_SECONDS.name)
        errors = failed / done if done else None
    else:
        handled = catalogue.OUTBOX_SENT if row.kind == RELAY else catalogue.EVENTS_HANDLED
        done = between.risen(handled.name)
        buckets = between.buckets(catalogue.EVENT_SECONDS.name)
    cpu_s = between.risen(catalogue.PROCESS_CPU.name)
    tells_cpu = between.now.total(catalogue.PROCESS_CPU.name) is not None
    return replace(
        row,
        rate=done / window_s,
        errors=errors,
        p50_s=scrape.quantile(0.5, buckets),
        p99_s=scrape.quantile(0.99, buckets),
        cpu=cpu_s / window_s if tells_cpu else None,
    )


def _add(sums: dict[float, float], more: Mapping[float, float]) -> None:
    for bound, count in more.items():
        sums[bound] = sums.get(bound, 0.0) + count


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
