"""Files that change under running processes: replaced whole, followed by looking now and then."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 2.0  # how often it is looked whether a file changed


class Watch:
    """Tells when files were replaced, looking at most every LOOK_S unless it is told to."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._looked_at = float("-inf")
        self._seen: list[tuple[int, int, int] | None] | None = None

    def changed(self, *, at_once: bool = False) -> bool:
        """Whether any was replaced, made or removed since the last time it said so."""
        now = time.monotonic()
        if not at_once and now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        seen = [_state(path) for path in self._paths]
        if seen == self._seen:
            return False
        self._seen = seen
        return True


def replace(path: Path, content: bytes, mode: int) -> None:
    """Writes a file whole: readers see the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    partial.replace(path)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Holds a lock file, which it makes, against other processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        yield


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
