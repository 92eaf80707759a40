"""Counts the calls of each method: how many, how long, what became of them.

The outermost coroutine around a method, so that whatever ends a call is counted. On a home read it
must not be felt: two looks at the clock, a bisection, three additions.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, Final

import grpc

from mesh import catalogue
from mesh.intake import UNLIMITED, Intake
from mesh.metrics import Histogram, Sample

_OK: Final = 0
_CANCELLED: Final = 1
_UNKNOWN: Final = 2
_CODE_NAMES: Final = {int(code.value[0]): code.name for code in grpc.StatusCode}

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Calls:
    """The calls of one method since the start of the process."""

    __slots__ = ("_codes", "_method", "_seconds", "_service", "_streams", "intake")

    def __init__(self, service: str, method: str, *, streams: bool) -> None:
        self.intake = Intake(UNLIMITED)
        """The process's, set by the server that takes the calls."""
        self._service = service
        self._method = method
        self._streams = streams
        # By number: of 17 codes, each look-up is one into a list.
        self._codes = [0] * (max(_CODE_NAMES) + 1)
        self._seconds = Histogram(catalogue.RPC_SECONDS)

    def counting(self, behaviour: Behaviour) -> Behaviour:
        """Returns the behaviour of the method, counted."""
        codes, observe, streams = self._codes, self._seconds.observe, self._streams

        async def counted(request: Any, context: Any) -> Any:
            if not streams:
                self.intake.busy += 1
            code = _CANCELLED
            begun = perf_counter()
            try:
                answer = await behaviour(request, context)
                code = _OK if not streams else _code(context, _OK)
                return answer
            except Exception:
                # Refusals go by `context.abort`, which keeps the code and raises.
                code = _code(context, _UNKNOWN)
                raise
            finally:
                codes[code] += 1
                if not streams:
                    self.intake.busy -= 1
                    observe(perf_counter() - begun)

        return counted

    def samples(self) -> Iterable[Sample]:
        """Yields what is told of the method. OK stands there from the start, so that the first
        error of a process shows as a rate."""
        names = self._service, self._method
        for number, count in enumerate(self._codes):
            if count or number == _OK:
                yield Sample(catalogue.RPC_CALLS, count, (*names, _CODE_NAMES[number]))
        if not self._streams:
            yield Sample(catalogue.RPC_SECONDS, self._seconds, names)


def told(calls: Sequence[Calls]) -> list[Sample]:
    """Returns what is told of all methods of a process."""
    intakes = {each.intake for each in calls}  # one, or of a worker none
    samples = [
        Sample(catalogue.RPC_IN_FLIGHT, sum(intake.busy for intake in intakes)),
        Sample(catalogue.RPC_REFUSED, sum(intake.refused for intake in intakes)),
    ]
    return samples + [sample for each in calls for sample in each.samples()]


def _code(context: Any, unset: int) -> int:
    code: grpc.StatusCode | None = context.code()
    return unset if code is None else int(code.value[0])
