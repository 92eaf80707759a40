"""Input files of `chirp load`: plain, .gz or .xz, read once from the beginning to the end."""

import gzip
import hashlib
import io
import lzma
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO, cast


@dataclass(frozen=True, slots=True)
class Input:
    """An open file. `text` keeps line ends as they are."""

    text: TextIO
    size: int
    """Bytes of the file as it lies there, compressed."""
    position: Callable[[], int]
    """How many of these bytes were read."""


@contextmanager
def opened(path: Path) -> Generator[Input]:
    """Opens a file by its ending. Raises OSError, and ValueError while reading what is damaged."""
    with path.open("rb") as raw:
        content: IO[bytes] = raw
        if path.suffix == ".xz":
            content = cast(IO[bytes], lzma.open(raw))
        elif path.suffix == ".gz":
            content = cast(IO[bytes], gzip.open(raw))
        with io.TextIOWrapper(content, encoding="utf-8", newline="") as text:
            yield Input(text, path.stat().st_size, raw.tell)


def digest(path: Path) -> str:
    """Returns 16 hexadecimal digits that name a file's contents."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()[:16]
