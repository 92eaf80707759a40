"""What processes tell of themselves in numbers, as text in Prometheus' exposition format 0.0.4, by
HTTP at `CHIRP_METRICS_LISTEN`. `catalogue.py` declares every metric.

A number is asked for when somebody looks. What has to be counted meanwhile is a plain integer where
it happens, and a bisected bucket for a duration: a library's counter costs a lock and a look-up
each time, which a home read would feel (docs/decisions/0023-own-counters.md).
"""

import asyncio
import logging
from bisect import bisect_left
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
    """What a number means."""

    name: str
    kind: str
    """`counter`: only up, from 0 at the start of the process. `gauge`: up and down. `histogram`."""
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Of a histogram, the upper bounds of its buckets; one without a bound comes behind them."""


class Histogram:
    """How often something took how long."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, metric: Metric) -> None:
        self.bounds = metric.buckets
        self.counts = [0] * (len(metric.buckets) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class Sample:
    """A number now, with the value of each label in the order of the metric's."""

    metric: Metric
    value: float | Histogram
    labels: tuple[str, ...] = ()


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
            labels = [
                f'{name}="{_escaped(value)}"'
                for name, value in zip(metric.labels, sample.labels, strict=True)
            ]
            if isinstance(sample.value, Histogram):
                lines += _histogram(metric.name, labels, sample.value)
            else:
                lines.append(_line(metric.name, labels, sample.value))
    return "\n".join((*lines, ""))


def by_partition(
    metric: Metric, group: str, values: Mapping[int, int] | Mapping[int, Histogram]
) -> list[Sample]:
    """Returns a sample for each partition of a group."""
    return [
        Sample(metric, value, (group, str(partition)))
        for partition, value in sorted(values.items())
    ]


def of_cache(metric: Metric, cache: str, *, hits: int, misses: int) -> list[Sample]:
    """Returns the look-ups in a cache."""
    return [Sample(metric, hits, (cache, "hit")), Sample(metric, misses, (cache, "miss"))]


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
            body = text(await collect(collectors)).encode() if known else b""
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


async def collect(collectors: Sequence[Collector]) -> list[Sample]:
    """Asks all of them; what one cannot tell is missing."""
    samples: list[Sample] = []
    for ask in collectors:
        try:
            async with asyncio.timeout(COLLECT_S):
                samples += await ask()
        except Exception as error:  # noqa: BLE001 -- what is away must not hide the other numbers
            log.warning("a metric is missing: %s", type(error).__name__)
    return samples


def _histogram(name: str, labels: list[str], histogram: Histogram) -> list[str]:
    lines: list[str] = []
    count = 0
    bounds = (*(f"{bound:.15g}" for bound in histogram.bounds), "+Inf")
    for bound, counted in zip(bounds, histogram.counts, strict=True):
        count += counted
        lines.append(_line(f"{name}_bucket", [*labels, f'le="{bound}"'], count))
    lines.append(_line(f"{name}_sum", labels, histogram.total))
    lines.append(_line(f"{name}_count", labels, count))
    return lines


def _line(name: str, labels: list[str], value: float) -> str:
    told = f"{{{','.join(labels)}}}" if labels else ""
    return f"{name}{told} {value:.15g}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
