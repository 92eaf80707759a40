"""What `chirp up` runs on one machine: the command, environment, log, readiness and way of
stopping of each child. `ops/up.py` starts and stops them."""

import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mesh import files, keys, tls
from mesh.settings import Settings
from ops import embedded, embedded_postgres, gateway, gateway_tls, probes, processes
from ops.children import ChildSpec
from ops.processes import KINDS, Addresses, ProcessKind

DESCRIPTOR = Path(__file__).resolve().parent.parent / "gen" / "descriptor.binpb"

# How long each may take to stop: 9 s one after the other, where `chirp up` promises 10.
GATEWAY_STOP_S = 0.5
SERVER_STOP_S = 4.0
WORKER_STOP_S = 1.5
VALKEY_STOP_S = 1.0
POSTGRES_STOP_S = 2.0

GATEWAY_THREADS_MAX = 4


class Backing(NamedTuple):
    """A store: where it is, and the child that runs it, None where it runs elsewhere."""

    name: str
    setting: str
    url: str
    answers: Callable[[], Coroutine[Any, Any, bool]]
    child: ChildSpec | None


class LocalStack:
    """The children of one `chirp up`. Makes files in the data folder, starts nothing."""

    def __init__(self, settings: Settings, *, replicas: int, lock: int) -> None:
        self._settings = settings
        self._lock = lock
        self._data = settings.data.resolve()
        self._keys = (settings.keys if _is_set(settings, "keys") else self._data / "keys").resolve()
        self._certs = settings.certs.resolve()
        embedded.choose_ports(settings.free_ports)
        embedded.reserve_port(settings.port)
        self.ports = {kind.name: [embedded.free_port() for _ in range(replicas)] for kind in KINDS}
        self.metrics_ports = {
            kind.name: [embedded.free_port() for _ in range(replicas)] for kind in KINDS
        }
        self.admin_port = embedded.free_port()

    @property
    def access_log(self) -> Path:
        """The gateway's access log."""
        return self._data / "logs" / "access.log"

    def postgres(self) -> Backing:
        """PostgreSQL; makes its cluster where there is none. Raises OSError."""
        outside = _is_set(self._settings, "database_url")
        url = self._settings.database_url

        def answers() -> Coroutine[Any, Any, bool]:
            return probes.postgres_answers(url)

        if outside:
            return Backing("PostgreSQL", "CHIRP_DATABASE_URL", url, answers, None)
        install = embedded_postgres.prepare(self._data / "postgres")
        port = embedded.free_port()
        url = install.local_url(port)
        child = ChildSpec(
            name="postgres",
            command=install.command(port),
            environment=_plain_environment(),
            log=self._log("postgres"),
            ready=answers,
            stop_within_s=POSTGRES_STOP_S,
            stop_signal=signal.SIGINT,  # fast: ends sessions, writes a checkpoint
            kill_signal=signal.SIGQUIT,  # immediate: its processes go too, the next start recovers
            orphan_signal=signal.SIGINT,
            user=install.account.user,
            group=install.account.group,
            keep_open=(self._lock,),
        )
        return Backing("PostgreSQL", "CHIRP_DATABASE_URL", url, answers, child)

    def cache(self) -> Backing:
        """The Valkey for caches and timelines."""
        return self._valkey("cache", "valkey_url")

    def eventlog(self) -> Backing:
        """The Valkey for the event log."""
        return self._valkey("eventlog", "eventlog_url")

    def addresses(self, *, database_url: str, valkey_url: str, eventlog_url: str) -> Addresses:
        """Where everything is, given where the stores are."""
        return Addresses(
            keys=self._keys,
            certs=self._certs,
            database_url=database_url,
            valkey_url=valkey_url,
            eventlog_url=eventlog_url,
            targets=processes.targets(self.ports),
        )

    def replicas(self, kinds: Sequence[ProcessKind], addresses: Addresses) -> list[ChildSpec]:
        """Every replica of these servers or workers."""
        return [
            self._replica(kind, addresses, f"{kind.name}-{number}", port, metrics_port)
            for kind in kinds
            for number, (port, metrics_port) in enumerate(
                zip(self.ports[kind.name], self.metrics_ports[kind.name], strict=True), start=1
            )
        ]

    def gateway(self) -> ChildSpec:
        """Envoy; writes its configuration. It is ready when /healthz says that all are healthy."""
        settings = self._settings
        configuration = self._data / "gateway" / "envoy.yaml"
        configuration.parent.mkdir(exist_ok=True)
        certs = self._certs / tls.GATEWAY if settings.tls else None
        endpoints = {
            name: [gateway.Endpoint("127.0.0.1", port) for port in ports]
            for name, ports in self.ports.items()
        }
        rendered = gateway.render(
            gateway.Gateway(
                listen=gateway.Endpoint(settings.host, settings.port),
                admin_port=self.admin_port,
                tweet_server=endpoints["tweet_server"],
                graph_server=endpoints["graph_server"],
                timeline_server=endpoints["timeline_server"],
                trend_server=endpoints["trend_server"],
                outbox_relay=endpoints["outbox_relay"],
                fanout_worker=endpoints["fanout_worker"],
                trend_worker=endpoints["trend_worker"],
                notification_server=endpoints["notification_server"],
                notification_worker=endpoints["notification_worker"],
                descriptor=DESCRIPTOR,
                gateway_secret=keys.gateway_secret(self._keys),
                certs=certs,
                secrets=configuration.parent,
                access_log=self.access_log,
                **gateway.from_settings(settings),
            )
        )
        # It holds the secret by which servers know the gateway.
        files.replace(configuration, rendered.encode(), 0o600)
        if certs is not None:
            for name, text in gateway_tls.secret_files(certs).items():
                (configuration.parent / name).write_text(text)
        threads = min(GATEWAY_THREADS_MAX, os.cpu_count() or 1)

        async def is_healthy() -> bool:
            return await probes.http_status(local_host(settings), settings.port, "/healthz") == 200

        return ChildSpec(
            name="gateway",
            command=gateway.command(configuration, threads=threads),
            environment=_plain_environment(),
            log=self._log("gateway"),
            ready=is_healthy,
            stop_within_s=GATEWAY_STOP_S,
            keep_open=(self._lock,),
        )

    def _valkey(self, name: str, field: str) -> Backing:
        # A new password each time: nobody connects longer than the stack runs.
        port, password = embedded.free_port(), secrets.token_urlsafe(24)
        outside = _is_set(self._settings, field)
        folder, is_cache = self._data / name, name == "cache"
        url = (
            str(getattr(self._settings, field))
            if outside
            else embedded.valkey_local_url(folder, port, password)
        )

        def answers() -> Coroutine[Any, Any, bool]:
            return probes.valkey_answers(url)

        child = None
        if not outside:
            malloc = embedded.CACHE_ENVIRONMENT if is_cache else {}
            child = ChildSpec(
                name=name,
                command=embedded.valkey_command(folder, port, password, cache=is_cache),
                environment={**_plain_environment(), **malloc},
                log=self._log(name),
                ready=answers,
                stop_within_s=VALKEY_STOP_S,
                orphan_signal=signal.SIGTERM,  # the event log writes out what it has
                keep_open=(self._lock,),
            )
        return Backing(f"Valkey ({name})", f"CHIRP_{field.upper()}", url, answers, child)

    def _replica(
        self, kind: ProcessKind, addresses: Addresses, name: str, port: int, metrics_port: int
    ) -> ChildSpec:
        listen = f"127.0.0.1:{port}"
        settings = self._settings.model_copy(update={"certs": self._certs})
        environment = {
            "CHIRP_LOG_FORMAT": "text",
            **os.environ,
            **processes.process_environment(addresses, listen, f"127.0.0.1:{metrics_port}"),
            "CHIRP_DATA": str(self._data),  # it runs in another folder
            "CHIRP_LOG_LEVELS": str(self._settings.log_levels.resolve()),
        }
        return ChildSpec(
            name=name,
            command=processes.process_command(kind, sys.executable),
            environment=environment,
            log=self._log(name),
            ready=lambda: probes.grpc_serving(
                listen, kind.services, name=kind.name, settings=settings
            ),
            stop_within_s=SERVER_STOP_S if kind.is_server else WORKER_STOP_S,
            keep_open=(self._lock,),
        )

    def _log(self, name: str) -> Path:
        return self._data / "logs" / f"{name}.log"


def local_host(settings: Settings) -> str:
    """Returns the address by which this machine reaches its own gateway."""
    anywhere = settings.host in ("0.0.0.0", "::")  # noqa: S104 -- compared, not bound
    return "127.0.0.1" if anywhere else settings.host


def _plain_environment() -> dict[str, str]:
    # Programs that are not ours are told nothing of ours.
    return {name: value for name, value in os.environ.items() if not name.startswith("CHIRP_")}


def _is_set(settings: Settings, field: str) -> bool:
    # By the environment: a default means "start it here".
    return field in settings.model_fields_set
