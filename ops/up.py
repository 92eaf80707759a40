"""`chirp up`: everything on one machine, under one supervisor.

It starts, each when what it needs is ready:
 1. PostgreSQL, the cache and the event log, where the environment does not say that they are
    elsewhere (CHIRP_DATABASE_URL, CHIRP_VALKEY_URL, CHIRP_EVENTLOG_URL);
 2. the schema, the keys, and with TLS the certificates;
 3. the servers and the workers, N of each;
 4. the gateway, so that it answers only when all are healthy;
 5. on an empty database, the sample world.

It stops in the opposite order, so that no process loses one that it calls: the gateway, the
servers, the workers, the two Valkeys, PostgreSQL. A second Ctrl-C ends all at once.

On SIGUSR1 (`chirp restart`) it restarts servers and workers one replica after the other.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from mesh import keys
from mesh.settings import Settings
from ops import certificates, datafolder, localstack, rolling, stack
from ops.children import (
    RESTART_DELAY_MAX_S,
    Child,
    ChildSpec,
    Say,
    StartError,
    trim_log,
)
from ops.localstack import LocalStack
from ops.processes import KINDS, Addresses
from storage import database

LOG_CHECK_S = 10.0


def run(settings: Settings, *, replicas: int) -> int:
    """Serves until SIGINT, SIGTERM or SIGHUP; returns the exit status. Where it cannot start, it
    says in one line what to do about it, and leaves nothing running."""
    try:
        return asyncio.run(_run(settings, replicas))
    except (StartError, OSError) as error:
        print(f"chirp: {error}", file=sys.stderr)
        return 1


def welcome(url: str) -> str:
    """Returns where the gateway is, and three lines to paste into a POSIX shell."""
    bearer = '-H "authorization: Bearer $TOKEN"'
    account = """'{"username": "u'$(date +%s)'", "password": "correct horse"}'"""
    pick = r"""sed 's/.*"accessToken": *"\([^"]*\).*/\1/'"""
    return f"""
Chirp listens on {url} (REST, gRPC, gRPC-Web). Sign up, post, read your home timeline:

TOKEN=$(curl -s {url}/api/users -d {account} | {pick})
curl -s {url}/api/tweets {bearer} -d '{{"content": "Hello, #chirp"}}'; echo
curl -s {url}/api/timeline/home {bearer}; echo

Ctrl-C stops it and keeps the data.
"""


async def _run(settings: Settings, replicas: int) -> int:
    supervisor = Supervisor(settings, replicas=replicas, say=_say)
    serving = asyncio.create_task(_serve(supervisor))
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            _say("stopping; once more ends it at once")
            serving.cancel()
        else:
            supervisor.kill()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it is
        loop.add_signal_handler(signal.SIGHUP, on_signal)
    loop.add_signal_handler(signal.SIGUSR1, supervisor.restart_asked.set)
    try:
        await serving
    except asyncio.CancelledError:
        if not signals:
            raise
    _say("stopped")
    return 0


async def _serve(supervisor: "Supervisor") -> None:
    async with supervisor.running():
        await _make_sample()
        print(welcome(supervisor.gateway_url), flush=True)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOG_CHECK_S):
                    await supervisor.restart_asked.wait()
                await supervisor.restart_replicas()
            supervisor.trim_logs()
            supervisor.renew_certificates()


async def _make_sample() -> None:
    """Fills an empty database, so that a first look shows life; CHIRP_SAMPLE=0 turns it off."""
    from ops import sample

    settings = stack.settings()
    if settings.sample and await sample.is_empty(settings):
        _say("the database is empty: making a sample world (CHIRP_SAMPLE=0 turns this off)")
        await sample.make(settings, show_progress=sys.stdout.isatty())


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone, which is no reason to stop
        print(f"chirp: {text}", flush=True)


class Supervisor:
    """All processes of one `chirp up`."""

    def __init__(
        self,
        settings: Settings,
        *,
        replicas: int,
        say: Say,
        restart_delay_max_s: float = RESTART_DELAY_MAX_S,
    ) -> None:
        self._settings = settings
        self._replicas = replicas
        self._say = say
        self._restart_delay_max_s = restart_delay_max_s
        self._data = settings.data.resolve()
        # Groups in the order of their start; they stop in the opposite one.
        self._groups: list[list[Child]] = []
        self._ours: list[Child] = []
        """The replicas of our own servers and workers."""
        self._described: stack.Stack | None = None
        self._certs: Path | None = None
        self.restart_asked = asyncio.Event()

    @property
    def gateway_url(self) -> str:
        """Where this machine reaches the gateway."""
        return f"http://{localstack.local_host(self._settings)}:{self._settings.port}"

    @property
    def process_ids(self) -> dict[str, int]:
        """The process id of each child that runs now, by its name."""
        return {
            child.name: child.process_id
            for child in self._children()
            if child.process_id is not None
        }

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Runs everything; on leaving, stops it in order, also what had only begun to start.
        Raises StartError and OSError, with a text for the user."""
        with datafolder.opened(self._data) as lock:
            try:
                # With the lock: a gateway that outlived a killed supervisor has gone by now.
                datafolder.check_port(self._settings.host, self._settings.port)
                await self._start(LocalStack(self._settings, replicas=self._replicas, lock=lock))
                yield
            finally:
                self._described = None  # a child that restarts meanwhile writes nothing
                stack.remove(self._data)
                for group in reversed(self._groups):
                    await asyncio.gather(*(child.stop() for child in group))

    async def restart_replicas(self) -> None:
        """Restarts every server and worker: of each kind one at a time, and the next when calls
        reach that one again. Says in stack.json how it went."""
        self.restart_asked.clear()
        assert self._described is not None
        try:
            if self._replicas < 2:
                raise StartError("one replica of each cannot be replaced without a gap")
            for step in rolling.steps([child.name for child in self._ours]):
                children = [child for child in self._ours if child.name in step]
                await asyncio.gather(*(child.restart() for child in children))
                await rolling.until_reached(self._described, step)
                self._say(f"restarted {', '.join(step)}")
            problem = ""
        except StartError as error:
            problem = str(error)
            self._say(problem)
        self._described = replace(
            self._described, restarts=self._described.restarts + 1, restart_problem=problem
        )
        self._write()

    def kill(self) -> None:
        """Ends all children at once."""
        for child in self._children():
            child.kill()

    def trim_logs(self) -> None:
        """Keeps the log files bounded."""
        for child in self._children():
            child.trim_log()
        trim_log(self._data / "logs" / "access.log")

    def renew_certificates(self) -> None:
        """With TLS, makes the certificates that are missing or will expire. Nothing restarts."""
        if self._settings.tls:
            assert self._certs is not None
            renewed = self._settings.model_copy(update={"certs": self._certs})
            if made := certificates.ensure(renewed):
                self._say(f"made certificates of {', '.join(made)}")

    def _children(self) -> list[Child]:
        return [child for group in self._groups for child in group]

    async def _start(self, local: LocalStack) -> None:
        postgres = await asyncio.to_thread(local.postgres)
        cache, eventlog = local.cache(), local.eventlog()
        await self._start_groups([postgres.child], [cache.child, eventlog.child])
        for backing in (postgres, cache, eventlog):
            if not await backing.answers():
                raise StartError(f"{backing.name} does not answer: look at {backing.setting}")
        self._say("PostgreSQL, the cache and the event log run")
        addresses = local.addresses(
            database_url=postgres.url, valkey_url=cache.url, eventlog_url=eventlog.url
        )
        keys.ensure_keys(self._settings.model_copy(update={"keys": addresses.keys}))
        self._certs = addresses.certs
        self.renew_certificates()
        await database.migrate(postgres.url)
        workers = local.replicas([kind for kind in KINDS if not kind.is_server], addresses)
        servers = local.replicas([kind for kind in KINDS if kind.is_server], addresses)
        self._ours = await self._start_groups(workers, servers)
        self._say(f"{len(servers)} servers and {len(workers)} workers are healthy")
        await self._start_groups([local.gateway()])
        self._described = self._description(local, addresses)
        self._write()

    def _on_restart(self) -> None:
        with suppress(OSError):  # a full disk must not end supervision
            self._write()

    def _write(self) -> None:
        # Before all have started there is nothing to tell.
        if self._described is not None:
            restarts = {child.name: child.restarts for child in self._children()}
            self._described = replace(self._described, child_restarts=restarts)
            stack.write(self._data, self._described)

    async def _start_groups(
        self, *groups: "list[ChildSpec] | list[ChildSpec | None]"
    ) -> list[Child]:
        # All at the same time; the first that fails is the one to tell of.
        made = [
            [
                Child(
                    spec,
                    self._say,
                    restart_delay_max_s=self._restart_delay_max_s,
                    on_restart=self._on_restart,
                )
                for spec in group
                if spec is not None
            ]
            for group in groups
        ]
        self._groups.extend(made)
        starts = [asyncio.create_task(child.start()) for group in made for child in group]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
        return [child for group in made for child in group]

    def _description(self, local: LocalStack, addresses: Addresses) -> stack.Stack:
        tuned = {name: value for name, value in os.environ.items() if name.startswith("CHIRP_")}
        return stack.Stack(
            process_id=os.getpid(),
            gateway=self.gateway_url,
            gateway_admin=f"http://127.0.0.1:{local.admin_port}",
            settings={**tuned, **addresses.environment(), "CHIRP_DATA": str(self._data)},
            ports=local.ports,
            metrics_ports=local.metrics_ports,
        )
