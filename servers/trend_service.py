"""TrendService: the RPCs of trend_server."""

import asyncio
import time

import grpc
from chirp.v1 import trend_pb2, trend_pb2_grpc

from domain import trend, tweet
from domain.errors import InvalidArgument
from domain.text import well_formed
from domain.trend import HOUR, Rules
from mesh.rpc import Call
from mesh.streams import Answers
from mesh.tasks import raise_if_cancelled
from servers.trend_book import Asked, TrendBook

STREAM_REST_S = 1.0  # between two messages of a stream, at least
# A worker that stops hands the lead over, and the next one reads two hours of tweets. The gateway
# tries a read four times, so people wait four times as long.
HANDOVER_S = 1.0
HANDOVER_LOOK_S = 0.1


class TrendService:
    """Answers from the book, and asks the trend worker where a number is to be explained."""

    def __init__(
        self,
        book: TrendBook,
        counts: "trend_pb2_grpc.TrendCountServiceAsyncStub",
        rules: Rules,
    ) -> None:
        self._book = book
        self._counts = counts
        self._rules = rules

    async def ListTrends(self, request: trend_pb2.ListTrendsRequest, call: Call) -> bytes:
        """Lists the tags that trend at a place."""
        return self._book.answer(_asked(request))

    async def StreamTrends(self, request: trend_pb2.StreamTrendsRequest, call: Call) -> Answers:
        """Streams the list: the whole first, then its changes, at most one a second."""
        asked = _asked(request)
        sent = self._book.view(asked)
        yield sent.whole()
        loop = asyncio.get_running_loop()
        rest_until = loop.time() + STREAM_REST_S
        while True:
            if self._book.view(asked) is sent:
                await self._book.changed()
            # What changes meanwhile goes out with the same message.
            await asyncio.sleep(rest_until - loop.time())
            view = self._book.view(asked)
            update = view.update_from(sent)
            sent = view
            if update is not None:
                yield update
                rest_until = loop.time() + STREAM_REST_S

    async def ExplainTrend(
        self, request: trend_pb2.ExplainTrendRequest, call: Call
    ) -> trend_pb2.ExplainTrendResponse:
        """Explains the numbers of one tag at one place."""
        if not request.location:
            raise InvalidArgument.of("location", "must be `world` or a place")
        place, name = trend.place(request.location), _name(request.tag)
        counted = await self._counted(place, name)
        explained = trend.explain(counted.buckets, counted.authors, self._rules)
        return trend_pb2.ExplainTrendResponse(
            tag=counted.tag,
            name=name,
            location=place,
            as_of=counted.as_of,
            buckets=counted.buckets[:HOUR],
            this_hour=explained.this_hour,
            last_hour=explained.last_hour,
            score=explained.score,
            velocity=explained.velocity,
            baseline=explained.baseline,
            surprise=explained.surprise,
            authors=counted.authors,
            authors_min=self._rules.authors_min,
            formula=explained.formula,
        )

    async def _counted(self, place: str, name: str) -> trend_pb2.GetTrendCountsResponse:
        """Asks the worker that has the lead; waits a little while another one takes it over."""
        asked = trend_pb2.GetTrendCountsRequest(location=place, name=name)
        deadline = time.monotonic() + HANDOVER_S
        while True:
            raise_if_cancelled()
            try:
                return await self._counts.GetTrendCounts(asked)
            except grpc.aio.AioRpcError as error:
                late = time.monotonic() > deadline
                if late or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(HANDOVER_LOOK_S)


def _asked(request: trend_pb2.ListTrendsRequest | trend_pb2.StreamTrendsRequest) -> Asked:
    return Asked(
        place=trend.place(request.location),
        order=trend.order(request.order),
        limit=trend.limit(request.limit if request.HasField("limit") else None),
    )


def _name(tag: str) -> str:
    well_formed("tag", tag)
    spelled = tag.removeprefix("#")
    name = tweet.fold(spelled) if tweet.is_tag(spelled) else ""
    if not tweet.is_tag(name):
        raise InvalidArgument.of("tag", "must be a hashtag: letters, digits and _, not only digits")
    return name
