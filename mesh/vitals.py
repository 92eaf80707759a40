"""What every process tells of itself, whatever it does: its calls and streams, whether its event
loop keeps up, what it takes of the machine."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from mesh import calls, catalogue, metrics
from mesh.metrics import Collector, Histogram, Sample
from mesh.rpc import BoundService

LOOP_LOOK_S: Final = 0.1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATM, _FILES = Path("/proc/self/statm"), Path("/proc/self/fd")  # Linux
# When this module was imported, which is when the process began for whoever asks.
_STARTED_AT: Final = time.time()


class LoopLag:
    """Measures by how much the event loop wakes timers too late."""

    def __init__(self) -> None:
        self._late = Histogram(catalogue.LOOP_LAG)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            due = time.perf_counter() + LOOP_LOOK_S
            await asyncio.sleep(LOOP_LOOK_S)
            # The loop counts whole milliseconds: it may wake a little early.
            self._late.observe(max(0.0, time.perf_counter() - due))

    async def collect(self) -> list[Sample]:
        """Returns what was measured."""
        return [Sample(catalogue.LOOP_LAG, self._late)]


@asynccontextmanager
async def told(
    listen: str, services: Sequence[BoundService], collectors: Sequence[Collector]
) -> AsyncGenerator[int]:
    """Tells the metrics of a process at an address: what `collectors` say, and what every process
    says. Yields the port. Raises OSError where the address is taken."""
    lag = LoopLag()
    looking = asyncio.create_task(lag.run())

    async def common() -> list[Sample]:
        methods = [each for service in services for each in service.calls]
        streams = {service.streams for service in services if service.streams is not None}
        return [
            *calls.told(methods),
            *(Sample(catalogue.OPEN_STREAMS, each.count) for each in streams),
            *_of_process(),
        ]

    try:
        async with metrics.exposing(listen, [*collectors, common, lag.collect]) as port:
            yield port
    finally:
        looking.cancel()


def _of_process() -> list[Sample]:
    samples = [
        Sample(catalogue.PROCESS_CPU, time.process_time()),
        Sample(catalogue.PROCESS_STARTED, _STARTED_AT),
    ]
    if _STATM.exists():
        resident = int(_STATM.read_text().split()[1]) * _PAGE_BYTES
        samples.append(Sample(catalogue.PROCESS_MEMORY, resident))
        samples.append(Sample(catalogue.PROCESS_FILES, len(os.listdir(_FILES))))
    return samples
