"""A real Prometheus on a port and in a folder of its own, and what asks it; no system service."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ops import embedded

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "observability"
REQUIRED = "CHIRP_TEST_REQUIRES_PROMETHEUS"
START_S = 30.0
NAME = re.compile(r"\b(?:chirp|envoy|process)[_:][\w:]+|\bup\b|\bALERTS\b")
_LABELS = re.compile(r'"[^"]*"|\{[^{}]*\}|\bby \([^()]*\)')


def binary(name: str) -> str:
    """Returns the path of `prometheus` or `promtool`; skips the test where it is not installed,
    unless it is required."""
    path = shutil.which(name)
    if path is None:
        missing = f"NOT RUN: {name} is not here; install Debian's package `prometheus`"
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(missing)
    return str(path)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs promtool."""
    return subprocess.run(
        [binary("promtool"), *arguments], capture_output=True, text=True, check=False
    )


def rules() -> list[dict[str, Any]]:
    """The rules, recording and alerting, of all groups."""
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The alerting rules."""
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    return json.loads((FOLDER / "dashboard.json").read_text())


def dashboard_queries() -> list[str]:
    """What the dashboard asks, with Grafana's variables replaced."""
    shown = dashboard()
    asking = [target for panel in shown["panels"] for target in panel.get("targets", [])]
    found = [each["expr"] for each in (*asking, *shown["annotations"]["list"])]
    return [query.replace("$__rate_interval", "1m") for query in found]


def names(queries: Iterable[str]) -> set[str]:
    """The metrics that queries name."""
    return {name for query in queries for name in NAME.findall(_LABELS.sub("", query))}


class Server:
    """A Prometheus that runs."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v1", timeout=10)

    def names(self) -> set[str]:
        """The names of all series that it has."""
        return set(self._asked("/label/__name__/values"))

    def query(self, expression: str) -> list[Any]:
        """What an instant query gives."""
        return self._asked("/query", query=expression)["result"]

    def rules(self) -> list[dict[str, Any]]:
        """The rules as it evaluates them."""
        return [rule for group in self._asked("/rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        """Closes connections."""
        self._client.close()

    def _asked(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(path, params=parameters)
        assert answer.status_code == 200, (parameters, answer.text)
        return answer.json()["data"]


@contextmanager
def running(configuration: Path, data: Path) -> Generator[Server]:
    """Starts a Prometheus, waits until it is ready, ends it on leaving."""
    url = f"127.0.0.1:{embedded.free_port()}"
    log = data.with_suffix(".log")
    with log.open("wb") as said:
        process = subprocess.Popen(
            [binary("prometheus"), f"--config.file={configuration}", f"--storage.tsdb.path={data}",
             f"--web.listen-address={url}", "--log.level=warn"],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
    server = Server(f"http://{url}")
    try:
        deadline = time.monotonic() + START_S
        while not _is_ready(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield server
    finally:
        server.close()
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"http://{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
