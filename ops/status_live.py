"""`chirp status` on a running stack: looks at all processes at once, shows what it saw, once or
again and again. What hangs costs a look `probes.TIMEOUT_S`, and shows as no answer."""

import asyncio
import http.client
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from mesh import settings as settings_module
from mesh.settings import Settings
from ops import probes, scrape, stack, status, status_screen
from ops.processes import KINDS, ProcessKind
from ops.scrape import Scrape
from ops.stack import Stack
from ops.status import Look, Report, Seen
from ops.status_screen import Style

WINDOW_S = 15.0
"""Rates and percentiles are of so long, once so long was watched: steady enough to read, and short
enough to see a change."""
SCRAPE_BYTES_MAX = 4_000_000
# Of Envoy's some thousand numbers, those that are shown.
ENVOY_STATS = (
    "/stats/prometheus?usedonly&filter="
    "http\\.gateway\\.downstream_rq_|server\\.(uptime|memory_physical_size)"
)

# On the terminal's second screen, which leaves what was there before as it was.
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, TO_END_OF_LINE, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


class StoppedError(Exception):
    """The stack that was watched has stopped."""


def show(*, once: bool, as_json: bool, interval_s: float) -> bool:
    """Shows the running stack; returns whether all processes serve. With `once`, or where standard
    output is no terminal, prints one table of the next `interval_s`; else shows it until Ctrl-C.
    Raises LookupError where no stack runs."""
    data = settings_module.load().data
    if stack.read(data) is None:
        raise LookupError(stack.NONE_RUNS)
    # The probes import these when they ask, which the first look would take for a silence.
    for name in ("grpc_health.v1.health_pb2_grpc", "psycopg", "storage.valkey_cluster"):
        importlib.import_module(name)
    style = _style()
    if once or as_json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        report, url = asyncio.run(_one(interval_s))
        if as_json:
            print(as_text(report, url))
        else:
            width = shutil.get_terminal_size((100, 24)).columns
            print("\n".join(status_screen.render(report, style, url=url, width=width)))
        return report.serving == len(report.rows)
    return asyncio.run(_live(interval_s, style))


def as_text(report: Report, url: str) -> str:
    """Returns a report as one line of JSON: the fields of `status.Report` and `status.Row`."""
    fields = asdict(report)
    for row in fields["rows"]:
        row["health"] = row["health"].value
    return json.dumps({"gateway": url, "serving": report.serving, **fields})


async def look(described: Stack, settings: Settings) -> Look:
    """Looks at every process of a stack, at all of them at once."""
    host, admin_port = _address(described.gateway_admin)
    seen = await asyncio.gather(
        _gateway(described, host, admin_port),
        *(
            _process(described, settings, kind, number)
            for kind in KINDS
            for number in range(1, len(described.ports[kind.name]) + 1)
        ),
        _store(described, "postgres", probes.postgres_answers(settings.database_url)),
        _store(described, "cache", probes.valkey_answers(settings.valkey_url)),
        _store(described, "eventlog", probes.valkey_answers(settings.eventlog_url)),
    )
    return Look(time.time(), seen)


async def _one(interval_s: float) -> tuple[Report, str]:
    described, settings = _running()
    before = await look(described, settings)
    await asyncio.sleep(interval_s)
    described, settings = _running()
    return status.report(before, await look(described, settings)), described.gateway


async def _live(interval_s: float, style: Style) -> bool:
    """Draws until Ctrl-C or SIGTERM, and at once when the window changes its size; the last table
    stays on the ordinary screen."""
    loop = asyncio.get_running_loop()
    drawing = asyncio.current_task()
    assert drawing is not None
    resized = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, drawing.cancel)
    loop.add_signal_handler(signal.SIGWINCH, resized.set)
    looks: deque[Look] = deque()
    rates: deque[float] = deque(maxlen=status_screen.HISTORY)
    report, url, problem = None, "", ""
    sys.stdout.write(ENTER)
    try:
        while True:
            described, settings = _running()
            url = described.gateway
            looks.append(await look(described, settings))
            while len(looks) > 2 and looks[1].at <= looks[-1].at - WINDOW_S:
                looks.popleft()
            if len(looks) > 1:
                report = status.report(looks[0], looks[-1])
                newest = status.report(looks[-2], looks[-1]).gateway
                rates.append((newest and newest.rate) or 0.0)
            due = loop.time() + (interval_s if report else min(interval_s, 1.0))
            while True:
                _draw(report, style, url, list(rates))
                try:
                    async with asyncio.timeout_at(due):
                        await resized.wait()
                except TimeoutError:
                    break
                resized.clear()
    except (asyncio.CancelledError, StoppedError) as reason:
        problem = str(reason)
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
    if report is not None:
        width = shutil.get_terminal_size().columns
        print("\n".join(status_screen.render(report, style, url=url, width=width)))
    if problem:
        raise LookupError(problem)
    return True


def _draw(report: Report | None, style: Style, url: str, rates: list[float]) -> None:
    width, height = shutil.get_terminal_size()
    lines = [f"chirp  {url}  looking"]
    if report is not None:
        # One line less than there are, so that nothing scrolls.
        lines = status_screen.render(
            report, style, url=url, width=width, height=height - 1, history=rates
        )
    sys.stdout.write(HOME + "".join(f"{line}{TO_END_OF_LINE}\r\n" for line in lines) + TO_END)
    sys.stdout.flush()


def _style() -> Style:
    """By https://no-color.org: NO_COLOR, where it is set and not empty, asks for none."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return Style(colour=colour and os.environ.get("TERM") != "dumb", unicode=unicode)


def _running() -> tuple[Stack, Settings]:
    # Again and again: restarts are told there, and a stack may be another one by now.
    described = stack.read(settings_module.load().data)
    if described is None:
        raise StoppedError("the stack has stopped")
    return described, stack.settings()


async def _gateway(described: Stack, host: str, admin_port: int) -> Seen:
    own_host, port = _address(described.gateway)
    answered, told = await asyncio.gather(
        probes.http_status(own_host, port, "/healthz"), _told(host, admin_port, ENVOY_STATS)
    )
    # 503 says that something behind it has nobody who serves, which has rows of its own.
    return _seen(described, status.GATEWAY, status.GATEWAY, answered in (200, 503), told)


async def _process(described: Stack, settings: Settings, kind: ProcessKind, number: int) -> Seen:
    port = described.ports[kind.name][number - 1]
    metrics_port = described.metrics_ports[kind.name][number - 1]
    serving, told = await asyncio.gather(
        probes.grpc_serving(f"127.0.0.1:{port}", name=kind.name, settings=settings),
        _told("127.0.0.1", metrics_port, "/metrics"),
    )
    return _seen(described, f"{kind.name}-{number}", kind.name, serving, told)


async def _store(described: Stack, name: str, answers: Coroutine[Any, Any, bool]) -> Seen:
    return _seen(described, name, name, await answers, None)


def _seen(described: Stack, name: str, kind: str, serving: bool, told: Scrape | None) -> Seen:
    return Seen(name, kind, serving, told, described.child_restarts.get(name))


async def _told(host: str, port: int, path: str) -> Scrape | None:
    try:
        async with asyncio.timeout(probes.TIMEOUT_S):
            text = await asyncio.to_thread(_get, host, port, path)
    except (OSError, TimeoutError, http.client.HTTPException):
        return None
    return scrape.parse(text)


def _get(host: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=probes.TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}")
        return answer.read(SCRAPE_BYTES_MAX).decode(errors="replace")
    finally:
        connection.close()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port
