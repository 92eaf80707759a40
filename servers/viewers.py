"""What the rules need to know of a viewer, kept in the process as long as it holds.

A token in Valkey vouches for what is kept: it was set before PostgreSQL was read, and each change
of a viewer's follows deletes it after it committed. A read of a timeline brings the token along.
"""

from collections import OrderedDict
from dataclasses import dataclass

from domain.ids import UserId
from domain.timeline import Viewer
from mesh import metrics
from mesh.catalogue import CACHE_LOOKUPS
from mesh.metrics import Sample
from mesh.settings import Settings
from servers.purge_feed import PurgeFeed
from storage import candidates, purges
from storage.database import Pool
from storage.timelines import TimelineStore

CHANGED_MAX = 10_000  # changes remembered for relations that are being read
FOLLOWEES_EACH = 20  # the cache's bound in followees, per viewer of its bound in viewers


@dataclass(slots=True)
class Known:
    """A viewer's relations, and the tokens under which they were read."""

    viewer: Viewer
    pulled: tuple[UserId, ...]
    """The followed authors that have pulled tweets."""
    viewer_token: bytes
    pulled_token: bytes
    first_look: bytes = b""
    """What asks Valkey for a first page, packed when it was first asked for."""
    packed: tuple[bytes, bytes] | None = None
    """Followees and hidden accounts, as servers/quick_pages.py packs them."""


class Viewers:
    """Viewer -> relations. Bounded by viewers and by followees; the oldest goes first."""

    def __init__(
        self, pool: Pool, timelines: TimelineStore, feed: PurgeFeed, settings: Settings
    ) -> None:
        self._pool = pool
        self._feed = feed
        self._timelines = timelines
        self._shards = settings.timeline_shards
        self._max = settings.viewer_cache_max
        self._followees = 0
        self._known: OrderedDict[UserId, Known] = OrderedDict()
        self._pulled_authors: dict[bytes, frozenset[UserId]] = {}
        self._changes = 0
        self._changed: OrderedDict[int, int] = OrderedDict()
        self._erased_at = 0
        """`_changes` when an account was deleted last, which changes whoever follows it."""
        self.asked = 0
        self.loaded = 0

    @property
    def size(self) -> str:
        """How much is kept, and the bound."""
        return f"{len(self._known)} of at most {self._max} viewers"

    def get(self, user: UserId) -> Known | None:
        """Returns what is kept of a viewer. Valid only while both tokens stand."""
        self.asked += 1
        return self._known.get(user) if self._feed.fresh else None

    async def load(self, user: UserId) -> Known:
        """Reads a viewer's relations anew; raises what Valkey or PostgreSQL raise."""
        self.loaded += 1
        keys = self._timelines.keys
        changes = self._changes
        viewer_token = await self._timelines.ensure_token(keys.viewer(user))
        pulled_token = await self._timelines.ensure_token(keys.pulled_of(user))
        viewer = await self.load_without_cache(user)
        authors = await self._pulled(pulled_token)
        pulled = tuple(viewer.followees & authors)
        known = Known(viewer, pulled, viewer_token, pulled_token)
        # Relations that changed while they were read may be the old ones: use them, keep them not.
        if max(self._changed.get(user, 0), self._erased_at) <= changes:
            self._keep(user, known)
        return known

    async def collect(self) -> list[Sample]:
        """Returns hits and misses."""
        hits = self.asked - self.loaded
        return metrics.of_cache(CACHE_LOOKUPS, "viewers", hits=max(0, hits), misses=self.loaded)

    def on_purge(self, purge: purges.Purge) -> None:
        """Forgets a viewer whose relations changed. The token would say so too, but a server that
        is killed between its commit and the drop leaves the token standing until the event comes.
        """
        if purge.kind is purges.Kind.VIEWER:
            self._changes += 1
            self._forget(UserId(purge.subject_id))
            self._changed[purge.subject_id] = self._changes
            self._changed.move_to_end(purge.subject_id)
            while len(self._changed) > CHANGED_MAX:
                self._changed.popitem(last=False)
        elif purge.kind is purges.Kind.ERASED and not purge.version:
            self._changes += 1
            self._erased_at = self._changes
            for user in [
                u for u, k in self._known.items() if purge.subject_id in k.viewer.followees
            ]:
                self._forget(user)

    def forget_all(self) -> None:
        """Forgets every viewer."""
        self._known.clear()
        self._followees = 0

    async def load_without_cache(self, user: UserId) -> Viewer:
        """Reads a viewer's relations from PostgreSQL alone, and keeps nothing."""
        return Viewer(
            user,
            await candidates.fetch_followees(self._pool, user),
            await candidates.fetch_hidden(self._pool, user),
        )

    async def _pulled(self, token: bytes) -> frozenset[UserId]:
        authors = self._pulled_authors.get(token)
        if authors is None:
            authors = await candidates.fetch_pulled_authors(self._pool)
            while len(self._pulled_authors) >= self._shards:
                del self._pulled_authors[next(iter(self._pulled_authors))]
            self._pulled_authors[token] = authors
        return authors

    def _keep(self, user: UserId, known: Known) -> None:
        self._forget(user)
        self._known[user] = known
        self._followees += len(known.viewer.followees)
        while len(self._known) > self._max or self._followees > self._max * FOLLOWEES_EACH:
            self._forget(next(iter(self._known)))

    def _forget(self, user: UserId) -> None:
        known = self._known.pop(user, None)
        if known is not None:
            self._followees -= len(known.viewer.followees)
