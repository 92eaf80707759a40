"""The limit and the cursor that every list takes.

A cursor is base64url of 9 bytes: a version and the id of the last entry that was given. It holds
no state of a server, so it is valid for ever; clients treat it as opaque.
"""

import base64
import binascii
import re

from domain.errors import InvalidArgument
from domain.ids import MAX_ID

LIMIT_DEFAULT = 20
LIMIT_MAX = 100

CURSOR_VERSION = 1
_CURSOR_SHAPE = re.compile(r"[A-Za-z0-9_-]{12}")  # 9 bytes make 12 characters, without padding


def limit(value: int | None, *, default: int = LIMIT_DEFAULT, maximum: int = LIMIT_MAX) -> int:
    """Returns how many entries to answer: `default` where absent, at most `maximum`.

    Raises InvalidArgument below 1.
    """
    if value is None:
        return default
    if value < 1:
        raise InvalidArgument.of("limit", "must be at least 1")
    return min(value, maximum)


def encode_cursor(position: int) -> str:
    """Returns the cursor for the page below the id `position`, which is 1 to MAX_ID."""
    if not 1 <= position <= MAX_ID:
        raise ValueError(f"a cursor stands at an id, not at {position}")
    return base64.urlsafe_b64encode(bytes([CURSOR_VERSION]) + position.to_bytes(8, "big")).decode()


def decode_cursor(text: str) -> int | None:
    """Returns the id that a cursor stands at, or None for the first page (an empty cursor).

    Raises InvalidArgument for anything that `encode_cursor` does not write.
    """
    if not text:
        return None
    if _CURSOR_SHAPE.fullmatch(text):
        try:
            content = base64.urlsafe_b64decode(text)
        except binascii.Error:
            content = b""
        position = int.from_bytes(content[1:], "big")
        if content[:1] == bytes([CURSOR_VERSION]) and 1 <= position <= MAX_ID:
            return position
    raise InvalidArgument.of("cursor", "is not the nextCursor of an earlier page")
