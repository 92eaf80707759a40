"""Two looks at a stack, made into rows."""

from dataclasses import asdict, replace

import pytest

from mesh import catalogue, metrics
from mesh.metrics import Histogram, Metric, Sample
from ops import scrape, status
from ops.scrape import Scrape
from ops.status import Health, Look, Row, Seen

THEN, NOW = 10_000.0, 10_010.0
BEFORE_ALL = 9_000.0
HOME = ("TimelineService", "GetHomeTimeline")


def durations(metric: Metric, **counts: int) -> Histogram:
    """A histogram with so many observations of so many milliseconds: `_40=3`."""
    histogram = Histogram(metric)
    for milliseconds, count in counts.items():
        for _ in range(count):
            histogram.observe(int(milliseconds[1:]) / 1000)
    return histogram


def server(calls: int, failed: int = 0, *, started: float = BEFORE_ALL, **took: int) -> Scrape:
    seconds = durations(catalogue.RPC_SECONDS, **took)
    return told(
        Sample(catalogue.PROCESS_STARTED, started),
        Sample(catalogue.RPC_CALLS, calls, (*HOME, "OK")),
        Sample(catalogue.RPC_CALLS, failed, (*HOME, "UNAVAILABLE")),
        Sample(catalogue.RPC_CALLS, 7, (*HOME, "UNAUTHENTICATED")),
        Sample(catalogue.RPC_SECONDS, seconds, HOME),
        Sample(catalogue.OPEN_STREAMS, 4),
        Sample(catalogue.PROCESS_CPU, calls / 100),
        Sample(catalogue.PROCESS_MEMORY, 90_000_000),
    )


def told(*samples: Sample) -> Scrape:
    return scrape.parse(metrics.text(samples))


def one(before: Scrape | None, now: Scrape | None, kind: str = "timeline_server") -> Row:
    (row,) = status.report(
        Look(THEN, [Seen(f"{kind}-1", kind, True, before)]),
        Look(NOW, [Seen(f"{kind}-1", kind, now is not None, now, 2)]),
    ).rows
    return row


def test_a_server_has_rates_errors_and_percentiles_of_the_time_between() -> None:
    before = server(calls=1000, _900=1000)
    now = server(calls=1090, failed=10, _900=1000, _2=50, _40=50)

    row = one(before, now)

    assert asdict(row) == {
        "name": "timeline_server-1", "kind": "timeline_server", "health": Health.SERVING,
        "up_s": NOW - BEFORE_ALL, "rate": 10.0, "errors": 0.1, "p50_s": 0.0025,
        "p99_s": pytest.approx(0.0495), "lag": None, "streams": 4, "restarts": 2,
        "cpu": pytest.approx(0.09), "memory": 90_000_000,
    }  # fmt: skip


def test_where_nothing_was_called_there_is_no_share_of_errors_and_no_percentile() -> None:
    row = one(server(calls=5, _2=5), server(calls=5, _2=5))

    assert (row.rate, row.errors, row.p50_s, row.p99_s) == (0.0, None, None, None)


@pytest.mark.parametrize("before", [server(calls=1000, _900=1000), None])
def test_a_process_that_was_started_in_between_counts_from_its_start(
    before: Scrape | None,
) -> None:
    row = one(before, server(calls=20, started=NOW - 4, _40=20))

    assert row.up_s == 4
    assert row.rate == pytest.approx(2.7)
    assert row.p99_s is not None and row.p99_s < 0.05


def test_one_that_counted_more_than_before_since_its_start_counts_from_there_too() -> None:
    row = one(server(calls=10), server(calls=20, started=NOW - 4))

    assert row.rate == pytest.approx(2.7)


def test_one_that_was_silent_before_does_not_show_the_rates_of_its_whole_life() -> None:
    row = one(None, server(calls=1_000_000, _900=10))

    assert (row.health, row.rate, row.p99_s, row.cpu) == (Health.SERVING, None, None, None)
    assert (row.streams, row.memory) == (4, 90_000_000)


def test_a_process_that_does_not_answer_has_a_row_that_says_so() -> None:
    row = one(server(calls=5), None)

    assert row == Row(
        name="timeline_server-1", kind="timeline_server", health=Health.NO_ANSWER, restarts=2
    )


def test_one_that_tells_numbers_and_refuses_calls_is_not_serving() -> None:
    look = Look(NOW, [Seen("timeline_server-1", "timeline_server", False, server(calls=5))])

    (row,) = status.report(replace(look, at=THEN), look).rows

    assert row.health is Health.NOT_SERVING


def worker(handled: int, lag: int, letters: int = 0, **took: int) -> Scrape:
    seconds = durations(catalogue.EVENT_SECONDS, **took)
    return told(
        Sample(catalogue.PROCESS_STARTED, BEFORE_ALL),
        Sample(catalogue.EVENTS_HANDLED, handled, ("fanout", "0")),
        Sample(catalogue.EVENTS_HANDLED, 2 * handled, ("fanout", "1")),
        Sample(catalogue.EVENT_LAG, lag, ("fanout", "0")),
        Sample(catalogue.EVENT_LAG, lag + 1, ("fanout", "1")),
        Sample(catalogue.EVENT_SECONDS, seconds, ("fanout", "0")),
        Sample(catalogue.DEAD_LETTERS, letters, ("fanout",)),
    )


def test_a_worker_has_events_and_the_lag_of_its_group() -> None:
    row = one(worker(0, 9), worker(100, 20, _2=9, _7=1), "fanout_worker")

    assert (row.rate, row.lag, row.streams, row.errors) == (30.0, 41, None, None)
    assert row.p50_s == pytest.approx(0.005 * 5 / 9)


def test_the_relay_has_what_it_sent_and_what_it_has_not() -> None:
    def relay(sent: int, unsent: int) -> Scrape:
        started = Sample(catalogue.PROCESS_STARTED, BEFORE_ALL)
        unsent_now = Sample(catalogue.OUTBOX_UNSENT, unsent)
        return told(started, Sample(catalogue.OUTBOX_SENT, sent), unsent_now)

    row = one(relay(50, 0), relay(150, 8), "outbox_relay")

    assert (row.rate, row.lag, row.p99_s) == (10.0, 8, None)


def envoy(uptime: int, done: int, failed: int, slow: int) -> Scrape:
    ours = 'envoy_http_conn_manager_prefix="gateway"'
    time = f"envoy_http_downstream_rq_time_bucket{{{ours},"
    return scrape.parse(
        f"envoy_server_uptime{{}} {uptime}\n"
        f'envoy_http_downstream_rq_xx{{{ours},envoy_response_code_class="2"}} {done}\n'
        f'envoy_http_downstream_rq_xx{{{ours},envoy_response_code_class="5"}} {failed}\n'
        'envoy_http_downstream_rq_xx{envoy_http_conn_manager_prefix="admin",'
        f'envoy_response_code_class="5"}} {done}\n'
        f'{time}le="5"}} {done}\n{time}le="1000"}} {done + slow}\n{time}le="+Inf"}} {done + slow}\n'
    )


def test_the_gateway_has_what_clients_see() -> None:
    row = one(envoy(500, 10, 0, 0), envoy(510, 100, 10, 10), "gateway")

    assert (row.rate, row.errors, row.up_s) == (10.0, 0.1, 510)
    assert row.p50_s == pytest.approx(0.005 * 50 / 90)
    assert row.p99_s is not None and 0.5 < row.p99_s < 1
    assert row.cpu is None


def test_a_gateway_that_was_started_in_between_counts_from_its_start() -> None:
    assert one(envoy(500, 900, 0, 0), envoy(3, 30, 0, 0), "gateway").rate == 3.0


def test_the_head_sums_over_replicas_and_counts_a_groups_dead_letters_once() -> None:
    def look(at: float, home: Scrape, fanout: Scrape) -> Look:
        seen = [Seen(f"timeline_server-{n}", "timeline_server", True, home) for n in (1, 2)]
        seen += [Seen(f"fanout_worker-{n}", "fanout_worker", True, fanout) for n in (1, 2)]
        return Look(at, [*seen, Seen("postgres", "postgres", False)])

    report = status.report(
        look(THEN, server(calls=0), worker(0, 0)),
        look(NOW, server(calls=9, _40=9), worker(1, 0, letters=3)),
    )

    assert report.home_p99_s == pytest.approx(0.04975)
    assert report.freshness_p99_s is None
    assert report.dead_letters == 3
    assert (report.serving, len(report.rows), report.gateway) == (4, 5, None)
    assert report.window_s == 10
