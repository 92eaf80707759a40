"""After a history: is everything as it must be?

1. Wait until all processes are up, and outbox and log are drained; then as long as caches may lag.
2. Read every home timeline to its end: through the gateway, and from each timeline server past it.
3. Compare with the oracle, the rows with what was acknowledged, and every count with a recount.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import grpc
import psycopg
import redis.exceptions
from chirp.v1 import timeline_pb2, timeline_pb2_grpc

from domain.ids import UserId
from eventlog.contract import EventLog
from eventlog.deadletters import DeadLetters, open_letters
from eventlog.valkey_streams import open_log
from ops import explain, probes
from storage import audits, outbox, valkey
from storage.timelines import TimelineStore, WindowKind
from tests.oracle import fetch_oracle
from tests.soak import ledger
from tests.soak.api import Api, Person
from tests.soak.model import PROMISED_S, Model
from tests.soak.stack import SoakStack
from workers import fanout_worker

STALLED_S = 60.0  # longer than the longest rest before a restart, and a start
POLL_S = 0.1
SETTLE_S = PROMISED_S + 0.3
LIMITS = (100, 7)
PAGES_MAX = 1_000
READ_TRIES = 3
IDS_SHOWN = 8
EXPLAINED = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found after a history."""

    timelines: int
    entries: int
    findings: list[str]
    lost_writes: list[str]


class Judge:
    """Judges histories on one stack."""

    def __init__(
        self,
        *,
        stack: SoakStack,
        api: Api,
        event_log: EventLog,
        timelines: TimelineStore,
        servers: "dict[str, timeline_pb2_grpc.TimelineServiceAsyncStub]",
        letters: DeadLetters,
    ) -> None:
        self._stack = stack
        self._api = api
        self._event_log = event_log
        self._timelines = timelines
        self._servers = servers
        self._letters = letters
        self._distance = stack.settings.repeat_distance

    async def oracle(self, viewer: int) -> dict[int, bool]:
        """Returns the ids of a home timeline, newest first, and which of them are no retweets."""
        async with self._stack.database() as connection:
            ids = await fetch_oracle(connection, viewer, self._distance)
            cursor = await connection.execute(
                "SELECT id FROM tweets WHERE id = ANY(%s) AND retweet_of IS NULL", (ids,)
            )
            plain = {int(row[0]) for row in await cursor.fetchall()}
        return {tweet: tweet in plain for tweet in ids}

    async def drained(self) -> int:
        """Waits until all is up and everything committed is through the log; returns the newest
        tweet of that. Raises ConnectionError where nothing moves for STALLED_S."""
        before, moved_at = "", time.monotonic()
        while True:
            try:
                where, newest = await self._behind()
            except (psycopg.OperationalError, redis.exceptions.RedisError, OSError) as error:
                where, newest = type(error).__name__, 0
            if not where:
                return newest
            if where != before:
                before, moved_at = where, time.monotonic()
            if time.monotonic() - moved_at > STALLED_S:
                raise ConnectionError(f"{where}, and nothing moves for {STALLED_S:.0f} s")
            await asyncio.sleep(POLL_S)

    async def _behind(self) -> tuple[str, int]:
        """Returns what is not at rest, "" where all is, and the newest tweet of before."""
        host, port = self._stack.url.removeprefix("http://").split(":")
        if await probes.http_status(host, int(port), "/healthz") != HTTPStatus.OK:
            return "not all is healthy", 0
        async with self._stack.database() as connection:
            newest = await audits.fetch_newest_tweet(connection)
            unsent = await outbox.count_unsent(connection)
        behind = sum((await self._event_log.lag(fanout_worker.GROUP)).values())
        waiting = f"{unsent} events wait for the relay, {behind} for fan-out"
        return waiting if unsent or behind else "", newest

    async def judge(self, people: Sequence[Person], model: Model) -> Verdict:
        """Judges what a history left behind."""
        findings: list[str] = []
        try:
            await self.drained()
        except ConnectionError as error:
            findings.append(f"events stand still: {error}")
        await asyncio.sleep(SETTLE_S)
        entries = 0
        for person in people:
            expected = list(await self.oracle(person.id))
            entries += len(expected)
            findings += [text async for text in self._compare(person, expected)]
        for letter in await self._letters.fetch_all():
            findings.append(f"a dead letter {letter.id}: {letter.error}")
        async with self._stack.database() as connection:
            lost = await ledger.lost_writes(connection, model)
            ids = [person.id for person in people]
            findings += await ledger.wrong_counts(connection, ids)
        return Verdict(len(people), entries, findings, lost)

    async def _compare(self, person: Person, expected: list[int]) -> AsyncGenerator[str]:
        for limit in LIMITS:
            async for where, served in self._read_everywhere(person, limit):
                if isinstance(served, str):
                    yield f"viewer {person.id}, {where}: {served}"
                elif served != expected:
                    yield await self._difference(person, where, expected, served)

    async def _read_everywhere(
        self, person: Person, limit: int
    ) -> AsyncGenerator[tuple[str, list[int] | str]]:
        yield f"gateway, pages of {limit}", await self._through_gateway(person, limit)
        for name, stub in self._servers.items():
            yield f"{name}, pages of {limit}", await _direct(stub, person, limit)

    async def _through_gateway(self, person: Person, limit: int) -> list[int] | str:
        ids, cursor, failures = list[int](), "", 0
        for _ in range(PAGES_MAX):
            page = await self._api.home_page(person, limit=limit, cursor=cursor)
            if page is None:
                failures += 1
                if failures == READ_TRIES:
                    return "cannot be read after everything came to rest"
                await asyncio.sleep(1.0)
                continue
            if page.flaw:
                return page.flaw
            ids += [shown.id for shown in page.tweets]
            cursor = page.next_cursor
            if not cursor:
                return ids
        return f"has no end after {PAGES_MAX} pages"

    async def _difference(
        self, person: Person, where: str, expected: list[int], served: list[int]
    ) -> str:
        """Says how a timeline differs, and what is known of the cause."""
        missing = sorted(set(expected) - set(served), reverse=True)
        extra = sorted(set(served) - set(expected), reverse=True)
        lines = [
            f"viewer {person.id}, {where}: {len(served)} entries are not the oracle's"
            f" {len(expected)}: missing {missing[:IDS_SHOWN]}, extra {extra[:IDS_SHOWN]}"
        ]
        for tweet in [*missing, *extra][:EXPLAINED]:
            lines.append(f"  {tweet}: {await self._explained(person, tweet)}")
        lines += [f"  {line}" async for line in self._window(person, set(missing) | set(extra))]
        await asyncio.sleep(SETTLE_S)
        now = list(await self.oracle(person.id))
        again = await self._through_gateway(person, LIMITS[0])
        lines.append(f"  {SETTLE_S:.1f} s later: {'equal' if again == now else 'still different'}")
        return "\n".join(lines)

    async def _explained(self, person: Person, tweet: int) -> str:
        async with self._stack.database() as connection:
            cursor = await connection.execute(
                "SELECT author_id, delivery, retweet_of, replied_author_id, deleted_at"
                " FROM tweets WHERE id = %s",
                (tweet,),
            )
            row = await cursor.fetchone()
        try:
            answer = await explain.ask(self._stack.settings, UserId(person.id), tweet)
        except ConnectionError as error:
            return f"{row}; {error}"
        return f"(author, delivery, original, replied author, deleted) = {row}; {answer.sentence}"

    async def _window(self, person: Person, tweets: set[int]) -> AsyncGenerator[str]:
        viewer = UserId(person.id)
        window = await self._timelines.fetch(WindowKind.TIMELINE, viewer)
        if window is None:
            yield "there is no window"
            return
        built = await self._timelines.fetch_built(viewer)
        listed = {entry[0] for entry in window.entries}
        yield (
            f"the window has {len(listed)} entries down to {window.floor}, rebuilt up to {built};"
            f" in it: {sorted(tweets & listed, reverse=True)[:IDS_SHOWN]}"
        )


@asynccontextmanager
async def open_judge(stack: SoakStack, api: Api) -> AsyncGenerator[Judge]:
    """Opens what judging needs."""
    settings = stack.settings
    async with AsyncExitStack() as opened:
        cache = await opened.enter_async_context(valkey.connect(settings.valkey_url, settings))
        servers: dict[str, timeline_pb2_grpc.TimelineServiceAsyncStub] = {}
        for number, port in enumerate(stack.ports["timeline_server"], start=1):
            channel = await opened.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            )
            servers[f"timeline_server-{number}"] = timeline_pb2_grpc.TimelineServiceStub(channel)
        yield Judge(
            stack=stack,
            api=api,
            event_log=await opened.enter_async_context(open_log(settings)),
            timelines=TimelineStore(cache, settings),
            servers=servers,
            letters=await opened.enter_async_context(open_letters(settings, fanout_worker.GROUP)),
        )


async def _direct(
    stub: "timeline_pb2_grpc.TimelineServiceAsyncStub", person: Person, limit: int
) -> list[int] | str:
    metadata = (("authorization", f"Bearer {person.token}"),)
    ids, cursor, failures = list[int](), "", 0
    for _ in range(PAGES_MAX):
        try:
            page = await stub.GetHomeTimeline(
                timeline_pb2.GetHomeTimelineRequest(limit=limit, cursor=cursor), metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            failures += 1
            if failures == READ_TRIES:
                return f"cannot be read after everything came to rest: {error.details()}"
            await asyncio.sleep(1.0)
            continue
        ids += [tweet.id for tweet in page.tweets]
        cursor = page.next_cursor
        if not cursor:
            return ids
    return f"has no end after {PAGES_MAX} pages"
