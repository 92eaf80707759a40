"""What a batch delivers, gathered by window.

A window costs Valkey the same few misses of the processor's caches whether one entry comes or ten,
and they are most of what a delivery costs. So all that goes to one window goes there at once. The
arrays are numpy's: a delivery costs Python nothing, only a window does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.windows import ENTRY_BYTES

Ids = NDArray[np.int64]


class Part(NamedTuple):
    """An entry and the windows that it goes to: a viewer's timeline by the viewer's id, an author's
    recent tweets by the author's, negative. `urgency` orders windows: the least first."""

    entry: bytes
    windows: Ids
    urgency: int


class Gathered:
    """Deliveries in the order in which they are sent: window after window, in each the oldest entry
    first and none twice. Windows that have something urgent come first."""

    def __init__(self, parts: Sequence[Part], *, timeline: bytes, recent: bytes) -> None:
        self._timeline, self._recent = timeline, recent
        # Entries sort as their ids do.
        ordered = sorted(parts, key=lambda part: part.entry)
        sizes = [len(part.windows) for part in ordered]
        # The same entry from two events has one place.
        places = {entry: at for at, entry in enumerate(dict.fromkeys(p.entry for p in ordered))}
        windows = np.concatenate([part.windows for part in ordered])
        entries = np.repeat([places[part.entry] for part in ordered], sizes)
        urgency = np.repeat([part.urgency for part in ordered], sizes)
        order = np.argsort(windows, kind="stable")
        windows, entries, urgency = windows[order], entries[order], urgency[order]
        if len(windows):
            new_window = np.concatenate(([True], windows[1:] != windows[:-1]))
            fresh = new_window | np.concatenate(([True], entries[1:] != entries[:-1]))
            windows, entries, urgency = windows[fresh], entries[fresh], urgency[fresh]
            starts = np.flatnonzero(new_window[fresh])
        else:
            starts = np.zeros(0, np.int64)
        self._number = len(windows)
        self._arrange(windows, entries, urgency, starts, b"".join(places))

    def _arrange(
        self, windows: Ids, entries: Ids, urgency: Ids, starts: Ids, content: bytes
    ) -> None:
        counts = np.diff(starts, append=self._number)
        rank = np.argsort(np.minimum.reduceat(urgency, starts), kind="stable") if len(starts) else starts
        counts = counts[rank]
        ends = np.cumsum(counts)
        sent = np.arange(self._number) + np.repeat(starts[rank] - (ends - counts), counts)
        rows = np.frombuffer(content, np.uint8).reshape(-1, ENTRY_BYTES)
        self._content = rows[entries[sent]].tobytes()
        self._windows: list[int] = windows[starts[rank]].tolist()
        self._ends: list[int] = ends.tolist()
        self._window = 0

    def __len__(self) -> int:
        """How many deliveries there are."""
        return self._number

    def arguments(self, begin: int, limit: int) -> list[bytes]:
        """Returns at most `limit` deliveries from the one numbered `begin` on, which must not be
        before that of an earlier call: key and entries of each window."""
        end = min(begin + limit, self._number)
        while self._ends[self._window] <= begin:
            self._window += 1
        arguments: list[bytes] = []
        timeline, recent, content = self._timeline, self._recent, self._content
        at, number = begin, self._window
        while at < end:
            window, stop = self._windows[number], min(self._ends[number], end)
            arguments.append(
                b"%b%d" % (timeline, window) if window > 0 else b"%b%d" % (recent, -window)
            )
            arguments.append(content[ENTRY_BYTES * at : ENTRY_BYTES * stop])
            at, number = stop, number + 1
        return arguments
