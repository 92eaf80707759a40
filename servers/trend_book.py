"""What a trend server knows: the published lists, read from the cache a few times a second.

A *view* is what one kind of request is answered with (place, order, length), until the lists
change. Its bytes are made once, and the message that turns one view into the next is made once for
all streams that stand between the two.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import redis.exceptions
from chirp.v1 import trend_pb2
from google.protobuf.message import DecodeError

from domain import trend
from domain.errors import Unavailable
from domain.trend import Change, Kind, Order, Rules
from mesh.settings import Settings
from mesh.tasks import raise_if_cancelled
from storage.trends import NO_VERSION, News, TrendStore

VIEWS_MAX = 10_000  # kept at once; anybody may ask for any place

KINDS = {
    Kind.ENTERED: trend_pb2.TREND_CHANGE_KIND_ENTERED,
    Kind.LEFT: trend_pb2.TREND_CHANGE_KIND_LEFT,
    Kind.MOVED: trend_pb2.TREND_CHANGE_KIND_MOVED,
}

Value = TypeVar("Value")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for; checked."""

    place: str
    order: Order
    limit: int


@dataclass(eq=False, slots=True)
class View:
    """The answer to a request as of one version."""

    place: str
    fallback_from: str
    trends: Sequence[trend_pb2.Trend]
    as_of_ms: int
    updates: dict["View", bytes | None] = field(default_factory=dict["View", bytes | None])

    @property
    def names(self) -> list[str]:
        """The tags, first rank first."""
        return [each.name for each in self.trends]

    def answer(self) -> bytes:
        """Returns it as a ListTrendsResponse."""
        answer = trend_pb2.ListTrendsResponse(
            trends=self.trends, location=self.place, fallback_from=self.fallback_from
        )
        answer.as_of.FromMilliseconds(self.as_of_ms)
        return answer.SerializeToString()

    def whole(self) -> bytes:
        """Returns it as the first message of a stream."""
        return self._message(trend_pb2.TrendUpdate(trends=self.trends))

    def update_from(self, old: "View") -> bytes | None:
        """Returns the message that turns an older view into this one, None where the list is the
        same."""
        if old not in self.updates:
            changes = trend.changes(old.names, self.names)
            moved = old.place != self.place
            update = trend_pb2.TrendUpdate(changes=[self._change(each, old) for each in changes])
            self.updates[old] = self._message(update) if changes or moved else None
        return self.updates[old]

    def _change(self, change: Change, old: "View") -> trend_pb2.TrendChange:
        where = old.trends[change.old_rank - 1] if change.kind is Kind.LEFT else None
        return trend_pb2.TrendChange(
            kind=KINDS[change.kind],
            old_rank=change.old_rank,
            new_rank=change.new_rank,
            trend=where or self.trends[change.new_rank - 1],
        )

    def _message(self, update: trend_pb2.TrendUpdate) -> bytes:
        update.location, update.fallback_from = self.place, self.fallback_from
        update.as_of.FromMilliseconds(self.as_of_ms)
        return trend_pb2.StreamTrendsResponse(item=update).SerializeToString()


class TrendBook:
    """Keeps up with what is published. While the cache is away it keeps what it has."""

    def __init__(self, store: TrendStore, rules: Rules, settings: Settings) -> None:
        self._store = store
        self._rules = rules
        self._poll_s = settings.trend_poll_ms / 1000
        self._lists: dict[str, trend_pb2.TrendLists] = {}
        self._version = NO_VERSION
        self._as_of_ms = 0
        self._views: dict[Asked, View] = {}
        self._answers: dict[Asked, bytes] = {}
        self._news = asyncio.Event()

    def is_ready(self) -> bool:
        """Whether anything was read since the start; it then stays so."""
        return self._version != NO_VERSION

    async def run(self) -> None:
        """Polls until cancelled."""
        away = False
        while True:
            raise_if_cancelled()
            try:
                await self.poll()
                away = False
            except (redis.exceptions.RedisError, OSError, DecodeError) as error:
                if not away:
                    log.warning("trends stay as they are: %s", type(error).__name__)
                away = True
            await asyncio.sleep(self._poll_s)

    async def poll(self) -> None:
        """Reads what changed. Raises what Valkey raises, and DecodeError."""
        news = await self._store.read(self._version)
        if news is not None and (news.version, news.as_of_ms) != (self._version, self._as_of_ms):
            self._take(news)

    async def changed(self) -> None:
        """Returns when the lists are others than when it was called."""
        await self._news.wait()

    def view(self, asked: Asked) -> View:
        """Returns the view for a request. Raises Unavailable before anything was read."""
        if not self.is_ready():
            raise Unavailable("trends are being counted; try again")
        view = self._views.get(asked)
        if view is None:
            place = trend.choose_place(
                asked.place, lambda each: len(self._list(each, Order.SCORE)), self._rules
            )
            view = View(
                place=place,
                fallback_from=asked.place if place != asked.place else "",
                trends=self._list(place, asked.order)[: asked.limit],
                as_of_ms=self._as_of_ms,
            )
            _keep(self._views, asked, view)
        return view

    def answer(self, asked: Asked) -> bytes:
        """Returns the serialised answer to a request; raises as `view` does."""
        answer = self._answers.get(asked)
        if answer is None:
            answer = self.view(asked).answer()
            _keep(self._answers, asked, answer)
        return answer

    def _list(self, place: str, order: Order) -> Sequence[trend_pb2.Trend]:
        lists = self._lists.get(place)  # one without entries where the place went
        if lists is None:
            return ()
        return lists.score if order is Order.SCORE else lists.rising

    def _take(self, news: News) -> None:
        self._as_of_ms = news.as_of_ms
        # The time stands in the answers; views, which streams compare, only change with the lists.
        self._answers.clear()
        if news.version == self._version:
            for view in self._views.values():
                view.as_of_ms = news.as_of_ms
            return
        # All are read before any is taken: what cannot be read changes nothing.
        read = {place: trend_pb2.TrendLists.FromString(each) for place, each in news.lists.items()}
        if news.whole:
            self._lists.clear()
        self._lists.update(read)
        self._version = news.version
        self._views.clear()
        news_came, self._news = self._news, asyncio.Event()
        news_came.set()


def _keep(kept: dict[Asked, Value], asked: Asked, value: Value) -> None:
    if len(kept) >= VIEWS_MAX:
        kept.clear()
    kept[asked] = value
