"""The request that this task works for: its id, in every log line and in what is asked of other
servers for it.

The gateway gives each request an id (`x-request-id`) and answers with it. Who calls a server past
the gateway may bring one, or gets one. Nothing is looked up before somebody asks: most calls log
nothing and ask nobody.
"""

import re
import uuid
from contextvars import ContextVar
from typing import Final

HEADER: Final = "x-request-id"
# Anybody may have written it, and it stands in logs: letters, digits and few signs, and not many.
_SHAPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Metadata = tuple[tuple[str, str | bytes], ...]


class Request:
    """One call that a server answers."""

    __slots__ = ("_id", "_metadata")

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._id = ""

    @property
    def id(self) -> str:
        """Its id: the caller's, where that can be one, else a new one."""
        if not self._id:
            given = self.header(HEADER)
            self._id = given if _SHAPE.fullmatch(given) else str(uuid.uuid4())
        return self._id

    def header(self, name: str) -> str:
        """Returns the first header of that name, as it came; empty where there is none."""
        for key, value in self._metadata:
            if key == name:
                return value if isinstance(value, str) else value.decode("latin-1")
        return ""


CURRENT: ContextVar[Request | None] = ContextVar("CURRENT", default=None)
"""The request of this task; None in loops that work for nobody in particular."""


def begin(metadata: Metadata) -> None:
    """Says what this task, and those that it starts, work for."""
    CURRENT.set(Request(metadata))


def current_id() -> str:
    """Returns the id of the request of this task; empty where there is none."""
    request = CURRENT.get()
    return "" if request is None else request.id


def carried(metadata: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call to another server, with the id of the request behind it."""
    request = CURRENT.get()
    return metadata if request is None else (*metadata, (HEADER, request.id))
