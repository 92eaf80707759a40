"""Two sides measured in turns, so that a change of the machine's mood hits both. CPU time is that
of a server's process, of all its threads."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench import tools
from bench.stack import BenchStack

TURNS = 5


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did in one turn."""

    requests: int
    seconds: float
    cpu_s: float

    @property
    def per_cpu_second(self) -> float:
        """Requests per CPU-second of the server."""
        return self.requests / self.cpu_s

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians over the turns; the ratio is one of two turns that followed each other."""

    chirp: float
    other: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Sides:
    """Chirp, and what it is compared with, turn by turn."""

    chirp: Sequence[Turn]
    other: Sequence[Turn]

    @property
    def per_cpu_second(self) -> Figure:
        """Requests per CPU-second of the server."""
        return self._figure([(c.per_cpu_second, o.per_cpu_second) for c, o in self._pairs()])

    @property
    def rate(self) -> Figure:
        """Requests per second."""
        return self._figure([(c.rate, o.rate) for c, o in self._pairs()])

    def _pairs(self) -> list[tuple[Turn, Turn]]:
        return list(zip(self.chirp, self.other, strict=True))

    def _figure(self, pairs: Sequence[tuple[float, float]]) -> Figure:
        return Figure(
            median(chirp for chirp, _ in pairs),
            median(other for _, other in pairs),
            median(chirp / other for chirp, other in pairs),
        )


@dataclass(frozen=True, slots=True)
class Side:
    """Where a side is loaded, and the process whose CPU time counts."""

    process: str
    port: int


Load = Callable[[int], Awaitable[tuple[int, float]]]
"""Loads the server at a port; returns how many requests it answered, and in how many seconds."""


async def in_turns(stack: BenchStack, chirp: Side, other: Side, load: Load) -> Sides:
    """Loads both sides in turns."""
    turns: dict[Side, list[Turn]] = {chirp: [], other: []}
    for _ in range(TURNS):
        for side, done in turns.items():
            before = tools.cpu_seconds(stack.process_id(side.process))
            requests, seconds = await load(side.port)
            cpu_s = tools.cpu_seconds(stack.process_id(side.process)) - before
            done.append(Turn(requests, seconds, cpu_s))
    return Sides(turns[chirp], turns[other])
