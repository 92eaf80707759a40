"""What processes tell of themselves in numbers, as text in Prometheus' exposition format 0.0.4, by
HTTP at `CHIRP_METRICS_LISTEN`. Every metric is declared here, with its kind, unit and meaning.

A number is asked for when somebody looks, so nothing is counted for nobody. Labels have few values:
a group, a partition; never an account or a text.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PATH: Final = b"/metrics"
REQUEST_BYTES_MAX = 8_192
# Whoever asks is a program on our own network; one that hangs must not be waited for.
REQUEST_S = 5.0
COLLECT_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means. A gauge goes up and down, a counter only up."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A number now, with the value of each label in the order of the metric's."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


EVENT_LAG: Final = Metric(
    "chirp_event_lag_records",
    "gauge",
    "Records of a partition of the event log that a consumer group has not handled. Each member of"
    " the group tells it for the whole group.",
    ("group", "partition"),
)
OPEN_STREAMS: Final = Metric(
    "chirp_open_streams", "gauge", "Server streams that are open in this process."
)
TREND_USES_DROPPED: Final = Metric(
    "chirp_trend_uses_dropped_total",
    "counter",
    "Uses of hashtags that this trend worker dropped since its start, because there were more than"
    " it may keep (CHIRP_TREND_USES_MAX).",
)

SIGN_INS_REFUSED: Final = Metric(
    "chirp_sign_ins_refused_total",
    "counter",
    "Sign-ins and sign-ups that this server refused because a name or an address had too many.",
    ("kind",),
)
SIGN_INS_UNCHECKED: Final = Metric(
    "chirp_sign_ins_unchecked_total",
    "counter",
    "Sign-ins and sign-ups that this server let through uncounted, because the cache Valkey did not"
    " answer.",
    ("kind",),
)
RATES_REFUSED: Final = Metric(
    "chirp_rate_limited_total",
    "counter",
    "Calls that this server refused because the account had used its quota of the kind.",
    ("kind",),
)
RATES_UNCHECKED: Final = Metric(
    "chirp_rate_unchecked_total",
    "counter",
    "Calls that this server let through without counting them for all replicas, because the cache"
    " Valkey did not answer.",
    ("kind",),
)

Collector = Callable[[], Awaitable[Sequence[Sample]]]
"""Asks for numbers. What it raises is logged, and its numbers are missing from the answer."""


def text(samples: Iterable[Sample]) -> str:
    """Returns samples in the exposition format, those of one metric together."""
    of_metric: dict[Metric, list[Sample]] = {}
    for sample in samples:
        of_metric.setdefault(sample.metric, []).append(sample)
    lines: list[str] = []
    for metric, found in of_metric.items():
        lines += [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} {metric.kind}"]
        for sample in found:
            labels = ",".join(
                f'{name}="{_escaped(value)}"'
                for name, value in zip(metric.labels, sample.labels, strict=True)
            )
            lines.append(f"{metric.name}{f'{{{labels}}}' if labels else ''} {sample.value:.15g}")
    return "\n".join((*lines, ""))


def by_partition(metric: Metric, group: str, values: Mapping[int, int]) -> list[Sample]:
    """Returns a sample for each partition of a group."""
    return [
        Sample(metric, value, (group, str(partition)))
        for partition, value in sorted(values.items())
    ]


@asynccontextmanager
async def exposing(listen: str, collectors: Sequence[Collector]) -> AsyncGenerator[int]:
    """Answers `GET /metrics` at an address; yields the port. Does nothing where it is empty, and
    yields 0. Raises OSError where the address is taken."""
    if not listen:
        yield 0
        return
    host, _, port = listen.rpartition(":")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
            known = head.split(b" ", 2)[:2] == [b"GET", PATH]
            body = (await _collect(collectors)).encode() if known else b""
            status = "200 OK" if known else "404 Not Found"
            writer.write(
                f"HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                + body
            )
            async with asyncio.timeout(REQUEST_S):
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or does not speak HTTP
        finally:
            writer.close()

    server = await asyncio.start_server(
        answer, host.strip("[]"), int(port), limit=REQUEST_BYTES_MAX
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _collect(collectors: Sequence[Collector]) -> str:
    samples: list[Sample] = []
    for collect in collectors:
        try:
            async with asyncio.timeout(COLLECT_S):
                samples += await collect()
        except Exception as error:  # noqa: BLE001 -- what is away must not hide the other numbers
            log.warning("a metric is missing: %s", type(error).__name__)
    return text(samples)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
