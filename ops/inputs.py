"""Input files of `chirp load`: plain, .gz or .xz, read once from the beginning to the end."""

import csv
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO, cast


class BadInput(OSError):
    """A file is damaged, or not what it should be."""


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
    """Opens a file by its ending. Raises OSError; BadInput also while reading inside of it."""
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            content: IO[bytes] = raw
            if path.suffix == ".xz":
                content = cast(IO[bytes], stack.enter_context(lzma.open(raw)))
            elif path.suffix == ".gz":
                content = cast(IO[bytes], stack.enter_context(gzip.open(raw)))
            text = io.TextIOWrapper(content, encoding="utf-8", newline="")
            yield Input(stack.enter_context(text), path.stat().st_size, raw.tell)
    except (lzma.LZMAError, zlib.error, EOFError, UnicodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


def digest(path: Path) -> str:
    """Returns 16 hexadecimal digits that name a file's contents."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()[:16]
