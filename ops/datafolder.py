"""The data folder of `chirp up`, and what can be wrong before anything starts."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ops.children import StartError

LOCK_FILE = "lock"
FORMER_CHILDREN_S = 10.0  # as long as a stack may take to stop
FORMER_CHILDREN_POLL_S = 0.05


@contextmanager
def opened(data: Path) -> Generator[int]:
    """Makes the folder and holds its lock; gives the lock's file descriptor.

    Children inherit it, so a folder is free only when the last of them is gone: after a supervisor
    was killed, the next start waits for its children. Raises StartError where the folder cannot
    be written or another supervisor holds it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        (data / "logs").mkdir(mode=0o700, exist_ok=True)
        lock = os.open(data / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"cannot write to the data folder {data} ({error.strerror}):"
            " set CHIRP_DATA to a folder that you may write to"
        ) from error
    try:
        _take(lock, data)
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def check_port(host: str, port: int) -> None:
    """Raises StartError where the gateway cannot listen there.

    Envoy itself would share a port with another Envoy of the same user, without a word."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what = f"port {port} is taken: set CHIRP_PORT to a free one"
            elif error.errno == errno.EACCES:
                what = f"port {port} needs more rights: set CHIRP_PORT to one above 1023"
            else:
                what = f"cannot listen on {host} ({error.strerror}): set CHIRP_HOST"
            raise StartError(what) from error


def _take(lock: int, data: Path) -> None:
    deadline = time.monotonic() + FORMER_CHILDREN_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode() or "0"
        if _lives(int(holder)):
            raise StartError(
                f"another chirp up (process {holder}) uses the data folder {data}:"
                " stop it, or set CHIRP_DATA to another folder"
            )
        if time.monotonic() > deadline:
            raise StartError(
                f"children of a chirp up that was killed still use the data folder {data}:"
                " end them, or set CHIRP_DATA to another folder"
            )
        time.sleep(FORMER_CHILDREN_POLL_S)


def _lives(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process_id > 0
