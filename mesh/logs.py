"""What processes log, to standard error.

`CHIRP_LOG_FORMAT` says how: `json`, one object a line; `text`, for people; `auto`, text on a
terminal and JSON anywhere else.

    {"time": "2026-11-21T10:00:00.123456Z", "level": "WARNING", "process": "tweet_server",
     "process_id": 7, "logger": "mesh.errors", "message": "...", "request_id": "...",
     "error": "..."}

`CHIRP_LOG_LEVELS` names a file that says how much, and may come, change and go while processes run;
they look every 2 s. Each line is a logger and a level; `chirp` means all of Chirp's own:

    servers DEBUG
    chirp WARNING

A file, because it opens no way in: who may write it may change the process anyway.
"""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from mesh import errors, requests
from mesh.files import LOOK_S, Watch

Format = Literal["auto", "json", "text"]

OWN: Final = ("domain", "eventlog", "mesh", "ops", "servers", "storage", "workers", "__main__")
"""Our packages. What libraries say below INFO may hold what people wrote."""
ALL_OWN: Final = "chirp"
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MESSAGE_CHARACTERS_MAX: Final = 8_192
LEVELS_BYTES_MAX: Final = 65_536

log = logging.getLogger(__name__)


def begin(process: str, format_: Format) -> None:
    """Lets this process log, everything from INFO on."""
    as_text = format_ == "text" or (format_ == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Text(process) if as_text else JsonLines(process))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _Formatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def _message(self, record: logging.LogRecord) -> str:
        return record.getMessage()[:MESSAGE_CHARACTERS_MAX]

    def _error(self, record: logging.LogRecord) -> str:
        # Not the interpreter's own text: a database's errors show rows.
        error = record.exc_info[1] if record.exc_info else None
        return errors.describe(error)[:MESSAGE_CHARACTERS_MAX] if error is not None else ""


class JsonLines(_Formatter):
    """One JSON object a line, in ASCII: nothing that is logged can begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        at = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "process": self._process,
            "process_id": record.process,
            "logger": record.name,
            "message": self._message(record),
            "request_id": requests.current_id(),
            "error": self._error(record),
        }
        return json.dumps({name: value for name, value in fields.items() if value != ""})


class Text(_Formatter):
    """A line for people; what an error says follows on lines of its own, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the lines."""
        time = self.formatTime(record)
        message = self._message(record).replace("\n", "\n    ")
        line = f"{time} {record.levelname:<7} {self._process} {record.name}: {message}"
        if request_id := requests.current_id():
            line += f" [{request_id}]"
        if error := self._error(record):
            line += "\n    " + error.rstrip().replace("\n", "\n    ")
        return line


class Levels:
    """The levels that a file sets."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watch = Watch(path)
        self._set: set[str] = set()

    async def follow(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            if self._watch.changed():
                self.read()
            await asyncio.sleep(LOOK_S)

    def read(self) -> None:
        """Sets what the file says, and what it no longer says back to INFO. What cannot be is
        logged and left out."""
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                lines = file.read(LEVELS_BYTES_MAX).splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            log.warning("cannot read the levels of logs: %s", type(error).__name__)
            return
        wanted: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            words = line.partition("#")[0].split()
            if words and not self._take(words, wanted):
                log.warning("line %d of the levels of logs means nothing, or too much", number)
        for name in self._set - wanted.keys():
            _logger(name).setLevel(logging.INFO if name == "root" else logging.NOTSET)
        for name, level in wanted.items():
            _logger(name).setLevel(level)
        if wanted or self._set:
            told = ", ".join(f"{name} {level}" for name, level in sorted(wanted.items()))
            log.warning("levels of logs: %s", told or "as at the start")
        self._set = set(wanted)

    def _take(self, words: list[str], wanted: dict[str, str]) -> bool:
        if len(words) != 2 or words[1].upper() not in LEVELS:
            return False
        name, level = words[0], words[1].upper()
        if level == "DEBUG" and name != ALL_OWN and name.partition(".")[0] not in OWN:
            return False
        wanted.update(dict.fromkeys(OWN if name == ALL_OWN else (name,), level))
        return True


def _logger(name: str) -> logging.Logger:
    return logging.getLogger(None if name == "root" else name)
