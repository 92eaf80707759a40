"""Who watches whom: an index from each author to the viewers with open home streams, so that a
tweet costs what it reaches, and not one subscription for each followed account.

The index may name too many, never too few: an author is in it from the moment the log or the purge
feed says that a viewer follows. The rules decide at delivery, from relations that were read after
the last word that they changed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Set
from itertools import chain
from typing import Protocol

from chirp.v1 import events_pb2

from domain.ids import UserId
from domain.timeline import Viewer
from eventlog.outages import Backoff, is_outage
from mesh import errors
from servers.home_log import Sighting
from storage import purges

LOADS_MAX = 4  # relations read at once; a database that came back must not drown in them

log = logging.getLogger(__name__)


class Stream(Protocol):
    """An open stream, as far as it is handed what may be for it."""

    def offer(self, sighting: Sighting) -> None:
        """Takes what may be for this stream. Must not block."""
        ...


class Watch:
    """A viewer with open streams. `relations` are good while `stale` is False."""

    # Thousands of them at a time: no dictionary for each.
    __slots__ = ("added", "changes", "indexed", "loaded", "loading", "relations", "streams", "user")

    def __init__(self, user: UserId) -> None:
        self.user = user
        self.relations = Viewer(user)
        self.changes = 1
        """How often its relations were said to have changed."""
        self.loaded = 0
        """`changes` when the relations were read; 0: never."""
        self.streams: set[Stream] = set()
        self.indexed: Set[UserId] = frozenset()
        """The followed accounts that are in the index because of this watch, beside its own and
        what was added."""
        self.added: frozenset[UserId] = frozenset()
        """Followed since, so that relations do not tell yet."""
        self.loading: asyncio.Task[None] | None = None

    @property
    def authors(self) -> Iterable[UserId]:
        """Whose tweets are offered; some may come twice."""
        return chain((self.user,), self.indexed, self.added)

    @property
    def stale(self) -> bool:
        """Whether the relations may have changed since they were read."""
        return self.loaded < self.changes


class Watches:
    """All watches of a server."""

    def __init__(self, load: Callable[[UserId], Awaitable[Viewer]]) -> None:
        self._load = load
        self._places = asyncio.Semaphore(LOADS_MAX)
        self._watches: dict[UserId, Watch] = {}
        self._by_author: dict[UserId, set[Watch]] = {}

    def of_author(self, author: UserId) -> Iterable[Watch]:
        """Returns whom a tweet of this author may concern."""
        return self._by_author.get(author, ())

    async def join(self, user: UserId, stream: Stream) -> Watch:
        """Adds a stream; its watch's relations are loaded when this returns. Raises what the
        database raises; then it is not added."""
        watch = self._watches.get(user)
        if watch is None:
            watch = self._watches[user] = Watch(user)
            self._by_author.setdefault(user, set()).add(watch)
        watch.streams.add(stream)
        try:
            await self.settle(watch)
        except BaseException:
            self.leave(watch, stream)
            raise
        return watch

    def leave(self, watch: Watch, stream: Stream) -> None:
        """Takes a stream out."""
        watch.streams.discard(stream)
        if not watch.streams and self._watches.get(watch.user) is watch:
            del self._watches[watch.user]
            for author in set(watch.authors):
                self._remove(author, watch)

    async def settle(self, watch: Watch) -> None:
        """Returns when the relations are good; raises what the database raises."""
        while watch.stale:
            self._begin_loading(watch)
            # One stream that ends must not take the loading from the others.
            if watch.loading is not None:
                await asyncio.shield(watch.loading)

    def on_event(self, event: events_pb2.Event) -> None:
        """Takes note of an event that changes relations."""
        match event.WhichOneof("kind"):
            case "user_followed":
                follow = event.user_followed
                watch = self._watches.get(UserId(follow.follower_id))
                if watch is not None:
                    # At once: the next event may be a tweet of the followed account.
                    followee = UserId(follow.followee_id)
                    watch.added |= {followee}
                    self._by_author.setdefault(followee, set()).add(watch)
                    self._spoil(watch)
            case "user_unfollowed":
                self._spoil_of(event.user_unfollowed.follower_id)
            case "user_blocked":
                self._spoil_of(event.user_blocked.user_id, event.user_blocked.other_id)
            case "user_unblocked":
                self._spoil_of(event.user_unblocked.user_id, event.user_unblocked.other_id)
            case "user_muted":
                self._spoil_of(event.user_muted.user_id)
            case "user_unmuted":
                self._spoil_of(event.user_unmuted.user_id)
            case _:
                pass

    def on_purge(self, purge: purges.Purge) -> None:
        """Takes note of relations that changed, also while the event log is behind."""
        if purge.kind is purges.Kind.VIEWER:
            self._spoil_of(purge.subject_id)
        elif purge.kind is purges.Kind.ERASED:
            for watch in self.of_author(UserId(purge.subject_id)):
                self._spoil(watch)

    def spoil_all(self) -> None:
        """Whose relations changed is not known."""
        for watch in self._watches.values():
            self._spoil(watch)

    def _spoil_of(self, *users: int) -> None:
        for user in users:
            watch = self._watches.get(UserId(user))
            if watch is not None:
                self._spoil(watch)

    def _spoil(self, watch: Watch) -> None:
        watch.changes += 1
        self._begin_loading(watch)

    def _begin_loading(self, watch: Watch) -> None:
        if watch.loading is None:
            watch.loading = asyncio.create_task(self._reload(watch))
            # A failure is for those who wait for it, if anybody does.
            watch.loading.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _reload(self, watch: Watch) -> None:
        """Loads until nothing changed meanwhile. A first load that fails is its caller's to know;
        the streams of a later one wait until it is good again."""
        backoff = Backoff()
        try:
            while watch.stale and watch.streams:
                changes = watch.changes
                try:
                    async with self._places:
                        relations = await self._load(watch.user)
                except Exception as error:
                    if not watch.loaded:
                        raise
                    if not is_outage(error):
                        log.error("cannot load relations: %s", errors.describe(error))
                    await backoff.wait()
                    continue
                watch.relations, watch.loaded = relations, changes
                if not watch.stale:
                    self._index(watch)
        finally:
            watch.loading = None

    def _index(self, watch: Watch) -> None:
        """Makes the index say what the relations say."""
        followees = watch.relations.followees
        before, watch.indexed = {*watch.indexed, *watch.added}, followees
        watch.added = frozenset()
        for author in before - followees - {watch.user}:
            self._remove(author, watch)
        for author in followees - before:
            self._by_author.setdefault(author, set()).add(watch)

    def _remove(self, author: UserId, watch: Watch) -> None:
        watching = self._by_author[author]
        watching.discard(watch)
        if not watching:
            del self._by_author[author]
