"""Group commit of plain tweets: those that arrive while a transaction is on its way to the disk are
written together by the next.

A transaction costs several statements, a turn of each connection and a sync of the disk; shared by
a group, a tweet costs a part of that (docs/decisions/0013-group-commit.md). A tweet that comes
alone is a group of one and waits for nobody.

Nobody waits for a stranger either: an author whose row somebody else holds is left out of the
group. What such tweets, and those that refer to others, need is in `TweetService`.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import cast

import psycopg

from domain.errors import Overloaded
from domain.ids import TweetId, UserId
from mesh import traces
from servers import tweet_writer
from servers.tweet_writer import AlreadyPosted, Notices, Written
from storage import posts, tweets
from storage.database import Pool
from storage.messages import Connection
from storage.snowflakes import IdMinter
from storage.tweets import TweetRow

GROUP_MAX = 64
TRANSACTIONS_MAX = 4
SMALL_GROUP = 8  # behind larger ones there are many, and the relay looks all the time
REST_S = 0.006  # from one transaction's beginning to the next's, at least
PATIENCE_S = 0.05  # a transaction that takes longer does not keep the next group from beginning
# Its pool gives out connections in turn. One that a slow transaction made it open would have half
# of all groups from then on, by a backend with cold caches: it goes again.
IDLE_S = 5.0
WAITING_MAX = 1_000  # tweets that wait for a transaction; one more is refused at once


@dataclass(frozen=True, slots=True)
class Plain:
    """A tweet that refers to no other. `row` makes it of its id, which it gets under the lock of
    its author's row; `location` is its own, or empty."""

    author: UserId
    request_id: str
    location: str
    notices: Notices
    row: Callable[[TweetId], TweetRow]
    trace: str = field(default_factory=traces.current)
    """The span of the call that it came by."""


Outcome = Written | AlreadyPosted | None
_Waiting = tuple[Plain, "asyncio.Future[Outcome]"]


class GroupCommit:
    """Writes plain tweets, those of one author in the order of the calls.

    One transaction is on its way at a time, unless it takes long: two at once would make groups
    half as large, and posting slower.
    """

    def __init__(self, pool: Pool, ids: IdMinter) -> None:
        self._pool = pool
        self._ids = ids
        self._waiting: deque[_Waiting] = deque()
        self._writing: set[asyncio.Task[None]] = set()
        self._authors: set[UserId] = set()
        """Whose tweets are being written: their next ones wait, and keep their order."""
        self._timer: asyncio.TimerHandle | None = None
        self._began_at = -math.inf  # the newest transaction, by the loop's clock

    async def write(self, tweet: Plain) -> Written | None:
        """Returns the tweet, committed; None where it has to go alone, because its author's row is
        held or gone, or something is wrong in its group. Raises AlreadyPosted, and what psycopg
        raises, when it may be committed or not, as with any commit.

        A caller who goes away takes nothing from the others of the group, and the tweet is stored
        with them. Once all have gone, the group is rolled back, where it is not committed."""
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded("too many tweets wait to be stored; try again")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((tweet, future))
        self._attend()
        outcome = await future
        if isinstance(outcome, AlreadyPosted):
            raise outcome
        return outcome

    def _attend(self) -> None:
        """Sees to it that what waits is written, at once or when it is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._writing) == TRANSACTIONS_MAX:
            return
        if all(tweet.author in self._authors for tweet, _ in self._waiting):
            return  # there is nothing, or it is for those to write who write the same authors
        loop = asyncio.get_running_loop()
        due_at = self._began_at + (PATIENCE_S if self._writing else REST_S)
        if loop.time() < due_at:
            self._timer = loop.call_at(due_at, self._attend)
            return
        self._began_at = loop.time()
        # For whoever comes, and not for the request that it happens to begin with.
        self._writing.add(asyncio.create_task(self._write_next(), context=Context()))

    async def _write_next(self) -> None:
        try:
            if group := self._next_group():
                await self._write_and_tell(group)
        finally:
            # Before anybody else runs, or what comes now would take this writer for busy.
            self._writing.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            self._attend()

    async def _write_and_tell(self, group: Sequence[_Waiting]) -> None:
        authors = {tweet.author for tweet, _ in group}
        self._authors |= authors
        writing = asyncio.create_task(  # noqa: RUF006 - awaited below
            self._write_group([tweet for tweet, _ in group])
        )
        waiting = len(group)

        def left(_: "asyncio.Future[Outcome]") -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                writing.cancel()  # unless it is done: then they were told, and did not leave

        for _, future in group:
            future.add_done_callback(left)
        try:
            outcomes = await writing
        except asyncio.CancelledError:
            if waiting:
                raise  # the process ends
            return
        except (psycopg.DataError, psycopg.IntegrityError):
            # One of them cannot be stored; nothing is. Alone, each gets an answer of its own.
            outcomes = [None] * len(group)
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller is told
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            self._authors -= authors
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)

    def _next_group(self) -> list[_Waiting]:
        """Takes those that wait longest, one of each author of whom none is being written, without
        those whose caller left."""
        group: dict[UserId, _Waiting] = {}
        kept: list[_Waiting] = []
        while self._waiting and len(group) < GROUP_MAX:
            tweet, future = self._waiting.popleft()
            if future.done():
                continue
            if tweet.author in group or tweet.author in self._authors:
                kept.append((tweet, future))
            else:
                group[tweet.author] = tweet, future
        self._waiting.extendleft(reversed(kept))
        return list(group.values())

    async def _write_group(self, group: Sequence[Plain]) -> list[Outcome]:
        # Two round trips, one of them with the sync. Given back with an error, the connection is
        # rolled back.
        with traces.together("group commit", (tweet.trace for tweet in group)):
            async with self._pool.connection() as connection:
                return await self._insert(connection, group)

    async def _insert(self, connection: Connection, group: Sequence[Plain]) -> list[Outcome]:
        """The transaction. The authors' rows are locked first: from there on, ids in the outbox
        grow in the order of an author's commits."""
        stamps, used = await posts.begin(
            connection,
            [tweet.author for tweet in group],
            [(tweet.author, tweet.request_id) for tweet in group if tweet.request_id],
        )
        outcomes: list[Outcome] = []
        rows: list[tuple[TweetRow, str]] = []
        events: list[bytes] = []
        repeated: list[UserId] = []
        for tweet in group:
            stamp = stamps.get(tweet.author)
            if stamp is None:
                outcomes.append(None)
                continue
            if (tweet.author, tweet.request_id) in used:
                outcomes.append(AlreadyPosted())
                repeated.append(tweet.author)
                continue
            row, first_pulled = tweet_writer.stamped(
                tweet.row(TweetId(self._ids.mint())), stamp, tweet.location
            )
            if first_pulled:
                await tweets.mark_pulled(connection, tweet.author, TweetId(row.id))
            event = tweet_writer.created_event(
                row, tweet.notices, first_pulled=first_pulled, trace=tweet.trace
            )
            rows.append((row, tweet.request_id))
            events.append(event)
            outcomes.append(Written(row, (), stamp.author))
        await posts.commit(
            connection, rows, events, wake=len(rows) <= SMALL_GROUP, not_posted=repeated
        )
        return outcomes
