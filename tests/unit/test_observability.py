"""deploy/observability: rules, their tests, the dashboard, and the page that says what to do."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh import catalogue
from ops.processes import KINDS
from ops.prometheus import write
from ops.stack import Stack
from tests import prometheus
from tests.prometheus import FOLDER

ROOT = FOLDER.parent.parent
OPERATIONS = ROOT / "docs" / "operations.md"
RULES = prometheus.rules()
ALERTS = prometheus.alerts()
TESTS = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
# Of Prometheus itself, and of Envoy as of the release that Chirp runs.
OTHERS = {
    "up",
    "ALERTS",
    "envoy_http_downstream_rq_xx",
    "envoy_http_downstream_rq_time_bucket",
}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_alerts_fire_and_are_silent_as_their_tests_say() -> None:
    done = prometheus.promtool("test", "rules", str(FOLDER / "rules_test.yaml"))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted({rule["alert"] for rule in ALERTS}))
def test_every_alert_is_shown_to_fire_and_to_be_silent(name: str) -> None:
    tried = [case for test in TESTS for case in test["alert_rule_test"]]
    cases = [case for case in tried if case["alertname"] == name]
    fired = {alert["exp_labels"]["severity"] for case in cases for alert in case["exp_alerts"]}

    assert fired == {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name}
    assert any(not case["exp_alerts"] for case in cases)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']}")
def test_every_alert_says_who_is_called_and_has_its_section_in_the_page(
    rule: dict[str, Any],
) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert ROOT / page == OPERATIONS
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(OPERATIONS)


def test_the_page_has_no_section_of_an_alert_that_is_none() -> None:
    named = {anchor for anchor in anchors(OPERATIONS) if re.fullmatch(r"chirp[a-z]+", anchor)}

    assert named == {rule["alert"].lower() for rule in ALERTS}


@pytest.mark.parametrize("objective", ["availability", "home_latency", "freshness", "event_lag"])
def test_the_windows_of_an_objective_are_of_the_same_ratio(objective: str) -> None:
    window = re.compile(r"ratio_(\w+)")
    ratios = {
        match[1]: rule["expr"]
        for rule in RULES
        if (match := window.search(rule.get("record", ""))) and objective in rule["record"]
    }
    plain = [expr.replace(f"[{name}]", "[]") for name, expr in ratios.items()]

    assert set(ratios) == {"5m", "30m", "1h", "6h", "3d"}
    assert all(one == other for one, other in pairwise(plain))
    assert all(f"[{name}]" in expr for name, expr in ratios.items())


def test_whatever_is_named_is_declared() -> None:
    histograms = {metric.name for metric in catalogue.METRICS if metric.kind == "histogram"}
    declared = {metric.name for metric in catalogue.METRICS} - histograms
    declared |= {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    declared |= {rule["record"] for rule in RULES if "record" in rule} | OTHERS

    named = prometheus.names([*prometheus.dashboard_queries(), *(rule["expr"] for rule in RULES)])

    assert named - declared == set()
    assert len(named) > 40


def test_panels_lie_beside_each_other_and_say_what_they_show() -> None:
    panels = prometheus.dashboard()["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])


def test_prometheus_is_told_of_every_process_of_a_stack(tmp_path: Path) -> None:
    ports = {kind.name: [21_000 + n, 22_000 + n] for n, kind in enumerate(KINDS)}
    described = Stack(1, "http://127.0.0.1:8080", "http://127.0.0.1:9901", {}, {}, ports)

    write(tmp_path, described)
    done = prometheus.promtool("check", "config", str(tmp_path / "prometheus.yml"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    told = yaml.safe_load((tmp_path / "targets.json").read_text())
    assert len(told) == 2 * len(KINDS)
    assert told[1] == {
        "targets": ["127.0.0.1:22000"],
        "labels": {"process": KINDS[0].name, "replica": f"{KINDS[0].name}-2"},
    }


def test_on_kubernetes_the_jobs_and_labels_are_the_same(tmp_path: Path) -> None:
    here = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    there = yaml.safe_load((FOLDER / "kubernetes.yml").read_text())
    for job in there["scrape_configs"]:
        # Debian's build does not know Kubernetes.
        assert [each["role"] for each in job.pop("kubernetes_sd_configs")] == ["pod"]
        labels = {each.get("target_label") for each in job["relabel_configs"]}
        assert {"process", "replica"} <= labels
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump({**there, "rule_files": []}))

    done = prometheus.promtool("check", "config", str(tmp_path / "kubernetes.yml"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert [job["job_name"] for job in there["scrape_configs"]] == [
        job["job_name"] for job in here["scrape_configs"]
    ]
