"""The stack that is soaked: what `chirp up --replicas 2` starts, on free ports, in a data folder of
its own; and what can be done to it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, cast

import psycopg
import redis.asyncio
import redis.exceptions

from mesh import settings as settings_module
from mesh.settings import Settings
from ops import embedded, stack
from ops.processes import KINDS
from ops.stack import Stack
from ops.up import Supervisor
from storage.database import Connection
from storage.timelines import leased_s
from tests.soak.plan import Fault

REPLICAS = 2
# A child is killed more often here than in a year elsewhere: the back-off would keep it down.
RESTART_DELAY_MAX_S = 2.0
WORKERS = ("fanout_worker", "outbox_relay")
SERVERS = ("tweet_server", "graph_server", "timeline_server")
KINDS_OF_CHIRP = tuple(kind.name for kind in KINDS)
# Longer than a worker's lease, so that another takes over; shorter than a client's patience.
FREEZE_WORKER_S = 4.0
FREEZE_SERVER_S = 3.0
STUTTER_S = 5.0
STUTTER_PAUSE_MAX_S = 0.25
VALKEY_TIMEOUT_S = 5.0

Say = Callable[[str], None]


class SoakStack:
    """A running stack, and its faults. Every fault is over when its method returns."""

    def __init__(self, supervisor: Supervisor, described: Stack, settings: Settings) -> None:
        self._supervisor = supervisor
        self.url = described.gateway
        self.ports = described.ports
        self.settings = settings

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[Connection]:
        """Opens a connection to PostgreSQL. Not of a pool, whose connections die with a server
        that is killed. Raises psycopg.OperationalError while it is away."""
        async with await psycopg.AsyncConnection.connect(
            self.settings.database_url, autocommit=True
        ) as connection:
            yield connection

    async def fault(self, fault: Fault) -> str:
        """Breaks something; returns what was broken."""
        match fault.what:
            case "kill a worker":
                return self.kill(self._one_of(WORKERS, fault.choice))
            case "kill a server":
                return self.kill(self._one_of(SERVERS, fault.choice))
            case "freeze a worker":
                return await self._freeze(self._one_of(WORKERS, fault.choice), FREEZE_WORKER_S)
            case "freeze a server":
                return await self._freeze(self._one_of(SERVERS, fault.choice), FREEZE_SERVER_S)
            case "stutter":
                return await self._stutter(Random(fault.choice))
            case "empty the cache":
                await self.empty(self.settings.valkey_url)
                return "cache"
            case "lose the event log":
                await self.empty(self.settings.eventlog_url)
                return "eventlog"
            case "kill":
                return self.kill(self._one_of(KINDS_OF_CHIRP, fault.choice))
            case "kill the cache":
                return self.kill("cache")
            case "kill the event log":
                return self.kill("eventlog")
            case "kill PostgreSQL":
                return self.kill("postgres")
            case "let readers go cold":
                await self._let_go_cold()
                return "leases"
            case _:
                raise ValueError(fault.what)

    def kill(self, name: str) -> str:
        """Kills a child with -9, if it runs; the supervisor starts it again."""
        process_id = self._supervisor.process_ids.get(name)
        if process_id is None:
            return f"{name} (was down)"
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
        return name

    async def empty(self, url: str) -> None:
        """Takes everything from a Valkey; one that is away is empty, or will be back."""
        async with redis.asyncio.Redis.from_url(url, socket_timeout=VALKEY_TIMEOUT_S) as valkey:
            with suppress(redis.exceptions.RedisError, OSError):
                await valkey.flushall()

    async def pause(self, kind: str, for_s: float) -> None:
        """Pauses all replicas of a server or worker."""
        names = [f"{kind}-{number}" for number in range(1, REPLICAS + 1)]
        await asyncio.gather(*(self._freeze(name, for_s) for name in names))

    async def _let_go_cold(self) -> None:
        """The leases of all readers run out."""
        url = self.settings.valkey_url
        async with redis.asyncio.Redis.from_url(url, socket_timeout=VALKEY_TIMEOUT_S) as valkey:
            with suppress(redis.exceptions.RedisError, OSError):
                pipeline = valkey.pipeline(transaction=False)
                async for key in cast(Any, valkey).scan_iter("timeline:*", count=1_000):
                    pipeline.expire(key, leased_s(self.settings) - 1, lt=True)
                await pipeline.execute()

    async def _freeze(self, name: str, for_s: float) -> str:
        process_id = self._supervisor.process_ids.get(name)
        if process_id is None:
            return f"{name} (was down)"
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGSTOP)
            try:
                await asyncio.sleep(for_s)
            finally:
                os.kill(process_id, signal.SIGCONT)
        return name

    async def _stutter(self, random: Random) -> str:
        """Pauses one process after the other, so that each is paused a part of the time."""
        pauses, end = 0, time.monotonic() + STUTTER_S
        while time.monotonic() < end:
            name = self._one_of(WORKERS + SERVERS, random.randrange(1_000))
            await self._freeze(name, random.uniform(0.01, STUTTER_PAUSE_MAX_S))
            pauses += 1
        return f"{pauses} pauses"

    def _one_of(self, kinds: tuple[str, ...], choice: int) -> str:
        names = [f"{kind}-{number}" for kind in kinds for number in range(1, REPLICAS + 1)]
        return names[choice % len(names)]


@asynccontextmanager
async def running(
    data: Path, environment: Mapping[str, str], say: Say
) -> AsyncGenerator[SoakStack]:
    """Starts a stack with these settings and no others; stops it on leaving."""
    with _environment(
        {
            **environment,
            "CHIRP_DATA": str(data),
            "CHIRP_PORT": str(embedded.free_port()),
            "CHIRP_SAMPLE": "0",
            # A few people do what thousands do elsewhere.
            "CHIRP_RATE_LIMITS": "0",
        }
    ):
        supervisor = Supervisor(
            settings_module.load(),
            replicas=REPLICAS,
            say=say,
            restart_delay_max_s=RESTART_DELAY_MAX_S,
        )
        async with supervisor.running():
            described = stack.read(data)
            assert described is not None
            yield SoakStack(supervisor, described, stack.settings())


@contextmanager
def _environment(settings: Mapping[str, str]) -> Generator[None]:
    """The environment with these of Chirp's settings and no others."""
    former = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("CHIRP_")}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in list(os.environ):
            if name.startswith("CHIRP_"):
                del os.environ[name]
        os.environ.update(former)
