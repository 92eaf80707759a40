"""Metrics read back: what Chirp and Envoy write, and what is computed of it."""

import math

import pytest

from mesh import metrics
from mesh.metrics import Histogram, Metric, Sample
from ops import scrape
from ops.scrape import Between, Scrape

INF = math.inf
SECONDS = Metric("x_seconds", "histogram", "seconds", "A test.", ("method",), (0.1, 1.0))


def test_what_processes_write_is_read_back() -> None:
    took = Histogram(SECONDS)
    for value in (0.05, 0.5, 0.6, 7.0):
        took.observe(value)
    calls = Metric("x_total", "counter", "calls", "A test.", ("name",))
    odd = 'a"b\\c\nd, {e}'

    found = scrape.parse(metrics.text([Sample(SECONDS, took, ("Get",)), Sample(calls, 3, (odd,))]))

    assert found.buckets("x_seconds", method="Get") == {0.1: 1, 1.0: 3, INF: 4}
    assert found.buckets("x_seconds", method="Set") == {}
    assert found.total("x_seconds_sum") == pytest.approx(8.15)
    assert found.total("x_total", name=odd) == 3


def test_envoys_lines_are_read_and_those_of_nobody_left_out() -> None:
    found = scrape.parse(
        "# TYPE envoy_server_uptime gauge\nenvoy_server_uptime{} 31\n\n"
        'rq_xx{code="2",prefix="gateway"} 5\nrq_xx{code="5",prefix="gateway"} 1 1700000000000\n'
        'rq_xx{code="5",prefix="keys"} 9\nno number\nnan_total NaN\n}{ 1\nx{ 2\nx y\n'
    )

    assert found.total("envoy_server_uptime") == 31
    assert found.total("rq_xx", prefix="gateway") == 6
    assert found.total("rq_xx") == 15
    assert found.total("rq_xx", prefix="other") is None
    assert found.total("x") is None


def test_series_of_one_histogram_are_taken_together() -> None:
    text = "".join(
        f'x_bucket{{method="{method}",le="{bound}"}} {count}\n'
        for method, counts in (("Get", (1, 2)), ("Set", (3, 5)))
        for bound, count in zip(("0.1", "+Inf"), counts, strict=True)
    )

    assert scrape.parse(text).buckets("x") == {0.1: 4, INF: 7}


def test_what_rose_is_the_difference_and_never_negative() -> None:
    def told(count: float) -> Scrape:
        return scrape.parse(f'a_total{{code="OK"}} {count}\nb_bucket{{le="+Inf"}} {count}\n')

    assert Between(told(5), told(8)).risen("a_total") == 3
    assert Between(told(8), told(5)).risen("a_total") == 0
    assert Between(told(8), told(5)).buckets("b") == {INF: 0}
    assert Between(Scrape({}), told(5)).risen("a_total", code="OK") == 5
    assert Between(told(5), Scrape({})).risen("a_total") == 0


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 0.1), (0.25, 0.05), (0.75, 0.55), (0.99, 0.982), (1.0, 1.0)],
)
def test_a_quantile_is_even_within_its_bucket(share: float, expected: float) -> None:
    # Half below 0.1, half between 0.1 and 1.
    buckets = {0.1: 50.0, 1.0: 100.0, INF: 100.0}

    assert scrape.quantile(share, buckets) == pytest.approx(expected)


def test_a_quantile_is_at_most_the_largest_bound() -> None:
    assert scrape.quantile(0.99, {0.1: 1.0, 1.0: 1.0, INF: 100.0}) == 1.0


def test_empty_buckets_below_move_no_quantile() -> None:
    assert scrape.quantile(0.5, {0.1: 0.0, 0.2: 0.0, 0.4: 10.0, INF: 10.0}) == pytest.approx(0.3)


@pytest.mark.parametrize("buckets", [{}, {0.1: 0.0, INF: 0.0}, {0.1: 3.0}])
def test_of_nothing_there_is_no_quantile(buckets: dict[float, float]) -> None:
    assert scrape.quantile(0.5, buckets) is None
