"""Presents tweets: body, author, counts, what they repeat or quote, and the viewer's marks, put
together as bytes. tweet_server and timeline_server differ in where the parts come from."""

from collections.abc import Awaitable, Callable, Collection, Container, Sequence
from dataclasses import dataclass
from typing import Protocol

from servers import tweet_records
from servers.purge_feed import PurgeFeed
from servers.tweet_records import Record
from servers.user_names import UserNames

FetchRecords = Callable[[Sequence[int]], Awaitable[dict[int, Record]]]


@dataclass(frozen=True, slots=True)
class Marks:
    """What a viewer liked and retweeted, of the tweets asked for."""

    liked: frozenset[int]
    retweeted: frozenset[int]

    def none_of(self, ids: Collection[int]) -> bool:
        """Whether the viewer marked none of these tweets."""
        return self.liked.isdisjoint(ids) and self.retweeted.isdisjoint(ids)

    def suffix(self, tweet_id: int) -> bytes:
        """Returns the fields `liked` and `retweeted` of a tweet."""
        return tweet_records.MARKS[tweet_id in self.liked, tweet_id in self.retweeted]


class View(Protocol):
    """Who looks."""

    async def marks(self, ids: Collection[int]) -> Marks | None:
        """Returns the viewer's marks on these tweets; None where nobody is signed in."""
        ...

    async def hidden(self, accounts: Collection[int]) -> Container[int]:
        """Returns which of the accounts are blocked either way or muted."""
        ...


class Anonymous:
    """Nobody is signed in."""

    async def marks(self, ids: Collection[int]) -> Marks | None:
        """No marks."""
        return None

    async def hidden(self, accounts: Collection[int]) -> Container[int]:
        """Nobody is hidden."""
        return ()


ANONYMOUS = Anonymous()


class TweetPresenter:
    """Makes frames: tweets as they stand in an answer's repeated `tweets`."""

    def __init__(self, names: UserNames, feed: PurgeFeed) -> None:
        self._names = names
        self._feed = feed

    async def frames(
        self, records: Sequence[Record], view: View, fetch: FetchRecords
    ) -> list[bytes]:
        """Returns a frame for each record; `fetch` gets the records that they refer to."""
        ids = [record.tweet_id for record in records]
        marks = await view.marks(ids)
        if marks is None:
            return list(map(tweet_records.frame, await self.tweets(records, view, fetch)))
        # Frames hold as long as no name changed; looking each name up costs a tenth of a page.
        generation, fresh = self._names.generation, self._feed.fresh
        if fresh and {record.framed_at for record in records} == {generation}:
            self._names.hits += len(records)
            if marks.none_of(ids):
                return [record.kept_frame for record in records]
        else:
            await self._frame([record for record in records if not record.refers])
        nested = [record for record in records if record.refers]
        tweets = await self.tweets(nested, view, fetch) if nested else ()
        frames = {
            record.tweet_id: tweet_records.frame(t)
            for record, t in zip(nested, tweets, strict=True)
        }
        return [
            frames.get(record.tweet_id) or record.marked_frame(marks.suffix(record.tweet_id))
            for record in records
        ]

    async def _frame(self, records: Sequence[Record]) -> None:
        generation, fresh = self._names.generation, self._feed.fresh
        fields = await self._fields({record.author_id for record in records})
        for record in records:
            record.frame(fields[record.author_id])
            kept = fresh and self._names.keeps(record.author_id)
            record.framed_at = generation if kept else -1

    async def tweets(
        self, records: Sequence[Record], view: View, fetch: FetchRecords
    ) -> list[bytes]:
        """The same as serialised tweets, without the frame."""
        referred = [i for r in records for i in (r.original_id, r.quoted_id) if i]
        return await self._nested(records, referred, view, fetch)

    async def _nested(
        self, records: Sequence[Record], referred: Sequence[int], view: View, fetch: FetchRecords
    ) -> list[bytes]:
        known = {record.tweet_id: record for record in records}
        known |= await fetch([i for i in dict.fromkeys(referred) if i not in known])
        # A repeated quote shows what it quotes; that is as deep as it goes.
        deeper = {known[r.original_id].quoted_id for r in records if r.original_id in known}
        known |= await fetch([i for i in deeper if i and i not in known])
        fields = await self._fields({record.author_id for record in known.values()})
        marks = await view.marks(known)
        quoted_ids = {record.quoted_id for record in known.values()} - {0}
        quoted_authors = {known[i].author_id for i in quoted_ids if i in known}
        hidden = await view.hidden(quoted_authors) if quoted_authors else ()

        def plain(record: Record) -> bytes:
            suffix = marks.suffix(record.tweet_id) if marks else b""
            return tweet_records.tweet_bytes(record, fields[record.author_id]) + suffix

        def with_quoted(record: Record) -> bytes:
            quoted = known.get(record.quoted_id)
            if quoted is None or quoted.deleted or quoted.author_id in hidden:
                return plain(record)
            return plain(record) + tweet_records.quoted_field(plain(quoted))

        def whole(record: Record) -> bytes:
            original = known.get(record.original_id)
            if original is None or original.deleted:
                return with_quoted(record)
            return plain(record) + tweet_records.retweeted_field(with_quoted(original))

        return [whole(record) for record in records]

    async def _fields(self, authors: Collection[int]) -> dict[int, bytes]:
        return await self._names.fields(authors, trusted=self._feed.fresh)
