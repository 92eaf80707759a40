"""Numbers for keys: a hash table from 64-bit keys to 0, 1, 2, ... that takes a whole array at once.

A Python dict costs 100 bytes and 100 ns a key; this costs about 25 bytes and 30 ns. It is what
makes millions of counters fit, with numpy arrays beside it that the numbers point into.

How it works: open addressing with linear probing (Knuth, The Art of Computer Programming 3, 6.4,
algorithm L), all keys of an array probing in step.
 1. Each key begins at its slot (Fibonacci hashing).
 2. Those that find their key or an empty slot are done; the others look one slot further.
 3. New keys that want the same empty slot all write to it; the one that finds itself there has it,
    the others go on from step 2, where a repeated key finds itself.
"""

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]

CAPACITY_FIRST = 1 << 10
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class DenseIndex:
    """Numbers keys in the order in which they come. Keys are never taken out: make a new one."""

    def __init__(self) -> None:
        self._keys = np.zeros(CAPACITY_FIRST // 2, np.uint64)
        self._count = 0
        self._slots = np.zeros(CAPACITY_FIRST, np.uint32)  # number + 1; 0 is empty

    def __len__(self) -> int:
        """How many keys have a number."""
        return self._count

    @property
    def keys(self) -> U64:
        """The keys, each at its number."""
        return self._keys[: self._count]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self._keys.nbytes + self._slots.nbytes

    def find(self, key: int) -> int | None:
        """Returns the number of one key."""
        mask = len(self._slots) - 1
        slot = ((key * int(_GOLDEN)) & 0xFFFFFFFFFFFFFFFF) >> self._shift()
        while (number := int(self._slots[slot])) != 0:
            if int(self._keys[number - 1]) == key:
                return number - 1
            slot = (slot + 1) & mask
        return None

    def number(self, keys: U64) -> U32:
        """Returns the number of each key; new ones get the next. Keys may repeat."""
        self._reserve(self._count + len(keys))
        numbers = np.empty(len(keys), np.uint32)
        mask = np.uint64(len(self._slots) - 1)
        waiting = np.arange(len(keys))
        slots = (keys * _GOLDEN) >> np.uint64(self._shift())
        while len(waiting):
            found = self._slots[slots]
            empty = np.flatnonzero(found == 0)
            if len(empty):
                new = self._append(keys[waiting[empty]])
                self._slots[slots[empty]] = new
                won = self._slots[slots[empty]] == new
                self._forget_losers(new, won, slots[empty])
                found = self._slots[slots]
            same = (found != 0) & (self._keys[found - np.uint32(1)] == keys[waiting])
            numbers[waiting[same]] = found[same] - np.uint32(1)
            waiting, slots = waiting[~same], (slots[~same] + np.uint64(1)) & mask
        return numbers

    def _append(self, keys: U64) -> U32:
        begin = self._count
        self._keys[begin : begin + len(keys)] = keys
        self._count = begin + len(keys)
        return np.arange(begin + 1, self._count + 1, dtype=np.uint32)

    def _forget_losers(self, new: U32, won: NDArray[np.bool_], slots: U64) -> None:
        """Closes the gaps that keys without a slot left in the numbering."""
        if won.all():
            return
        begin = int(new[0]) - 1
        kept = self._keys[begin : self._count][won]
        self._keys[begin : begin + len(kept)] = kept
        self._count = begin + len(kept)
        self._slots[slots[won]] = np.arange(begin + 1, self._count + 1, dtype=np.uint32)

    def _reserve(self, count: int) -> None:
        if count > len(self._keys):
            keys = np.zeros(max(count, 2 * len(self._keys)), np.uint64)
            keys[: self._count] = self.keys
            self._keys = keys
        capacity = len(self._slots)
        while capacity < 2 * count:
            capacity *= 2
        if capacity > len(self._slots):
            self._slots = np.zeros(capacity, np.uint32)
            old, self._count = self.keys.copy(), 0
            # One at a time into an empty table: the same numbers again, chunk by chunk.
            self._renumber(old)

    def _renumber(self, keys: U64) -> None:
        self._keys[: len(keys)] = keys
        self._count = len(keys)
        mask = np.uint64(len(self._slots) - 1)
        numbers = np.arange(1, len(keys) + 1, dtype=np.uint32)
        slots = (keys * _GOLDEN) >> np.uint64(self._shift())
        while len(numbers):
            empty = self._slots[slots] == 0
            self._slots[slots[empty]] = numbers[empty]
            placed = self._slots[slots] == numbers
            numbers, slots = numbers[~placed], (slots[~placed] + np.uint64(1)) & mask

    def _shift(self) -> int:
        return 64 - (len(self._slots).bit_length() - 1)
