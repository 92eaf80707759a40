"""`chirp load --tweets`: posts a file of tweets through TweetService, as its authors would.

The file is CSV with a header that names `username` and `content`; .xz and .gz are unpacked. Other
columns are left alone: a tweet's time is the time of its posting. Contents are HTML text, as
archives of tweets hold them: entities such as `&amp;` are unescaped, all else is posted as it is.

Who posts: usernames in the order of their first appearance in the file are mapped onto the loaded
graph's accounts in the order of their follower counts, the most followed first (of equals, the
lower id), and begin again behind the last. So who speaks first in the file is heard by most.

Nothing is posted twice: a row's requestId is `load:<digest of the file>:<row>`, rows counted from
1. Rows whose requestId is there already are left out, also where follower counts have changed
since; a post that was under way when an earlier run ended answers with the tweet that it made.
"""

import asyncio
import csv
import html
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import grpc
from chirp.v1 import tweet_pb2, tweet_pb2_grpc
from rich.progress import Progress

from domain.ids import UserId
from mesh import clients
from mesh.clients import Metadata
from mesh.settings import Settings
from mesh.tokens import TokenSigner
from ops import inputs
from ops.inputs import BadInput
from ops.load_graph import NUMBER_MAX, graph_id
from storage import bulk

CALLS_MAX = 32  # under way at once; enough to keep a few cores busy
TOKEN_LIFETIME_S = 3_600
TOKEN_RENEW_S = TOKEN_LIFETIME_S / 2
TRIES_MAX = 8  # of one row, over half a minute, while a server is away or has too much to do
RETRY_FIRST_S = 0.25
REFUSED_SHOWN_MAX = 5
ROW_CHARACTERS_MAX = 10_000

AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the file; the first one behind the header is number 1."""

    number: int
    username: str
    content: str


@dataclass(slots=True)
class Posted:
    """What a run did."""

    rows: int = 0
    """Rows of the file, as many as were asked for."""
    already: int = 0
    """Rows that an earlier run had posted."""
    posted: int = 0
    seconds: float = 0.0
    refused: int = 0
    refusals: list[str] = field(default_factory=list[str])
    """The first few of them, with the reason."""


class Authors:
    """Username -> metadata of the account that posts for it. Tokens are signed when needed."""

    def __init__(self, settings: Settings, rows: list[Row], accounts: list[int]) -> None:
        self._signer = TokenSigner(settings)
        names = dict.fromkeys(row.username for row in rows)
        self._accounts = {
            name: UserId(accounts[rank % len(accounts)]) for rank, name in enumerate(names)
        }
        self._signed: dict[UserId, tuple[float, Metadata]] = {}

    def metadata(self, username: str) -> Metadata:
        """Returns what this author's calls carry."""
        account, now = self._accounts[username], time.time()
        signed_at, metadata = self._signed.get(account, (0.0, ()))
        if now - signed_at > TOKEN_RENEW_S:
            # Nobody signed in, so there is no session to end: the token lives for an hour.
            token = self._signer.sign_user(account, 0, lifetime_s=TOKEN_LIFETIME_S, now=now)
            metadata = (("authorization", f"Bearer {token}"),)
            self._signed[account] = now, metadata
        return metadata


async def load(
    settings: Settings,
    path: Path,
    progress: Progress,
    done: Posted,
    *,
    rate: float | None = None,
    limit: int | None = None,
    accounts_max: int | None = None,
) -> None:
    """Posts a file's rows, or the first `limit`, by the `accounts_max` most followed accounts, and
    counts in `done`.

    With a rate, a post begins every 1/rate seconds whether or not earlier ones have answered (up to
    CALLS_MAX); without one, as fast as they answer. Raises BadInput where the file is not such a
    file, LookupError where no graph is loaded, ConnectionError where TweetService stays away."""
    rows = list(islice(_rows(path), limit))
    done.rows = len(rows)
    prefix = f"load:{inputs.digest(path)}:"
    async with bulk.connect(settings) as connection:
        there = await bulk.fetch_request_ids(connection, prefix)
        accounts = await bulk.fetch_most_followed(
            connection,
            up_to_id=graph_id(NUMBER_MAX),
            count=min(accounts_max or len(rows), len(rows)),
        )
    if rows and not accounts:
        raise LookupError("no graph is loaded whose accounts could post: chirp load --graph FILE")
    authors = Authors(settings, rows, accounts)
    left = [row for row in rows if f"{prefix}{row.number}" not in there]
    done.already = len(rows) - len(left)
    task = progress.add_task(f"tweets of {path.name}", total=len(rows), completed=done.already)
    started = time.monotonic()
    try:
        async with clients.channel(
            settings, settings.tweet_target, "chirp.v1.TweetService"
        ) as channel:
            stub = tweet_pb2_grpc.TweetServiceStub(channel)
            paced = _paced(left, rate)
            async with aclosing(paced), asyncio.TaskGroup() as calls:
                places = asyncio.Semaphore(CALLS_MAX)
                async for row in paced:
                    await places.acquire()
                    request = tweet_pb2.CreateTweetRequest(
                        content=row.content, request_id=f"{prefix}{row.number}"
                    )
                    call = calls.create_task(_post(stub, request, authors, row, done))
                    call.add_done_callback(lambda _: places.release())
                    call.add_done_callback(lambda _: progress.advance(task))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        done.seconds = time.monotonic() - started


async def _post(
    stub: "tweet_pb2_grpc.TweetServiceAsyncStub",
    request: tweet_pb2.CreateTweetRequest,
    authors: Authors,
    row: Row,
    done: Posted,
) -> None:
    rest_s = RETRY_FIRST_S
    for attempt in range(1, TRIES_MAX + 1):
        try:
            await stub.CreateTweet(request, metadata=authors.metadata(row.username))
        except grpc.aio.AioRpcError as error:
            if error.code() in AGAIN and attempt < TRIES_MAX:
                await asyncio.sleep(rest_s)
                rest_s *= 2
            elif error.code() in AGAIN:
                raise ConnectionError(
                    f"TweetService does not take row {row.number}: {error.details()}"
                ) from error
            elif error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                done.refused += 1
                if len(done.refusals) < REFUSED_SHOWN_MAX:
                    done.refusals.append(f"row {row.number}: {error.details()}")
                return
            else:
                raise ConnectionError(
                    f"TweetService refused row {row.number}: {error.code().name}: {error.details()}"
                ) from error
        else:
            done.posted += 1
            return


async def _paced(rows: list[Row], rate: float | None) -> AsyncGenerator[Row]:
    begun = time.monotonic()
    for position, row in enumerate(rows):
        if rate is not None:
            await asyncio.sleep(max(0.0, begun + position / rate - time.monotonic()))
        yield row


def _rows(path: Path) -> Iterator[Row]:
    with inputs.opened(path) as file:
        reader = csv.DictReader(file.text, strict=True)
        if not {"username", "content"} <= set(reader.fieldnames or ()):
            raise BadInput(f"{path} has no header with `username` and `content`")
        for number, row in enumerate(reader, start=1):
            username, content = row["username"], row["content"]
            if username is None or content is None or len(content) > ROW_CHARACTERS_MAX:
                raise BadInput(f"row {number} of {path} is not a tweet")
            yield Row(number, username, html.unescape(content))
