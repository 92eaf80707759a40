"""What a process tells in Prometheus' exposition format, read back: sums, and how long things took.
`chirp status` needs no more of it than this."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one process told at one moment: the samples of each name."""

    samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]

    def total(self, name: str, /, **labels: str) -> float | None:
        """Returns the sum of the samples that have these labels; None where there are none."""
        found = [value for told, value in self._of(name) if labels.items() <= told.items()]
        return sum(found) if found else None

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Returns the sums by the values of a label."""
        sums: dict[str, float] = {}
        for told, value in self._of(name):
            if label in told:
                sums[told[label]] = sums.get(told[label], 0.0) + value
        return sums

    def buckets(self, name: str, /, **labels: str) -> dict[float, float]:
        """Returns how many observations of a histogram were at most each bound, those of all its
        series that have these labels together; empty where there are none."""
        counts: dict[float, float] = {}
        for told, value in self._of(f"{name}_bucket"):
            if "le" in told and labels.items() <= told.items():
                bound = float(told["le"])
                counts[bound] = counts.get(bound, 0.0) + value
        return counts

    def _of(self, name: str) -> Sequence[tuple[Mapping[str, str], float]]:
        return self.samples.get(name, ())


@dataclass(frozen=True, slots=True)
class Between:
    """What a process told at two moments of one life of it. Of a process that began in between, the
    first is empty: its counters were 0 then."""

    before: Scrape
    now: Scrape

    def risen(self, name: str, /, **labels: str) -> float:
        """Returns by how much a counter rose, all its series that have these labels together."""
        was = self.before.total(name, **labels) or 0.0
        return max(0.0, (self.now.total(name, **labels) or 0.0) - was)

    def buckets(self, name: str, /, **labels: str) -> dict[float, float]:
        """Returns what each bucket of a histogram counted."""
        was = self.before.buckets(name, **labels)
        now = self.now.buckets(name, **labels)
        return {bound: max(0.0, count - was.get(bound, 0.0)) for bound, count in now.items()}


def parse(text: str) -> Scrape:
    """Reads the exposition format 0.0.4. Lines that are none of it are left out."""
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        name, labels, number = match.groups()
        try:
            value = float(number)
        except ValueError:
            continue
        told = {key: _plain(text) for key, text in _LABEL.findall(labels or "")}
        samples.setdefault(name, []).append((told, value))
    return Scrape(samples)


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Returns the value that this share of observations does not exceed, as Prometheus'
    histogram_quantile: even within a bucket; at most the largest finite bound. None where nothing
    was observed."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]] or not math.isinf(bounds[-1]):
        return None
    rank = share * buckets[bounds[-1]]
    low_bound, low_count = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > low_count:
            if math.isinf(bound):
                return low_bound
            return low_bound + (bound - low_bound) * (rank - low_count) / (count - low_count)
        low_bound, low_count = (low_bound if math.isinf(bound) else bound), count
    return low_bound


def _plain(text: str) -> str:
    return re.sub(r'\\[n"\\]', lambda found: _ESCAPED[found[0]], text)
