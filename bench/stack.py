"""The stack that is measured: Chirp's own processes, stores and gateway, each a child of this one,
with a database of its own in a folder that goes when the run ends. Listens on 127.0.0.1 only.

`chirp up` starts all of it at once; a benchmark loads the database before the servers start, stops
the relay and the worker before it fills the log, and runs an echo beside them.
"""

import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mesh import keys
from mesh.settings import Settings
from ops import datafolder, embedded, gateway, localstack, probes
from ops.children import Child, ChildSpec
from ops.gateway import Endpoint, Gateway
from ops.localstack import LocalStack
from ops.processes import KINDS
from storage import database

ROOT = Path(__file__).resolve().parent.parent
PEER_SERVICE = "bench.PeerService"


def _code_of(checkout: Path) -> str:
    return os.pathsep.join((str(checkout), str(checkout / "gen")))


PYTHONPATH = _code_of(ROOT)
STOP_S = 2.0
VERIFYING_ECHO = "verifying-echo"


@dataclass(slots=True)
class BenchStack:
    """The running children."""

    settings: Settings
    """Where everything is; the servers, once `place_processes` was called."""
    local: LocalStack
    folder: Path
    store_process_ids: dict[str, int]
    """Of `postgres`, `cache` and `eventlog`."""
    _lock: int
    _specs: dict[str, ChildSpec] = field(default_factory=dict[str, ChildSpec])
    _children: dict[str, Child] = field(default_factory=dict[str, Child])

    @property
    def cache_process_id(self) -> int:
        """The process of the cache Valkey."""
        return self.store_process_ids["cache"]

    def place_processes(self) -> None:
        """Takes ports for Chirp's processes and the gateway. Shortly before they start, or somebody
        else on this machine may have taken one."""
        asked = self.settings.model_copy(update={"port": embedded.free_port()})
        self.local = LocalStack(asked, replicas=1, lock=self._lock)
        addresses = self.local.addresses(
            database_url=asked.database_url,
            valkey_url=asked.valkey_url,
            eventlog_url=asked.eventlog_url,
        )
        targets = {
            name.removeprefix("CHIRP_").lower(): value for name, value in addresses.targets.items()
        }
        self.settings = asked.model_copy(update=targets)
        # One replica of each, under the name of its kind.
        specs = self.local.replicas(KINDS, addresses)
        self._specs = {kind.name: spec for kind, spec in zip(KINDS, specs, strict=True)}

    async def start(self, *names: str) -> None:
        """Starts servers, workers, or the gateway. Raises StartError."""
        for name in names:
            spec = self.local.gateway() if name == "gateway" else self._specs[name]
            await self._start(name, spec)

    async def restart_from(self, checkout: Path, *names: str) -> None:
        """Ends servers or workers and starts them with the code of another folder."""
        for name in names:
            spec = self._specs[name]
            environment = {**spec.environment, "PYTHONPATH": _code_of(checkout)}
            self._specs[name] = replace(spec, environment=environment)
        await self.stop(*names)
        await self.start(*names)

    async def start_echo(self, page: bytes, tweet: bytes) -> tuple[int, int]:
        """Starts the echo and a gateway before it, which differs from Chirp's in its upstream
        only. Returns the ports of both."""
        gateway_port = embedded.free_port()
        port = await self.start_echo_of(
            {
                "chirp.v1.TimelineService/GetHomeTimeline": page,
                "chirp.v1.TweetService/CreateTweet": tweet,
            }
        )
        await self._start("echo-gateway", self._echo_gateway(port, gateway_port))
        return port, gateway_port

    async def start_verifying_echo(self, page: bytes) -> int:
        """Starts an echo of home timelines that verifies tokens as Chirp's servers do."""
        return await self.start_echo_of(
            {"chirp.v1.TimelineService/GetHomeTimeline": page}, name=VERIFYING_ECHO
        )

    async def start_echo_of(self, answers: Mapping[str, bytes], name: str = "echo") -> int:
        """Starts the echo with the answers of some methods (service/method); returns its port."""
        port = embedded.free_port()
        arguments: list[str] = []
        for number, (method, content) in enumerate(answers.items()):
            file = self.folder / f"{name}-{number}.bin"
            file.write_bytes(content)
            arguments.append(f"{method}={file}")
        listen = f"127.0.0.1:{port}"
        services = tuple({method.partition("/")[0] for method in answers})
        if name == VERIFYING_ECHO:
            arguments.append("--verify")
        await self._start_python(name, "bench.echo", [listen, *arguments], services)
        return port

    async def start_peers(self) -> int:
        """Starts the server of other systems' command mixes; returns its port."""
        port = embedded.free_port()
        listen = f"127.0.0.1:{port}"
        await self._start_python("peers", "bench.peer_server", [listen], (PEER_SERVICE,))
        return port

    def port(self, name: str) -> int:
        """Where a server listens."""
        return self.local.ports[name][0]

    def process_id(self, name: str) -> int:
        """The process of a child that runs."""
        process_id = self._children[name].process_id
        assert process_id is not None, f"{name} died"
        return process_id

    def process_ids(self) -> list[int]:
        """The processes of all children, and of the stores."""
        return [*self.store_process_ids.values(), *map(self.process_id, self._children)]

    async def stop(self, *names: str) -> None:
        """Stops children, in this order; what does not run is left out."""
        for name in names:
            child = self._children.pop(name, None)
            if child is not None:
                await child.stop()

    async def stop_all(self) -> None:
        """Stops every child, the last started first."""
        await self.stop(*reversed(self._children))

    async def _start_python(
        self, name: str, module: str, arguments: Sequence[str], services: tuple[str, ...]
    ) -> None:
        """Starts a server of the benchmarks' own; the first argument is where it listens."""
        stores = {
            "CHIRP_DATABASE_URL": self.settings.database_url,
            "CHIRP_VALKEY_URL": self.settings.valkey_url,
            "CHIRP_KEYS": str(self.settings.keys),
        }
        spec = ChildSpec(
            name=name,
            command=[sys.executable, "-m", module, *arguments],
            environment={**os.environ, **stores, "PYTHONPATH": PYTHONPATH},
            log=self.folder / "logs" / f"{name}.log",
            ready=lambda: probes.grpc_serving(arguments[0], services),
            stop_within_s=STOP_S,
        )
        await self._start(name, spec)

    async def _start(self, name: str, spec: ChildSpec) -> None:
        child = Child(spec, _say)
        self._children[name] = child
        await child.start()

    def _echo_gateway(self, port: int, gateway_port: int) -> ChildSpec:
        real = {
            name: [Endpoint("127.0.0.1", number) for number in ports]
            for name, ports in self.local.ports.items()
        }
        configuration = self.folder / "echo-gateway.yaml"
        configuration.write_text(
            gateway.render(
                Gateway(
                    listen=Endpoint("127.0.0.1", gateway_port),
                    admin_port=embedded.free_port(),
                    tweet_server=real["tweet_server"],
                    graph_server=real["graph_server"],
                    timeline_server=[Endpoint("127.0.0.1", port)],
                    notification_server=real["notification_server"],
                    outbox_relay=real["outbox_relay"],
                    fanout_worker=real["fanout_worker"],
                    trend_server=real["trend_server"],
                    trend_worker=real["trend_worker"],
                    notification_worker=real["notification_worker"],
                    descriptor=localstack.DESCRIPTOR,
                    access_log=self.folder / "logs" / "echo-access.log",
                    **gateway.from_settings(self.settings),
                )
            )
        )

        async def is_healthy() -> bool:
            return await probes.http_status("127.0.0.1", gateway_port, "/healthz") == 200

        threads = min(localstack.GATEWAY_THREADS_MAX, os.cpu_count() or 1)
        return ChildSpec(
            name="echo-gateway",
            command=gateway.command(configuration, threads=threads),
            environment=os.environ,
            log=self.folder / "logs" / "echo-gateway.log",
            ready=is_healthy,
            stop_within_s=STOP_S,
        )


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[BenchStack]:
    """Starts PostgreSQL (which syncs each commit to disk) and the two Valkeys, and migrates; on
    leaving, stops everything. Raises StartError and OSError, with a text for people."""
    folder = settings.data.resolve()
    with datafolder.opened(folder) as lock:
        local = LocalStack(settings, replicas=1, lock=lock)
        stores = [local.postgres(), local.cache(), local.eventlog()]
        started: list[Child] = []
        stack: BenchStack | None = None
        try:
            for store in stores:
                assert store.child is not None, "bench/__main__.py leaves no address set"
                started.append(Child(store.child, _say))
                await started[-1].start()
            names = ("postgres", "cache", "eventlog")
            store_ids = {
                name: child.process_id
                for name, child in zip(names, started, strict=True)
                if child.process_id is not None
            }
            known = settings.model_copy(
                update={
                    "keys": folder / "keys",
                    "database_url": stores[0].url,
                    "valkey_url": stores[1].url,
                    "eventlog_url": stores[2].url,
                }
            )
            keys.ensure_keys(known)
            await database.migrate(known.database_url)
            stack = BenchStack(known, local, folder, store_ids, lock)
            yield stack
        finally:
            if stack is not None:
                await stack.stop_all()
            for child in reversed(started):
                await child.stop()


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
