"""The catalogue of metrics keeps to Prometheus' conventions, and docs/metrics.md is made of it."""

import re

import pytest

from mesh.catalogue import METRICS
from mesh.metrics import Metric
from ops import metrics_page


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_names_its_kind_and_unit(metric: Metric):
    assert re.fullmatch(r"(chirp|process)_[a-z_]+", metric.name)
    assert metric.kind in ("counter", "gauge", "histogram")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert "seconds" in metric.name or not metric.unit.startswith("seconds")
    assert metric.meaning.endswith(".")
    assert "\n" not in metric.meaning
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_no_name_stands_for_two_metrics():
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 30


def test_the_page_is_made_of_the_catalogue():
    assert metrics_page.PAGE.read_text() == metrics_page.render()
