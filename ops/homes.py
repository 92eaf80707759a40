"""Home timelines read as their users read them, page by page: through the gateway or past it."""

import asyncio
import http.client
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import grpc
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from domain.ids import UserId
from mesh import clients
from mesh.settings import Settings
from mesh.tokens import TokenSigner

PAGE_LIMIT = 100  # the most that a page may hold
PAGES_MAX = 100_000  # a cursor that goes in circles ends here
TOKEN_LIFETIME_S = 3_600
TIMEOUT_S = 10.0
TRIES_MAX = 5  # of one page that is answered with "come again"
RETRY_FIRST_S = 0.25
BUSY_STATUSES = (502, 503, 504)
# A gateway that limits the rate of our address says when to come back; others may use it, too.
LIMITED_MAX = 60


@dataclass(frozen=True, slots=True)
class Page:
    """One page."""

    ids: list[int]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class Home:
    """All pages laid end to end. `flaw` says what is wrong with the pages, whatever is on them."""

    ids: list[int]
    pages: int
    flaw: str


class PageReader(Protocol):
    """A way to a page. Raises ConnectionError where it is not answered in spite of tries."""

    async def page(self, token: str, cursor: str) -> Page:
        """Returns the page at a cursor."""
        ...


class HomeReader:
    """Reads whole home timelines of any account."""

    def __init__(self, pages: PageReader, settings: Settings) -> None:
        self._pages = pages
        self._signer = TokenSigner(settings)

    async def first_page(self, viewer: UserId) -> None:
        """Reads the first page, so that the timeline is materialised."""
        await self._pages.page(self._token(viewer), "")

    async def read(self, viewer: UserId) -> Home:
        """Reads all pages."""
        token, cursor, flaw = self._token(viewer), "", ""
        ids: list[int] = []
        for number in range(1, PAGES_MAX + 1):
            page = await self._pages.page(token, cursor)
            ids += page.ids
            if not page.next_cursor:
                return Home(ids, number, flaw)
            if len(page.ids) != PAGE_LIMIT:
                flaw = flaw or f"page {number} has a next one and only {len(page.ids)} entries"
            cursor = page.next_cursor
        return Home(ids, PAGES_MAX, f"there is no end after {PAGES_MAX} pages")

    def _token(self, viewer: UserId) -> str:
        # Nobody signed in, so there is no session to end: the token lives for an hour.
        return self._signer.sign_user(viewer, 0, lifetime_s=TOKEN_LIFETIME_S, now=time.time())


class _Gateway:
    """Pages by `GET /api/timeline/home`, over so many connections that stay open."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LookupError(f"{url!r} is not the URL of a gateway")
        self._prefix = parts.path.rstrip("/")
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._all = [
            kind(parts.hostname, parts.port, timeout=TIMEOUT_S) for _ in range(connections)
        ]
        self._free: asyncio.Queue[http.client.HTTPConnection] = asyncio.Queue()
        for connection in self._all:
            self._free.put_nowait(connection)

    async def page(self, token: str, cursor: str) -> Page:
        path = f"{self._prefix}/api/timeline/home?limit={PAGE_LIMIT}"
        if cursor:
            path += f"&cursor={quote(cursor)}"
        failed = limited = 0
        while True:
            connection = await self._free.get()
            try:
                got = await asyncio.to_thread(_get, connection, path, token)
            finally:
                self._free.put_nowait(connection)
            if got.status == http.HTTPStatus.OK:
                answer: dict[str, Any] = json.loads(got.body)
                ids = [int(tweet["id"]) for tweet in answer.get("tweets", ())]
                return Page(ids, answer.get("nextCursor", ""))
            if got.status == http.HTTPStatus.TOO_MANY_REQUESTS and limited < LIMITED_MAX:
                limited += 1
                await asyncio.sleep(got.retry_after_s)
                continue
            failed += 1
            if failed == TRIES_MAX or (got.status and got.status not in BUSY_STATUSES):
                raise ConnectionError(f"the gateway {got}")
            await asyncio.sleep(RETRY_FIRST_S * 2 ** (failed - 1))

    def close(self) -> None:
        for connection in self._all:
            connection.close()


class _Direct:
    """Pages by gRPC from timeline_server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = timeline_pb2_grpc.TimelineServiceStub(channel)

    async def page(self, token: str, cursor: str) -> Page:
        try:
            answer = await self._stub.GetHomeTimeline(
                timeline_pb2.GetHomeTimelineRequest(limit=PAGE_LIMIT, cursor=cursor),
                metadata=(("authorization", f"Bearer {token}"),),
            )
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(
                f"timeline_server answers {error.code().name}: {error.details()}"
            ) from error
        return Page([tweet.id for tweet in answer.tweets], answer.next_cursor)


@asynccontextmanager
async def through_gateway(
    url: str, settings: Settings, *, connections: int
) -> AsyncGenerator[HomeReader]:
    """Opens a reader of REST."""
    gateway = _Gateway(url, connections)
    try:
        yield HomeReader(gateway, settings)
    finally:
        gateway.close()


@asynccontextmanager
async def direct(settings: Settings) -> AsyncGenerator[HomeReader]:
    """Opens a reader of gRPC."""
    async with clients.channel(
        settings, settings.timeline_target, "chirp.v1.TimelineService"
    ) as channel:
        yield HomeReader(_Direct(channel), settings)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came; status 0 where nobody answered."""

    status: int
    body: bytes = b""
    retry_after_s: float = 1.0

    def __str__(self) -> str:
        text = self.body[:300].decode(errors="replace")
        return f"answers {self.status}: {text}" if self.status else "is away"


def _get(connection: http.client.HTTPConnection, path: str, token: str) -> _Answer:
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
        response = connection.getresponse()
        again_s = float(response.getheader("retry-after") or 1)
        return _Answer(response.status, response.read(), again_s)
    except (OSError, http.client.HTTPException):
        # Also where the other side closed a connection that was idle: it opens again.
        connection.close()
        return _Answer(0)
