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

    def among(self, ids: Collection[int]) -> frozenset[int]:
        """Returns which of these tweets the viewer marked."""
        return self.liked.intersection(ids) | self.retweeted.intersection(ids)

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


NO_MARKS = Marks(frozenset(), frozenset())


class TweetPresenter:
    """Makes frames: tweets as they stand in an answer's repeated `tweets`."""

    def __init__(self, names: UserNames, feed: PurgeFeed) -> None:
        self._names = names
        self._feed = feed

    async def frames(
        self, records: Sequence[Record], view: View, fetch: FetchRecords
    ) -> list[bytes]:
        """Returns a frame for each record; `fetch` gets the records that they refer to."""
        shown = await _shown(records, fetch)
        marks = await view.marks(shown)
        if marks is None:
            tweets = await self._composed(records, shown, None, ())
            return list(map(tweet_records.frame, tweets))
        await self._keep_frames(records, shown)
        hidden = await _hidden(shown, view) if len(shown) > len(records) else ()
        marked = marks.among(shown)
        frames = [record.kept_frame for record in records]
        if not hidden and not marked:
            return frames

        def is_personal(record: Record) -> bool:
            parts = [part for part in record.parts if part is not None]
            return record.tweet_id in marked or any(
                part.tweet_id in marked or part.author_id in hidden for part in parts
            )

        personal: list[int] = []  # the places of those to be put together anew
        for place, record in enumerate(records):
            if record.refers:
                if is_personal(record):
                    personal.append(place)
            elif record.tweet_id in marked:
                frames[place] = record.marked_frame(marks.suffix(record.tweet_id))
        if personal:
            tweets = await self._composed([records[i] for i in personal], shown, marks, hidden)
            for place, tweet in zip(personal, tweets, strict=True):
                frames[place] = tweet_records.frame(tweet)
        return frames

    async def tweets(
        self, records: Sequence[Record], view: View, fetch: FetchRecords
    ) -> list[bytes]:
        """The same as serialised tweets, without the frame."""
        shown = await _shown(records, fetch)
        hidden = await _hidden(shown, view)
        return await self._composed(records, shown, await view.marks(shown), hidden)

    async def _keep_frames(self, records: Sequence[Record], shown: dict[int, Record]) -> None:
        """Makes the frames anew that hold no more: a name changed, or what they show."""
        generation, fresh = self._names.generation, self._feed.fresh
        stale = [
            record
            for record in records
            if record.framed_at != generation
            or not fresh
            or (record.refers and record.parts != _parts(record, shown))
        ]
        # Looking each name up costs a tenth of a page.
        self._names.hits += len(records) - len(stale)
        if not stale:
            return
        tweets = await self._composed(stale, shown, NO_MARKS, ())
        for record, tweet in zip(stale, tweets, strict=True):
            # All at once: other calls look at these records between our awaits.
            record.kept_frame, record.parts = tweet_records.frame(tweet), _parts(record, shown)
            authors = (part.author_id for part in (record, *record.parts) if part is not None)
            kept = fresh and all(map(self._names.keeps, authors))
            record.framed_at = generation if kept else -1

    async def _composed(
        self,
        records: Sequence[Record],
        shown: dict[int, Record],
        marks: Marks | None,
        hidden: Container[int],
    ) -> list[bytes]:
        fields = await self._names.fields(
            {record.author_id for record in shown.values()}, trusted=self._feed.fresh
        )

        def plain(record: Record) -> bytes:
            suffix = marks.suffix(record.tweet_id) if marks else b""
            return tweet_records.tweet_bytes(record, fields[record.author_id]) + suffix

        def with_quoted(record: Record) -> bytes:
            quoted = shown.get(record.quoted_id)
            if quoted is None or quoted.deleted or quoted.author_id in hidden:
                return plain(record)
            return plain(record) + tweet_records.quoted_field(plain(quoted))

        def whole(record: Record) -> bytes:
            original = shown.get(record.original_id)
            if original is None or original.deleted:
                return with_quoted(record)
            return plain(record) + tweet_records.retweeted_field(with_quoted(original))

        return [whole(record) for record in records]


async def _shown(records: Sequence[Record], fetch: FetchRecords) -> dict[int, Record]:
    """Returns these records and those that they repeat or quote, by id."""
    shown = {record.tweet_id: record for record in records}
    referring = [record for record in records if record.refers]
    if not referring:
        return shown
    referred = {i for r in referring for i in (r.original_id, r.quoted_id)}
    if missing := [i for i in referred if i and i not in shown]:
        shown |= await fetch(missing)
    # A repeated quote shows what it quotes; that is as deep as it goes.
    deeper = {shown[r.original_id].quoted_id for r in referring if r.original_id in shown}
    if missing := [i for i in deeper if i and i not in shown]:
        shown |= await fetch(missing)
    return shown


def _parts(record: Record, shown: dict[int, Record]) -> tuple[Record | None, ...]:
    """Returns what a record's frame shows beside the record."""
    if not record.refers:
        return ()
    original = shown.get(record.original_id)
    return (original, shown.get((original or record).quoted_id))


async def _hidden(shown: dict[int, Record], view: View) -> Container[int]:
    """Returns which authors of quoted tweets the viewer does not want to see."""
    quoted = {shown[r.quoted_id].author_id for r in shown.values() if r.quoted_id in shown}
    return await view.hidden(quoted) if quoted else ()
