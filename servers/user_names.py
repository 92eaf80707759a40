"""Account names for tweets, asked of graph_server and kept in the process."""

from collections import OrderedDict
from collections.abc import Iterable

from chirp.v1 import user_pb2, user_pb2_grpc

from mesh import metrics
from mesh.catalogue import CACHE_LOOKUPS
from mesh.metrics import Sample
from mesh.settings import Settings
from servers import tweet_records
from storage import purges

BATCH_MAX = 1_000


class UserNames:
    """Account id -> the bytes of `Tweet.author`. Bounded; the longest unused goes first."""

    def __init__(
        self, directory: "user_pb2_grpc.UserDirectoryServiceAsyncStub",
        settings: Settings,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._max = settings.user_cache_max
        self._fields: OrderedDict[int, bytes] = OrderedDict()
        self.generation = 0
        """Rises when names are forgotten because they may have changed: what was made of names
        under an earlier generation is to be made again."""
        self.hits = 0
        self.misses = 0

    @property
    def size(self) -> str:
        """How much is kept, and the bound."""
        return f"{len(self._fields)} of at most {self._max} names"

    async def fields(self, ids: Iterable[int], *, trusted: bool) -> dict[int, bytes]:
        """Returns the author field of each account; an unknown account's holds its id only.

        `trusted` says whether the purge feed vouches for what is kept. Raises AioRpcError.
        """
        wanted = set(ids)
        known = {user: self._fields[user] for user in wanted if user in self._fields}
        if trusted and len(known) == len(wanted):
            self.hits += len(known)
            return known
        missing = list(wanted - known.keys() if trusted else wanted)
        self.hits += len(wanted) - len(missing)
        self.misses += len(missing)
        generation = self.generation
        for start in range(0, len(missing), BATCH_MAX):
            batch = missing[start : start + BATCH_MAX]
            answer = await self._directory.BatchGetUserSummaries(
                user_pb2.BatchGetUserSummariesRequest(ids=batch)
            )
            for summary in answer.users:
                known[summary.id] = tweet_records.author_field(summary)
                # A name that changed while we asked may be the old one: answer it, keep it not.
                if self.generation == generation:
                    self._keep(summary.id, known[summary.id])
            for user in batch:
                if user not in known:
                    known[user] = tweet_records.author_field(user_pb2.UserSummary(id=user))
        return known

    def keeps(self, user: int) -> bool:
        """Whether an account's name is kept, so that a change of it raises the generation."""
        return user in self._fields

    async def collect(self) -> list[Sample]:
        """Returns hits and misses."""
        return metrics.of_cache(CACHE_LOOKUPS, "names", hits=self.hits, misses=self.misses)

    def on_purge(self, purge: purges.Purge) -> None:
        """Forgets a name that changed."""
        if purge.kind is purges.Kind.USER:
            self.generation += 1
            self._fields.pop(purge.subject_id, None)

    def forget_all(self) -> None:
        """Forgets everything."""
        self.generation += 1
        self._fields.clear()

    def _keep(self, user: int, field: bytes) -> None:
        self._fields[user] = field
        while len(self._fields) > self._max:
            self._fields.popitem(last=False)
