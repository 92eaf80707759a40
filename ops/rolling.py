"""Rolling restarts: which replicas go down together, and how it is known that the next may.

One replica of a kind at a time. Before the next, three must have seen the last one again: itself
(gRPC health), the gateway, and the other servers, whose channels look for it once a second.
"""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from mesh.clients import RECONNECT_LAST_MS
from mesh.settings import Settings
from ops import probes, stack
from ops.children import StartError
from ops.processes import KINDS
from ops.stack import Stack

# Kinds of which a replica goes down together with the others of its row. The other replica of each
# carries on meanwhile, so this bounds how much of a machine starts at once, and no more.
TOGETHER = (
    ("outbox_relay", "fanout_worker", "trend_worker", "notification_worker"),
    ("trend_server", "notification_server"),
    ("tweet_server", "graph_server", "timeline_server"),
)
REACHED_S = 20.0
LOOK_S = 0.05
SETTLE_S = 1.5 * RECONNECT_LAST_MS / 1000
RESTART_S = 600.0


def steps(names: Sequence[str]) -> list[list[str]]:
    """Returns replicas by name (`tweet_server-1`) in the order in which they are restarted; those
    of one step together."""
    grouped = {kind for group in TOGETHER for kind in group}
    groups = [*TOGETHER, *((kind.name,) for kind in KINDS if kind.name not in grouped)]
    numbers = sorted({int(name.rpartition("-")[2]) for name in names})
    found = [
        [f"{kind}-{number}" for kind in group if f"{kind}-{number}" in names]
        for number in numbers
        for group in groups
    ]
    # A kind that no row names is restarted by itself.
    return [step for step in found if step]


async def until_reached(described: Stack, names: Sequence[str]) -> None:
    """Returns when the gateway and the servers call these replicas again. Raises StartError."""
    ports = {described.ports[kind][int(number) - 1] for kind, number in map(_parts, names)}
    admin = urlsplit(described.gateway_admin)
    assert admin.hostname is not None and admin.port is not None
    deadline = time.monotonic() + REACHED_S
    while not ports <= await probes.healthy_ports(admin.hostname, admin.port):
        if time.monotonic() > deadline:
            raise StartError(f"the gateway does not reach {', '.join(names)} again")
        await asyncio.sleep(LOOK_S)
    await asyncio.sleep(SETTLE_S)


def restart(settings: Settings) -> str:
    """Has the running stack restart its replicas; returns what to say. Raises LookupError where
    none runs, and OSError where it went wrong."""
    before = stack.read(settings.data)
    if before is None:
        raise LookupError("no stack runs here: start `chirp up --replicas 2` (same CHIRP_DATA)")
    began = time.monotonic()
    os.kill(before.process_id, signal.SIGUSR1)
    while time.monotonic() < began + RESTART_S:
        after = stack.read(settings.data)
        if after is None:
            raise OSError("the stack stopped")
        if after.restarts > before.restarts:
            if after.restart_problem:
                raise OSError(after.restart_problem)
            count = sum(len(ports) for ports in after.ports.values())
            return f"restarted {count} servers and workers in {time.monotonic() - began:.0f} s"
        time.sleep(LOOK_S)
    raise OSError("the stack is still restarting: look at what it says")


def _parts(name: str) -> tuple[str, str]:
    kind, _, number = name.rpartition("-")
    return kind, number
