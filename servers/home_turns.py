"""Wakes streams a few at a time. A tweet is for all streams that watch its author at once, and a
thousand that wake in one turn of the loop would hold up every read for as long as they all take.
Between two turns, whoever else has something to do does it."""

import asyncio
from collections import deque

AT_ONCE = 16


class Turns:
    """The streams of a server that are to wake, in the order in which they were told."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def wake(self, sleeper: "asyncio.Future[None]") -> None:
        """Sets a future that a stream waits for, when it is its turn; one that was cancelled by
        then takes none."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._take_turn)
        self._waiting.append(sleeper)

    def _take_turn(self) -> None:
        woken = 0
        while self._waiting and woken < AT_ONCE:
            sleeper = self._waiting.popleft()
            if not sleeper.done():
                sleeper.set_result(None)
                woken += 1
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._take_turn)
