"""Resume tokens of home streams: how far the event log was read for a stream, as text.

A token says, for each partition of the log, the position up to which it was read, and a floor: a
sequence up to which every event was seen. With it come the sequences of the delivered events that
are above their floor: they, and those at or below a floor, are known when they come again, in a log
that was filled anew, too. And it says when, because a lost log is filled with what is kept only.

As bytes: version; how many zeros fill the first part up to a multiple of three bytes; then numbers
as protobuf writes them (7 bits a byte, the least first): time; partitions; of each its position's
numbers (how many, then each) and its floor; the zeros; then the sequence that the stream began
behind, and partition and sequence of each delivered event. The first part is the same for all
streams that saw the same event, so it is made once, and its base64 is the beginning of the token's.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from domain import varint
from domain.errors import InvalidArgument

VERSION = 2  # of all resume tokens; 1 is a place (domain/notification.py)
DELIVERED_MAX = 512
TEXT_MAX = 16_384
_POSITION_PARTS_MAX = 4
_NUMBER_MAX = (1 << 64) - 1


class Delivered(NamedTuple):
    """An event that was delivered and is above the floor of its partition."""

    partition: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. `at` is in seconds since 1970: what came before was seen."""

    at: int
    positions: tuple[str, ...]
    floors: tuple[int, ...]
    since: int
    """Events up to this sequence are older than the stream; 0 where positions tell that alone."""
    delivered: tuple[Delivered, ...]


def encode_reach(*, at: int, positions: Sequence[str], floors: Sequence[int]) -> str:
    """Returns the beginning of the tokens of all streams that got as far as this."""
    numbers = [at, len(positions)]
    for position, floor in zip(positions, floors, strict=True):
        parts = [int(part) for part in position.split("-")] if position else []
        numbers += [len(parts), *parts, floor]
    content = b"".join(map(varint.encode, numbers))
    zeros = -(2 + len(content)) % 3
    return _text(bytes((VERSION, zeros)) + content + bytes(zeros))


def encode_own(*, since: int, delivered: Iterable[Delivered]) -> str:
    """Returns the end of a token: what is the stream's own."""
    numbers = [since]
    for each in delivered:
        numbers += each
    return _text(b"".join(map(varint.encode, numbers)))


def decode(text: str, *, partitions: int) -> Token:
    """Returns what a token says; raises InvalidArgument for anything else."""
    try:
        return _decode(text, partitions)
    except (ValueError, IndexError, binascii.Error):
        raise InvalidArgument.of(
            "resumeToken", "is not the resumeToken of an earlier message"
        ) from None


def _decode(text: str, partitions: int) -> Token:
    if len(text) > TEXT_MAX:
        raise ValueError("too long")
    content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if content[0] != VERSION or content[1] > 2:
        raise ValueError("another kind of token")
    numbers = _Numbers(content, 2)
    at, count = numbers.next(), numbers.next()
    if count != partitions:
        raise ValueError("of another log")
    positions: list[str] = []
    floors: list[int] = []
    for _ in range(count):
        parts = numbers.next()
        if parts > _POSITION_PARTS_MAX or parts == 1:
            raise ValueError("not a position")
        positions.append("-".join(str(numbers.next()) for _ in range(parts)))
        floors.append(numbers.next())
    numbers.skip_zeros(content[1])
    since = numbers.next()
    delivered: list[Delivered] = []
    while not numbers.at_end:
        delivered.append(Delivered(numbers.next(), numbers.next()))
        if delivered[-1].partition >= partitions or len(delivered) > DELIVERED_MAX:
            raise ValueError("not what was delivered")
    return Token(at, tuple(positions), tuple(floors), since, tuple(delivered))


class _Numbers:
    """Reads numbers from bytes, one after the other."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content = content
        self._place = start

    @property
    def at_end(self) -> bool:
        return self._place == len(self._content)

    def next(self) -> int:
        value = shift = 0
        while True:
            byte = self._content[self._place]
            self._place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise ValueError("too large")
        if value > _NUMBER_MAX:
            raise ValueError("too large")
        return value

    def skip_zeros(self, count: int) -> None:
        if any(self._content[self._place : self._place + count]):
            raise ValueError("not zeros")
        self._place += count


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
