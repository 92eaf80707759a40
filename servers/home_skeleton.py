"""The skeleton of a home timeline: which entries stand on a page, before any tweet is fetched.

 1. One round trip to Valkey reads the head of the viewer's window, the tokens that vouch for what
    this process knows of the viewer, and the recent entries of the followed authors that have any
    pulled tweets.
 2. Where a token does not match, the relations are read again, and step 1 is repeated.
 3. A window that is absent is rebuilt from PostgreSQL, once at a time.
 4. The windows are merged, and the rules cut the page out of them.
 5. Where they end too early for the page, the rest comes from PostgreSQL, with the same rules.

While Valkey is away, steps 1 to 4 are left out: slower, and right. They are left out, too, for a
viewer who follows more pulled authors than are merged: step 1 then reads nothing but the tokens.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Container, Coroutine
from typing import Any, NamedTuple

import redis.exceptions

from domain import timeline
from domain.ids import UserId
from domain.timeline import Page, Viewer, Window
from mesh.settings import Settings
from mesh.tasks import Shared
from servers import home_heads
from servers.home_counts import HomeCounts
from servers.home_heads import Heads
from servers.viewers import Known, Viewers
from storage import candidates, windows
from storage.database import Pool
from storage.timelines import LEASE_RENEW_S, TimelineStore, WindowKind
from storage.valkey_connection import Command, HotConnection, pack
from storage.windows import Packed

NOTHING = Window((), (1 << 63) - 1)
ATTEMPTS_MAX = 4  # relations that change as fast as they are read are not worth a cache
OLDER_FIRST = 100  # candidates in the first query past the window; the next ones ask for more
OLDER_LAST = 3_200
REBUILDS_MAX = 4  # at a time; a cold cache must not take the whole database
CACHE_AWAY = (OSError, redis.exceptions.RedisError)

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """Which part of a timeline: the newest `limit` entries with `above` < id < `below`."""

    below: int | None
    above: int
    limit: int


class Read(NamedTuple):
    """What one look at the windows gave."""

    viewer: Viewer
    window: Window
    marks_token: bytes | None


class Look(NamedTuple):
    """What a look at the windows found, for a viewer of whom all that is known holds."""

    known: Known
    windows: list[list[bytes]]
    """The viewer's, and those of the pulled authors: as Valkey has them, some perhaps absent."""
    marks_token: bytes | None


class Skeleton(NamedTuple):
    """A page of entries, for whom it was cut, and the token of the viewer's marks."""

    page: Page
    viewer: Viewer
    marks_token: bytes | None


class HomeSkeleton:
    """Reads home timelines as entries. Raises what PostgreSQL raises."""

    def __init__(
        self,
        *,
        pool: Pool,
        hot: HotConnection,
        timelines: TimelineStore,
        viewers: Viewers,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._hot = hot
        self._timelines = timelines
        self._viewers = viewers
        self._length = settings.timeline_length
        self._distance = settings.repeat_distance
        self._merge_max = settings.pulled_merge_max
        self._rebuilds: dict[tuple[WindowKind, UserId, bytes], Shared[Window]] = {}
        self._rebuild_places = asyncio.Semaphore(REBUILDS_MAX)
        self._kept: OrderedDict[UserId, float] = OrderedDict()
        self._kept_max = settings.viewer_cache_max
        self.counts = HomeCounts()

    async def page(self, user: UserId, asked: Asked, deleted: Container[int]) -> Skeleton:
        """Returns the page asked for, rules applied, without the tweets known to be deleted."""
        read: Read | None = None
        for heads in home_heads.looks(asked.below, asked.limit):
            try:
                read = await self._windows(user, heads)
            except CACHE_AWAY as error:
                log.debug("reading without the cache: %s", error)
                break
            if read.window is NOTHING:
                break
            page = self._cut(read.window, read.viewer, asked, deleted)
            if page.complete:
                return Skeleton(page, read.viewer, read.marks_token)
        if read is None:
            read = Read(await self._viewers.load_without_cache(user), NOTHING, None)
        page = await self._extended(read.window, read.viewer, asked, deleted)
        return Skeleton(page, read.viewer, read.marks_token)

    async def look(self, user: UserId, heads: Heads) -> Look | None:
        """Step 1 alone, for who does the rest in another way (servers/quick_pages.py). Returns None
        where what is known of the viewer does not hold, or the cache is away."""
        known = self._viewers.get(user)
        if known is None or len(known.pulled) > self._merge_max:
            return None
        try:
            return await self._look(user, known, heads)
        except CACHE_AWAY:
            return None

    async def viewing(self, user: UserId) -> tuple[Viewer, bytes | None]:
        """Returns who reads and the token of the viewer's marks, for pages that need no window."""
        known = self._viewers.get(user)
        try:
            for _ in range(ATTEMPTS_MAX):
                if known is not None:
                    read = await self._bypass(user, known)
                    if read is not None:
                        return read.viewer, read.marks_token
                known = await self._viewers.load(user)
        except CACHE_AWAY as error:
            log.debug("reading without the cache: %s", error)
        return await self._viewers.load_without_cache(user), None

    async def rebuild(self, user: UserId) -> None:
        """Makes the window of a home timeline that was dropped, as the next read would."""
        known = await self._viewers.load(user)
        await self._rebuilt(WindowKind.TIMELINE, user, known)

    async def _extended(
        self, window: Window, viewer: Viewer, asked: Asked, deleted: Container[int]
    ) -> Page:
        """Step 5: extends a window downwards until the page is complete."""
        entries, floor = list(window.entries), window.floor
        if asked.below is not None and asked.below <= floor:
            entries, floor = [], asked.below
        wanted = max(OLDER_FIRST, 2 * asked.limit)
        while True:
            self.counts.database_reads += 1
            older = await candidates.fetch_home(
                self._pool, viewer, below=floor, limit=wanted, pulled=True
            )
            entries += older.entries
            floor = older.floor
            page = self._cut(Window(entries, floor), viewer, asked, deleted)
            if page.complete:
                return page
            wanted = min(wanted * 2, OLDER_LAST)

    def _cut(self, window: Window, viewer: Viewer, asked: Asked, deleted: Container[int]) -> Page:
        return timeline.page(
            window,
            viewer,
            below=asked.below,
            above=asked.above,
            limit=asked.limit,
            repeat_distance=self._distance,
            deleted=deleted,
        )

    async def _windows(self, user: UserId, heads: Heads) -> Read:
        """Steps 1 to 4."""
        known = self._viewers.get(user)
        for _ in range(ATTEMPTS_MAX):
            if known is not None:
                many = len(known.pulled) > self._merge_max
                read = await (self._bypass(user, known) if many else self._read(user, known, heads))
                if read is not None:
                    return read
            known = await self._viewers.load(user)
        raise ConnectionError("a viewer's relations change faster than they are read")

    async def _read(self, user: UserId, known: Known, heads: Heads) -> Read | None:
        """Looks once; returns None where `known` is out of date. So do `_look` and `_bypass`."""
        look = await self._look(user, known, heads)
        if look is None:
            return None
        home, *recents = look.windows
        merged = await self._merged(user, known, windows.parse(home), recents, heads.home)
        return Read(known.viewer, merged, look.marks_token)

    async def _look(self, user: UserId, known: Known, heads: Heads) -> Look | None:
        packed = known.first_look if heads == home_heads.FIRST else b""
        if not packed:
            # To make and pack these costs more than all else that is done before they are sent.
            packed = pack(self._look_commands(user, known, heads))
            if heads == home_heads.FIRST:
                known.first_look = packed
        replies = _checked(await self._hot.call_packed(packed, 2 + len(known.pulled)))
        home, tokens, *recents = replies
        if tokens[:2] != [known.viewer_token, known.pulled_token]:
            return None
        if self._is_due(user) and windows.parse(home) is not None:
            await self._keep(user)
        return Look(known, [home, *recents], tokens[2])

    def _look_commands(self, user: UserId, known: Known, heads: Heads) -> list[Command]:
        keys = self._timelines.keys
        recent = heads.recent(len(known.pulled))
        return [
            # The window first, its tokens after: a change in between shows in the tokens.
            ("LRANGE", keys.window(WindowKind.TIMELINE, user), 0, heads.home - 1),
            self._tokens_command(user),
            *(
                ("LRANGE", keys.window(WindowKind.RECENT, author), 0, recent - 1)
                for author in known.pulled
            ),
        ]

    async def _bypass(self, user: UserId, known: Known) -> Read | None:
        """Reads no windows: hundreds of them cost this process and Valkey more than the one query
        that needs none costs PostgreSQL."""
        (tokens,) = _checked(await self._hot.call([self._tokens_command(user)]))
        if tokens[:2] != [known.viewer_token, known.pulled_token]:
            return None
        return Read(known.viewer, NOTHING, tokens[2])

    def _tokens_command(self, user: UserId) -> Command:
        keys = self._timelines.keys
        return ("MGET", keys.viewer(user), keys.pulled_of(user), keys.marks(user))

    def _is_due(self, user: UserId) -> bool:
        return self._kept.get(user, 0.0) < time.monotonic()

    async def _keep(self, user: UserId) -> None:
        """Lengthens the life of a timeline that was found. Not in the read itself: the mark of a
        rebuild whose process died would live as long, and nobody else could rebuild."""
        self._kept[user] = time.monotonic() + LEASE_RENEW_S
        while len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)
        await self._hot.call([self._timelines.keep_command(user)])

    async def _merged(
        self,
        user: UserId,
        known: Known,
        home: Packed | None,
        recents: list[list[bytes]],
        wanted: int | None,
    ) -> Window:
        counts = self.counts
        counts.timelines += 1
        counts.recents += len(known.pulled)
        if home is None:
            counts.timelines_absent += 1
            home = windows.pack(await self._rebuilt(WindowKind.TIMELINE, user, known))
        merged = [home]
        for author, recent_elements in zip(known.pulled, recents, strict=True):
            recent = windows.parse(recent_elements)
            if recent is None:
                counts.recents_absent += 1
                recent = windows.pack(await self._rebuilt(WindowKind.RECENT, author, known))
            merged.append(recent)
        return windows.merge(merged, wanted)

    async def _rebuilt(self, kind: WindowKind, user: UserId, known: Known) -> Window:
        """Step 3: the readers that wait for one window, and know the same of the viewer, share one
        rebuild of it. It stops when the last of them has gone."""
        home = kind is WindowKind.TIMELINE
        key = (kind, user, known.viewer_token if home else b"")
        shared = self._rebuilds.get(key)
        if shared is None:
            shared = Shared(self._rebuild(kind, user, known), lambda: self._rebuilds.pop(key, None))
            self._rebuilds[key] = shared
        return await shared.wait()

    async def _rebuild(self, kind: WindowKind, user: UserId, known: Known) -> Window:
        async with self._rebuild_places:
            home = kind is WindowKind.TIMELINE
            mark = await self._timelines.begin_rebuild(
                kind, user, viewer_token=known.viewer_token if home else None
            )
            try:
                snapshot = await self._snapshot(user, known, home=home)
            except BaseException:
                if mark is not None:
                    # Or nobody could rebuild it while the mark lives.
                    await self._timelines.abandon_rebuild(kind, user, mark)
                raise
            if mark is not None:
                await self._timelines.commit_rebuild(kind, user, mark, snapshot)
            return snapshot

    def _snapshot(self, user: UserId, known: Known, *, home: bool) -> Coroutine[Any, Any, Window]:
        if home:
            return candidates.fetch_home(
                self._pool, known.viewer, below=None, limit=self._length, pulled=False
            )
        return candidates.fetch_recent(self._pool, user, limit=self._length)


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise ConnectionError(f"Valkey refused a read: {reply}")
    return replies
