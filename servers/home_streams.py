"""TimelineService: the home stream. Every tweet that the event log brings is offered to the streams
of those who watch its author (`home_watches.py`), whatever its tier. What becomes of it is decided
when it is delivered, in four stages as for a page: the skeleton is what was offered
(`home_stream.py` sees to it that nothing is missed), then hydrate, rules, present."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager

from chirp.v1 import stream_pb2, timeline_pb2

from domain import stream_token, timeline, varint
from domain.errors import Unavailable
from domain.ids import UserId
from domain.stream_token import Token
from eventlog.outages import Backoff, is_outage, raise_if_cancelled
from mesh.rpc import Call
from mesh.streams import HEARTBEAT, Answers
from servers.home_frames import PRESENTED_S, HomeFrames
from servers.home_log import HomeLog, Sighting, sighting_of
from servers.home_source import Source
from servers.home_stream import TAKE_MAX, HomeStream
from servers.home_watches import Watch, Watches
from servers.log_tail import Seen
from servers.purge_feed import PurgeFeed
from servers.stream_marks import StreamMarks, StreamView
from servers.tweet_hydrator import TweetHydrator
from servers.tweet_presenter import TweetPresenter
from servers.tweet_records import Record
from servers.user_names import UserNames

_TOKEN_TAG = b"\x22"  # StreamHomeTimelineResponse.resume_token = 4


class HomeStreams:
    """The open home streams of a server. A stream waits up to `begin_s` for a server that has just
    started."""

    def __init__(
        self,
        *,
        source: Source,
        watches: Watches,
        hydrator: TweetHydrator,
        presenter: TweetPresenter,
        names: UserNames,
        marks: StreamMarks,
        feed: PurgeFeed,
        partitions: int,
        begin_s: float,
    ) -> None:
        self._source = source
        self._watches = watches
        self._hydrator = hydrator
        self._presenter = presenter
        self._names = names
        self._marks = marks
        self._feed = feed
        self._partitions = partitions
        self._begin_s = begin_s
        self._frames = HomeFrames(hydrator, presenter, names, marks, feed)
        self._streams: set[HomeStream] = set()

    async def StreamHomeTimeline(
        self, request: timeline_pb2.StreamHomeTimelineRequest, call: Call
    ) -> Answers:
        """Streams what comes into the caller's home timeline."""
        token = None
        if request.resume_token:
            token = stream_token.decode(request.resume_token, partitions=self._partitions)
        async with self._opened(call.caller, token) as (stream, watch):
            stream.begin()
            call.stream.newest_token = stream.newest_token
            yield HEARTBEAT
            while True:
                batch = await stream.take(watch)
                if stream.lagged:
                    stream.lagged = False
                    yield _catching_up(stream.token())
                at_once = self._at_once(stream, watch, batch)
                if at_once:
                    yield at_once
                elif at_once is None:
                    async for message in self._deliver(stream, watch, batch):
                        yield message

    @asynccontextmanager
    async def _opened(
        self, user: UserId, token: Token | None
    ) -> AsyncGenerator[tuple[HomeStream, Watch]]:
        with self._source.tail.attended():
            try:
                async with asyncio.timeout(self._begin_s):
                    await self._source.tail.ready()
            except TimeoutError:
                raise Unavailable("this server has just started; try again") from None
            stream = HomeStream(self._source, token)
            watch = await self._watches.join(user, stream)
            self._streams.add(stream)
            try:
                yield stream, watch
            finally:
                self._streams.discard(stream)
                self._watches.leave(watch, stream)

    async def prepare(self, batch: list[Seen]) -> None:
        """Gets what streams will ask for, once for all of them, before any of them is told. Waits
        while relations cannot be trusted."""
        await self._feed.until_fresh()
        watched = [
            seen.event.tweet_created.entry.tweet_id
            for seen in batch
            if seen.event.HasField("tweet_created")
            and self._watches.of_author(UserId(seen.event.tweet_created.entry.author_id))
        ]
        if not watched:
            return
        try:
            await self._frames.prepare(watched, self._fetch)
        except Exception as error:
            # Each stream will wait for it by itself.
            if not is_outage(error):
                raise

    def on_seen(self, batch: list[Seen]) -> None:
        """Takes note of events, and offers tweets."""
        for seen in batch:
            sighting = sighting_of(seen)
            if sighting is None:
                self._watches.on_event(seen.event)
                continue
            self._source.log.add(sighting)
            for watch in self._watches.of_author(sighting.entry[1]):
                for stream in watch.streams:
                    stream.offer(sighting)

    def on_begin(self) -> None:
        """Begins anew: what was seen before does not reach to what is seen next."""
        self._source.log = HomeLog(self._source.tail.reach.positions)
        for stream in self._streams:
            stream.fall_back()
        self._watches.spoil_all()

    def _at_once(self, stream: HomeStream, watch: Watch, batch: Sequence[Sighting]) -> bytes | None:
        """Passes a batch of one tweet whose frame is the same for all who get it now; returns the
        message, none (empty) where it is not visible. None: it is to be delivered as any other."""
        if len(batch) != 1 or watch.stale:
            return None
        (sighting,) = batch
        frame = self._frames.get(sighting.entry[0])
        if frame is None:
            return None
        shown = timeline.is_visible(sighting.entry, watch.relations)
        shown = shown and not stream.is_repeated(sighting)
        stream.get_behind(sighting, delivered=shown)
        return _with_token(frame, stream.token()) if shown else b""

    async def _deliver(
        self, stream: HomeStream, watch: Watch, batch: Sequence[Sighting]
    ) -> AsyncGenerator[bytes]:
        """Yields messages for what is visible of a batch, and passes all of it."""
        left = list(batch)
        while left:
            presented, until = await self._present(stream, watch, left[:TAKE_MAX])
            for sighting in left[:TAKE_MAX]:
                if watch.stale or time.monotonic() > until:
                    break
                left.pop(0)
                frame = presented.get(sighting.entry[0])
                shown = frame is not None and not stream.is_repeated(sighting)
                stream.get_behind(sighting, delivered=shown)
                if frame is not None and shown:
                    yield _with_token(frame, stream.token())

    async def _present(
        self, stream: HomeStream, watch: Watch, batch: Sequence[Sighting]
    ) -> tuple[dict[int, bytes], float]:
        """Returns tweet -> frame of what is visible, and until when that may be said. Waits while
        it cannot be known."""
        backoff = Backoff()
        while True:
            raise_if_cancelled()
            try:
                await self._feed.until_fresh()
                await self._watches.settle(watch)
                until = time.monotonic() + PRESENTED_S
                return await self._present_for(stream, watch, batch), until
            except Exception as error:
                if not is_outage(error):
                    raise
                await backoff.wait()

    async def _present_for(
        self, stream: HomeStream, watch: Watch, batch: Sequence[Sighting]
    ) -> dict[int, bytes]:
        # rules that need no tweet
        viewer = watch.relations
        entries = [
            sighting.entry
            for sighting in batch
            if timeline.is_visible(sighting.entry, viewer) and not stream.is_repeated(sighting)
        ]
        if not entries:
            return {}
        # hydrate
        ids = [entry[0] for entry in entries]
        originals = [entry[2] for entry in entries if entry[2] != timeline.NO_TWEET]
        records = await self._fetch([*ids, *originals])
        # rules: what was deleted
        living = [
            records[tweet]
            for tweet, _, original, _ in entries
            if _lives(records, tweet) and (not original or _lives(records, original))
        ]
        # present
        generation = self._names.generation
        framed = self._feed.fresh and all(record.framed_at == generation for record in living)
        if framed and self._marks.are_young(ids):
            return {record.tweet_id: record.kept_frame for record in living}
        view = StreamView(viewer, self._marks, self._others(entries))
        frames = await self._presenter.frames(living, view, self._fetch)
        return {record.tweet_id: frame for record, frame in zip(living, frames, strict=True)}

    def _others(self, entries: Sequence[timeline.Entry]) -> Iterable[UserId]:
        """Who is offered the same now: what comes one by one comes to all at the same time."""
        if len(entries) != 1:
            return ()
        return [watch.user for watch in self._watches.of_author(entries[0][1])]

    async def _fetch(self, ids: Sequence[int]) -> dict[int, Record]:
        return await self._hydrator.hydrate(ids, trusted=self._feed.fresh) if ids else {}


def _with_token(frame: bytes, token: str) -> bytes:
    encoded = token.encode()
    return frame + _TOKEN_TAG + varint.encode(len(encoded)) + encoded


def _lives(records: dict[int, Record], tweet: int) -> bool:
    record = records.get(tweet)
    return record is not None and not record.deleted


def _catching_up(token: str) -> bytes:
    return timeline_pb2.StreamHomeTimelineResponse(
        catching_up=stream_pb2.CatchingUp(), resume_token=token
    ).SerializeToString()
