"""The table of Chirp's own processes: which exist, which module runs each, which gRPC services it
answers, where it listens, and what it is told. `chirp up` and docker-compose.yml both follow it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# In containers, where each process has an address of its own.
CONTAINER_PORT = 50051
CONTAINER_METRICS_PORT = 9100


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessKind:
    """A server or a worker. A worker answers gRPC health, and nobody from outside."""

    name: str
    """Also the name of its cluster in the gateway's configuration."""
    services: tuple[str, ...] = ()
    """Full names of its gRPC services; its health is asked for each of them."""
    target: str = ""
    """The environment variable by which others find it; empty where nobody calls it. A worker that
    has one answers some of Chirp's own services, while it has the lead."""

    @property
    def is_server(self) -> bool:
        """Whether it answers calls; else it is a worker."""
        return bool(self.services)

    @property
    def module(self) -> str:
        """What `python -m` runs."""
        return f"{'servers' if self.is_server else 'workers'}.{self.name}"

    @property
    def container(self) -> str:
        """Its name in docker-compose.yml, and so its host name: these have no underscores."""
        return self.name.replace("_", "-")


KINDS: tuple[ProcessKind, ...] = (
    ProcessKind(
        name="tweet_server",
        services=("chirp.v1.TweetService", "chirp.v1.TweetRecordService"),
        target="CHIRP_TWEET_TARGET",
    ),
    ProcessKind(
        name="graph_server",
        services=(
            "chirp.v1.UserService",
            "chirp.v1.UserDirectoryService",
            "chirp.v1.GraphService",
            "chirp.v1.BlockDirectoryService",
            "chirp.v1.FollowerDirectoryService",
        ),
        target="CHIRP_GRAPH_TARGET",
    ),
    ProcessKind(
        name="timeline_server",
        services=("chirp.v1.TimelineService", "chirp.v1.TimelineUpkeepService"),
        target="CHIRP_TIMELINE_TARGET",
    ),
    ProcessKind(
        name="trend_server",
        services=("chirp.v1.TrendService",),
        target="CHIRP_TREND_TARGET",
    ),
    ProcessKind(
        name="notification_server",
        services=("chirp.v1.NotificationService",),
        target="CHIRP_NOTIFICATION_TARGET",
    ),
    ProcessKind(name="outbox_relay"),
    ProcessKind(name="fanout_worker"),
    ProcessKind(name="trend_worker", target="CHIRP_TREND_COUNT_TARGET"),
    ProcessKind(name="notification_worker"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where everything is. Each process gets all of it and uses what it needs."""

    keys: Path
    certs: Path
    database_url: str
    valkey_url: str
    eventlog_url: str
    targets: Mapping[str, str]
    """gRPC targets by environment variable."""

    def environment(self) -> dict[str, str]:
        """Returns the environment that says so; `settings.Settings` reads it."""
        return {
            "CHIRP_KEYS": str(self.keys),
            "CHIRP_CERTS": str(self.certs),
            "CHIRP_DATABASE_URL": self.database_url,
            "CHIRP_VALKEY_URL": self.valkey_url,
            "CHIRP_EVENTLOG_URL": self.eventlog_url,
            **self.targets,
        }


def process_environment(addresses: Addresses, listen: str, metrics: str) -> dict[str, str]:
    """Returns what one process is told: where everything is, where it listens, and where it tells
    its metrics (host:port)."""
    return {**addresses.environment(), "CHIRP_LISTEN": listen, "CHIRP_METRICS_LISTEN": metrics}


def process_command(kind: ProcessKind, python: str) -> list[str]:
    """Returns the command that runs a process."""
    return [python, "-m", kind.module]


def targets(ports: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Returns the gRPC target of each kind that others call, given each kind's ports on this
    machine; calls go round its replicas."""
    return {
        kind.target: "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports[kind.name])
        for kind in KINDS
        if kind.target
    }
