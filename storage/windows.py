"""Windows as they lie in Valkey: lists of 32-byte entries, newest first.

An entry is four numbers, big-endian, so its bytes sort as it does. Several windows are merged by
sorting their bytes, which are a few sorted runs, in C; of a dozen windows only what reaches into
the merged top is sorted at all, and of that only what a page takes is decoded. For the figures see
docs/decisions/0007-home-reads.md.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast, overload

from domain.timeline import Entry, Window

ENTRY = struct.Struct(">QQQQ")
ENTRY_BYTES = ENTRY.size
COMPLETE = bytes(ENTRY_BYTES)
"""The last element of a window that reaches down to the beginning of time."""
SAMPLED = 16  # one of so many elements is compared to find the top of several windows
MARK_ID = b"\xff" * 8
"""How the first element of a window begins that is being rebuilt."""


class Packed(NamedTuple):
    """A window whose entries are bytes; complete above its floor."""

    elements: Sequence[bytes]
    floor: int


class Entries(Sequence[Entry]):
    """Entries that are decoded when they are looked at."""

    __slots__ = ("_packed",)

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def __iter__(self) -> Iterator[Entry]:
        """Decodes one after the other."""
        return cast(Iterator[Entry], ENTRY.iter_unpack(self._packed))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._packed) // ENTRY_BYTES

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        """For those who need no speed: decodes all."""
        return list(self)[index]


def encode(entry: Entry) -> bytes:
    """Returns the 32 bytes of an entry."""
    return ENTRY.pack(*entry)


def encode_all(entries: Iterable[Entry]) -> list[bytes]:
    """Returns the bytes of entries."""
    return [ENTRY.pack(*entry) for entry in entries]


def parse(elements: Sequence[bytes]) -> Packed | None:
    """Returns the window in the first elements of a list, complete above the last of them; None
    where the list is absent or being rebuilt."""
    if not elements or elements[0][:8] == MARK_ID:
        return None
    last = elements[-1]
    if last == COMPLETE:
        return Packed(elements[:-1], 0)
    return Packed(elements, int.from_bytes(last[:8]))


def pack(window: Window) -> Packed:
    """Returns a window with its entries as bytes."""
    return Packed(encode_all(window.entries), window.floor)


def decode(elements: Sequence[bytes]) -> Window | None:
    """The same as `parse`, with all entries decoded."""
    packed = parse(elements)
    if packed is None:
        return None
    return Window(list(Entries(b"".join(packed.elements))), packed.floor)


def merge(windows: Sequence[Packed], wanted: int | None = None) -> Window:
    """Merges windows into one, each entry once.

    Below the newest floor one of the windows may lack entries, so the merged window ends there; or
    above it, where `wanted` is given and so many entries, repeated ones counted, stand there.
    """
    if len(windows) == 1:
        ((elements, floor),) = windows
        return Window(Entries(b"".join(elements)), floor)
    floor = max((window.floor for window in windows), default=0)
    lowest = floor.to_bytes(8)
    if wanted is not None:
        lowest = max(lowest, _top(windows, wanted))
    merged: list[bytes] = []
    for window in windows:
        ascending = window.elements[::-1]
        merged += ascending[bisect_left(ascending, lowest) :]
    merged.sort()
    merged.reverse()
    return Window(Entries(b"".join(dict.fromkeys(merged))), int.from_bytes(lowest[:8]))


def _top(windows: Sequence[Packed], wanted: int) -> bytes:
    """Returns an element at or above which at least `wanted` stand, and not many more: each sample
    has the SAMPLED before it in its window above itself. Empty where there may be too few."""
    samples = [each for window in windows for each in window.elements[SAMPLED - 1 :: SAMPLED]]
    needed = -(-wanted // SAMPLED)
    if needed > len(samples):
        return b""
    samples.sort(reverse=True)
    return samples[needed - 1]
