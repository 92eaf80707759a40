"""Hydrates tweet ids: process cache, then Valkey, then tweet_server.

A record is immutable for a version. The purge feed says which versions are too old; while it is
stale, nothing that is kept is trusted.
"""

from collections import OrderedDict
from collections.abc import Container, Sequence

from chirp.v1 import tweet_pb2, tweet_pb2_grpc

from mesh import metrics
from mesh.catalogue import CACHE_LOOKUPS
from mesh.metrics import Sample
from mesh.settings import Settings
from servers import tweet_records
from servers.tweet_records import Record
from storage import purges, tweet_cache
from storage.valkey_connection import HotConnection

BATCH_MAX = 200  # the longest records have 17 kB, and an answer 4 MB
CHANGED_MAX = 100_000  # purges remembered for records that are being fetched or lie in Valkey
OVERHEAD_BYTES = 400  # of a record's objects, beside its bytes


class TweetHydrator:
    """Tweet id -> record. Bounded by bytes; the oldest goes first."""

    def __init__(
        self,
        hot: HotConnection,
        stub: "tweet_pb2_grpc.TweetRecordServiceAsyncStub",
        settings: Settings,
        erased: Container[int] = (),
    ) -> None:
        """`erased` are accounts that were deleted: what they posted is as deleted."""
        self._hot = hot
        self._erased = erased
        self._stub = stub
        self._bytes_max = settings.tweet_cache_bytes
        self._bytes = 0
        self.records: OrderedDict[int, Record] = OrderedDict()
        """What is kept; to be trusted while the feed is fresh, and of authors not erased."""
        self._least_version: OrderedDict[int, int] = OrderedDict()
        self.deleted: OrderedDict[int, None] = OrderedDict()
        """Tweets seen deleted of late: rules that fetch no tweet leave them out with this."""
        self.hits = 0
        self.misses = 0
        self._asked_of_valkey = 0
        self._found_in_valkey = 0

    @property
    def size(self) -> str:
        """How much is kept, and the bound."""
        return f"{self._bytes} of at most {self._bytes_max} bytes"

    async def collect(self) -> list[Sample]:
        """Returns hits and misses, here and in Valkey."""
        here = metrics.of_cache(CACHE_LOOKUPS, "tweets", hits=self.hits, misses=self.misses)
        found, asked = self._found_in_valkey, self._asked_of_valkey
        return here + metrics.of_cache(
            CACHE_LOOKUPS, "tweet_records", hits=found, misses=asked - found
        )

    def kept(self, tweet_id: int) -> Record | None:
        """Returns the record that is kept of a tweet, if there is one and its author is there."""
        record = self.records.get(tweet_id)
        return None if record is not None and record.author_id in self._erased else record

    async def hydrate(self, ids: Sequence[int], *, trusted: bool) -> dict[int, Record]:
        """Returns the records of tweets, deleted ones included; unknown ids are left out.

        Raises AioRpcError where tweet_server is needed and away.
        """
        look = self.records.get
        # Most pages are found whole: comprehensions cost a third of a loop with two branches.
        found = {i: record for i in ids if (record := look(i)) is not None} if trusted else {}
        self.hits += len(found)
        missing = [i for i in ids if i not in found] if len(found) < len(ids) else []
        if missing:
            self.misses += len(missing)
            if trusted:
                found |= await self._from_valkey(missing)
                missing = [tweet_id for tweet_id in missing if tweet_id not in found]
            found |= await self._from_server(missing)
        if self._erased:
            for tweet_id, record in found.items():
                if record.author_id in self._erased:
                    found[tweet_id] = tweet_records.gone(record)
        return found

    async def _from_valkey(self, ids: Sequence[int]) -> dict[int, Record]:
        self._asked_of_valkey += len(ids)
        try:
            (values,) = await self._hot.call([("MGET", *map(tweet_cache.key, ids))])
        except ConnectionError:
            return {}
        found: dict[int, Record] = {}
        if isinstance(values, Exception):
            return found
        for tweet_id, stored in zip(ids, values, strict=True):
            if stored is not None:
                version, content = tweet_cache.decode(stored)
                if content and version >= self._least_version.get(tweet_id, 0):
                    message = tweet_pb2.TweetRecord.FromString(content)
                    found[tweet_id] = self._keep(tweet_records.from_proto(message))
        self._found_in_valkey += len(found)
        return found

    async def _from_server(self, ids: Sequence[int]) -> dict[int, Record]:
        found: dict[int, Record] = {}
        for start in range(0, len(ids), BATCH_MAX):
            answer = await self._stub.BatchGetTweetRecords(
                tweet_pb2.BatchGetTweetRecordsRequest(ids=ids[start : start + BATCH_MAX]),
            )
            for message in answer.records:
                found[message.id] = self._keep(tweet_records.from_proto(message))
        return found

    def _keep(self, record: Record) -> Record:
        if record.deleted:
            self.deleted[record.tweet_id] = None
            while len(self.deleted) > CHANGED_MAX:
                self.deleted.popitem(last=False)
        # One that changed while it was fetched may be the old one: answer it, keep it not.
        if record.version >= self._least_version.get(record.tweet_id, 0):
            self._forget(record.tweet_id)
            self.records[record.tweet_id] = record
            self._bytes += _size(record)
            while self._bytes > self._bytes_max:
                self._bytes -= _size(self.records.popitem(last=False)[1])
        return record

    def _forget(self, tweet_id: int) -> None:
        record = self.records.pop(tweet_id, None)
        if record is not None:
            self._bytes -= _size(record)

    def on_purge(self, purge: purges.Purge) -> None:
        """Forgets a record that is older than the version that a tweet has now."""
        if purge.kind is not purges.Kind.TWEET:
            return
        record = self.records.get(purge.subject_id)
        if record is not None and record.version < purge.version:
            self._forget(purge.subject_id)
        known = self._least_version.pop(purge.subject_id, 0)
        self._least_version[purge.subject_id] = max(known, purge.version)
        while len(self._least_version) > CHANGED_MAX:
            self._least_version.popitem(last=False)

    def forget_all(self) -> None:
        """Forgets everything, here; what lies in Valkey is checked by the next purges."""
        self.records.clear()
        self._bytes = 0


def _size(record: Record) -> int:
    return len(record.body) + len(record.counts) + OVERHEAD_BYTES
