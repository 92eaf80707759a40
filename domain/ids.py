"""The id types, and the generator of 64-bit ids that grow with time."""

from typing import NewType

UserId = NewType("UserId", int)
TweetId = NewType("TweetId", int)

EPOCH_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z; 41 bits of milliseconds last until 2093
WORKER_BITS = 10
SEQUENCE_BITS = 12
WORKER_COUNT = 1 << WORKER_BITS
_SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
MAX_ID = (1 << 63) - 1


class SnowflakeGenerator:
    """Mints ids of 41 bits of time, 10 bits of worker and 12 bits of sequence.

    Ids of one generator strictly grow, also when the clock steps back: it then keeps the last
    time it saw and counts on, borrowing the next millisecond where a sequence is used up (Twitter's
    Snowflake refuses instead). Two generators never share an id while their worker numbers differ.
    `floor_ms` is the least time to stamp, so that a number handed on from an earlier process
    whose clock was ahead repeats nothing.
    """

    __slots__ = ("_last_ms", "_sequence", "_worker")

    def __init__(self, worker: int, *, floor_ms: int = EPOCH_MS) -> None:
        if not 0 <= worker < WORKER_COUNT:
            raise ValueError(f"worker must be 0 to {WORKER_COUNT - 1}, not {worker}")
        self._worker = worker
        # As if the millisecond below the floor were used up: nothing is ever stamped with it.
        self._last_ms = max(floor_ms, EPOCH_MS) - 1
        self._sequence = _SEQUENCE_MASK

    @property
    def last_ms(self) -> int:
        """The time stamped on the newest id, in milliseconds since 1970."""
        return self._last_ms

    def mint(self, now_ms: int) -> int:
        """Returns a new id for the time `now_ms`, in milliseconds since 1970."""
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._sequence = 0
        else:
            self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
            if self._sequence == 0:
                self._last_ms += 1
        return (
            (self._last_ms - EPOCH_MS) << (WORKER_BITS + SEQUENCE_BITS)
            | self._worker << SEQUENCE_BITS
            | self._sequence
        )


def minted_at_ms(snowflake: int) -> int:
    """Returns the time in an id, in milliseconds since 1970."""
    return (snowflake >> (WORKER_BITS + SEQUENCE_BITS)) + EPOCH_MS


def first_id_at(ms: int) -> int:
    """Returns the lowest id that can be minted at a time, in milliseconds since 1970."""
    return max(ms - EPOCH_MS, 0) << (WORKER_BITS + SEQUENCE_BITS)
