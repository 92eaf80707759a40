"""Plays steps against Chirp, keeps the model of what is known, checks every page that it reads."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol

import psycopg

from tests.soak.api import Api, Page, Person, Post
from tests.soak.model import PROMISED_S, Model, Outcome
from tests.soak.plan import Step

TARGETS_MAX = 300  # of the newest tweets, those that others act on: so that they meet
CURSORS_MAX = 200
PAGES_MAX = 400  # of one timeline
LIMITS = (3, 20, 100)
POST_TRIES = 3
POST_REST_S = 0.5
# Longer than the promise: what changed before the first look is gone by the second.
WHOLE_REST_S = PROMISED_S + 0.3

Oracle = Callable[[int], Awaitable[dict[int, bool]]]
"""Viewer -> the entries of the home timeline, each with whether it is a plain tweet."""


class People(Protocol):
    """Those who act."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Person: ...


class Player:
    """Plays the steps of one history, many at a time."""

    def __init__(
        self,
        api: Api,
        people: People,
        model: Model,
        oracle: Oracle,
        *,
        prefix: str,
        limits: Sequence[int] = LIMITS,
    ) -> None:
        self._api = api
        self._people = people
        self._oracle = oracle
        self._prefix = prefix
        self._limits = limits
        self._posts = 0
        self._authors: dict[int, Person] = {}
        self._targets: deque[int] = deque(maxlen=TARGETS_MAX)
        self._cursors: deque[tuple[Person, str, int]] = deque(maxlen=CURSORS_MAX)
        self.model = model
        self.findings: list[str] = []
        self.delivered_up_to = 0
        """Everything with an id up to this is known to be through the log."""
        self.own_seen_late = 0
        """Own posts that the page read after them did not show."""

    async def play(self, step: Step) -> None:
        """Plays one step."""
        actor = self._people[step.actor % len(self._people)]
        match step.operation:
            case "post" | "reply" | "quote" as operation:
                await self.post(actor, operation, self._target(step.choice))
            case "delete":
                await self._delete(self._target(step.choice))
            case "read":
                await self._read(
                    actor, self._limits[step.choice % len(self._limits)], 1 + step.detail % 3
                )
            case "read on":
                await self._read_on(step.choice)
            case "read whole":
                await self._read_whole(actor, self._limits[step.choice % len(self._limits)])
            case "follow" | "unfollow" | "block" | "unblock" | "mute" | "unmute" as operation:
                other = self._people[step.choice % len(self._people)]
                if other.id != actor.id:
                    await self._change(operation, actor, other.id)
            case _:
                target = self._target(step.choice)
                if target:
                    await self._change(step.operation, actor, target)

    async def post(self, author: Person, operation: str = "post", target: int = 0) -> None:
        """Posts; a call that fails is made again with the same request id."""
        self._posts += 1
        number = self._posts
        asked = Post(
            operation,
            f"{operation} {number} #soak",
            f"{self._prefix}-{number}",
            0 if operation == "post" else target,
        )
        for attempt in range(POST_TRIES):
            if attempt:
                await asyncio.sleep(POST_REST_S)
            posted = await self._api.post(author, asked)
            if posted.outcome is Outcome.DONE:
                self._authors[posted.tweet] = author
                self.model.authors[posted.tweet] = author.id
                self._targets.append(posted.tweet)
                await self._look_for_own(author, posted.tweet, number)
            if posted.outcome is not Outcome.FAILED:
                return

    async def read_all(self) -> None:
        """Everybody reads the first page at once."""
        people = [self._people[index] for index in range(len(self._people))]
        await asyncio.gather(*(self._read(person, 20, 1) for person in people))

    async def post_some(self, random: Random, count: int) -> None:
        """So many post at once."""
        people = [self._people[random.randrange(len(self._people))] for _ in range(count)]
        await asyncio.gather(*(self.post(person) for person in people))

    async def _look_for_own(self, author: Person, tweet: int, number: int) -> None:
        if number % 5:
            return
        page = await self._page(author, 100, "")
        if page and tweet not in self.model.deleting and page.tweets[-1:]:
            shown = {each.id for each in page.tweets}
            self.own_seen_late += tweet not in shown and page.tweets[-1].id < tweet

    async def _delete(self, target: int) -> None:
        if not target:
            return
        self.model.deleting.add(target)
        self._targets.remove(target)
        author = self._authors[target]
        outcome = await self._api.delete(author, target)
        # Only its author deletes a tweet: one that is not there was deleted by a try that failed.
        if outcome is not Outcome.FAILED:
            self.model.deleted[target] = self._now()

    async def _change(self, operation: str, actor: Person, other: int) -> None:
        kind = "retweet" if operation == "undo retweet" else operation.removeprefix("un")
        relation, wanted = (kind, actor.id, other), operation == kind
        self.model.begin(relation, wanted)
        outcome = Outcome.FAILED
        try:
            outcome = await self._api.change(operation, actor, other)
            if outcome is Outcome.REFUSED and other in self.model.deleting:
                outcome = Outcome.FAILED  # it may have gone after it was liked, before the answer
        finally:
            self.model.end(relation, outcome, wanted, self._now())

    async def _read(self, viewer: Person, limit: int, pages: int) -> None:
        """Reads some pages, one below the other."""
        cursor, ids = "", list[int]()
        for _ in range(pages):
            page = await self._page(viewer, limit, cursor)
            if page is None:
                return
            ids += [shown.id for shown in page.tweets]
            if not page.next_cursor:
                break
            cursor = page.next_cursor
            self._cursors.append((viewer, cursor, ids[-1]))
        self._check_order(viewer, ids)

    async def _read_on(self, choice: int) -> None:
        """Reads at a cursor that was saved: it always works, and goes on below."""
        if not self._cursors:
            return
        viewer, cursor, below = self._cursors[choice % len(self._cursors)]
        page = await self._page(viewer, self._limits[choice % len(self._limits)], cursor)
        if page and page.tweets and page.tweets[0].id >= below:
            self._find(viewer, f"a cursor below {below} answers {page.tweets[0].id}")

    async def _read_whole(self, viewer: Person, limit: int) -> None:
        """Reads all pages. What the oracle has before, a promise later, and afterwards, is on them,
        where it was delivered long ago and the viewer's relations stood still meanwhile.

        Retweets are left out: whether one is shown depends on others' deletions."""
        changes = self.model.changes.get(viewer.id, 0)
        try:
            before = await self._oracle(viewer.id)
            await asyncio.sleep(WHOLE_REST_S)
            between = await self._oracle(viewer.id)
            ids = await self._all_pages(viewer, limit)
            after = await self._oracle(viewer.id)
        except psycopg.OperationalError:
            return  # it was killed; there is nothing to compare with
        if ids is None:
            return
        self._check_order(viewer, ids)
        steady = before.keys() & between.keys() & after.keys()
        due = {i for i in steady if after[i] and i <= self.delivered_up_to}
        missing = sorted(due - set(ids))
        if missing and self.model.changes.get(viewer.id, 0) == changes:
            self._find(viewer, f"of {len(due)} entries that must be there, {missing} are missing")

    async def _all_pages(self, viewer: Person, limit: int) -> list[int] | None:
        cursor, ids = "", list[int]()
        for _ in range(PAGES_MAX):
            page = await self._page(viewer, limit, cursor)
            if page is None:
                return None
            ids += [shown.id for shown in page.tweets]
            cursor = page.next_cursor
            if not cursor:
                return ids
        self._find(viewer, f"there is no end after {PAGES_MAX} pages")
        return None

    async def _page(self, viewer: Person, limit: int, cursor: str) -> Page | None:
        page = await self._api.home_page(viewer, limit=limit, cursor=cursor)
        if page is not None:
            if page.flaw:
                self._find(viewer, page.flaw)
            for flaw in self.model.flaws(viewer.id, page.tweets, page.asked_at):
                self._find(viewer, flaw)
        return page

    def _check_order(self, viewer: Person, ids: Sequence[int]) -> None:
        if list(ids) != sorted(set(ids), reverse=True):
            self._find(viewer, f"pages laid end to end are out of order or repeat: {ids}")

    def _find(self, viewer: Person, what: str) -> None:
        self.findings.append(f"viewer {viewer.id}: {what}")

    def _target(self, choice: int) -> int:
        return self._targets[choice % len(self._targets)] if self._targets else 0

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
