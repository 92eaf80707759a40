"""Where the home streams of a server get what they deliver: what all of them share."""

import asyncio
import time
from collections.abc import Callable

from eventlog.contract import Reader
from mesh.streams import RESYNC_REQUIRED, Ended
from servers.home_log import Base, HomeLog
from servers.home_turns import Turns
from servers.log_tail import LogTail

READERS_MAX = 4  # streams that read the log at once; others wait for their turn


class Source:
    """The server's memory of the log, the log itself, and how far both reach."""

    def __init__(
        self,
        tail: LogTail,
        reader: Reader,
        *,
        queue_max: int,
        resume_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.tail = tail
        self.reader = reader
        self.log = HomeLog(tail.reach.positions)
        self.queue_max = queue_max
        self.readers = asyncio.Semaphore(READERS_MAX)
        self.turns = Turns()
        self._resume_s = resume_s
        self._clock = clock
        self._base = Base(tail.reach, tail.at)

    @property
    def base(self) -> Base:
        """How far the server has read; one object as long as that does not change."""
        if self._base.reach() is not self.tail.reach or self._base.at != self.tail.at:
            self._base = Base(self.tail.reach, self.tail.at)
        return self._base

    def check_age(self, at: int) -> None:
        """Raises Ended where what came since is no longer sent again into a log that was lost."""
        if at < self._clock() - self._resume_s:
            raise Ended(RESYNC_REQUIRED)
