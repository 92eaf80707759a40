"""What a batch delivers, gathered by window.

A window costs Valkey the same few misses of the processor's caches whether one entry comes or ten,
and they are most of what a delivery costs. So all that goes to one window goes there at once. The
arrays are numpy's: a delivery costs Python nothing, only a window does.
"""

from bisect import bisect_left, bisect_right
from operator import gt

import numpy as np
from numpy.typing import NDArray

from storage.windows import ENTRY_BYTES

Ids = NDArray[np.int64]


class Parts:
    """Entries and the windows that each goes to, as they are collected."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.windows: list[Ids] = []
        self.urgency: list[int] = []

    def add(self, entry: bytes, windows: Ids, urgency: int) -> None:
        """Adds an entry: a viewer's timeline is named by the viewer's id, an author's recent tweets
        by the author's, negative. What has the least urgency number is sent first."""
        self.entries.append(entry)
        self.windows.append(windows)
        self.urgency.append(urgency)


class Gathered:
    """Deliveries in the order in which they are sent: window after window, in each the oldest entry
    first and none twice. Windows that have something urgent come first."""

    def __init__(self, parts: Parts, *, timeline: bytes, recent: bytes) -> None:
        self._timeline, self._recent = timeline, recent
        # Entries sort as their ids do; the same one from two events has one place.
        ordered = sorted(set(parts.entries))
        places = {entry: place for place, entry in enumerate(ordered)}
        place_of = [places[entry] for entry in parts.entries]
        if any(map(gt, place_of, place_of[1:])):
            in_order = sorted(range(len(place_of)), key=place_of.__getitem__)
            place_of = [place_of[at] for at in in_order]
            parts.windows = [parts.windows[at] for at in in_order]
            parts.urgency = [parts.urgency[at] for at in in_order]
        sizes = np.fromiter(map(len, parts.windows), np.int64, len(place_of))
        windows = np.concatenate(parts.windows)
        entries = np.repeat(np.array(place_of), sizes)
        urgency = np.repeat(np.array(parts.urgency), sizes)
        # Of one window the entries stay in order.
        order = np.argsort(windows, kind="stable")
        windows, entries, urgency = windows[order], entries[order], urgency[order]
        new_window = np.diff(windows, prepend=0) != 0  # nobody's id is 0
        fresh = new_window | (np.diff(entries, prepend=-1) != 0)
        starts = np.flatnonzero(new_window)
        most_urgent = np.minimum.reduceat(urgency, starts) if len(starts) else urgency
        windows, entries, new_window = windows[fresh], entries[fresh], new_window[fresh]
        self._number = len(windows)
        starts = np.flatnonzero(new_window)
        rank = np.argsort(most_urgent, kind="stable")
        counts = np.diff(starts, append=self._number)[rank]
        ends = np.cumsum(counts)
        sent = np.arange(self._number) + np.repeat(starts[rank] - (ends - counts), counts)
        rows = np.frombuffer(b"".join(ordered), f"V{ENTRY_BYTES}")
        self._content = rows[entries[sent]].tobytes()
        self._windows: list[int] = windows[starts[rank]].tolist()
        self._ends: list[int] = ends.tolist()

    def __len__(self) -> int:
        """How many deliveries there are."""
        return self._number

    def arguments(self, begin: int, end: int) -> list[bytes]:
        """Returns the deliveries from one number to before another: key and entries of each
        window."""
        arguments: list[bytes] = []
        timeline, recent, content = self._timeline, self._recent, self._content
        at, number = ENTRY_BYTES * begin, bisect_right(self._ends, begin)
        until = bisect_left(self._ends, end) + 1
        for window, stop in zip(self._windows[number:until], self._ends[number:until], strict=True):
            behind = ENTRY_BYTES * min(stop, end)
            arguments += (
                timeline + b"%d" % window if window > 0 else recent + b"%d" % -window,
                content[at:behind],
            )
            at = behind
        return arguments
