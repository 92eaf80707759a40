"""Bugs that others have had, or that this design invites, planted for one test at a time: each must
be found by the histories. A bug is a function that changes the code through a MonkeyPatch."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from chirp.v1 import events_pb2

from domain import fanout, timeline
from domain.ids import UserId
from domain.tier import Tier
from domain.timeline import Entry, Page, Viewer, Window
from eventlog.contract import Outgoing, Record
from eventlog.runner import Runner
from mesh.settings import Settings
from servers import quick_pages, timeline_service
from servers.home_skeleton import HomeSkeleton
from servers.viewers import Viewers
from storage import candidates, database, outbox, purges, timelines, windows
from storage.database import Connection, Pool
from storage.followers import FollowerStore
from storage.outbox import Unsent
from storage.timelines import TimelineStore
from storage.windows import Packed
from workers.fanout_worker import FanoutWorker
from workers.outbox_relay import Relay

Plant = Callable[[pytest.MonkeyPatch], None]


def _lua(old: str, new: str) -> Plant:
    """Changes one place of timelines.lua."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        source = timelines.library_source()
        assert source.count(old) == 1, f"not one place in the library: {old}"
        patch.setattr(timelines, "library_source", lambda: source.replace(old, new))

    return plant


def _in_python(plant: Plant) -> Plant:
    """Changes rules in Python, which then make every page."""

    def plant_there(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(quick_pages, "one_pass", None)
        plant(patch)

    return plant_there


def _in_quick_pages(change: Callable[[list[Any]], None]) -> Plant:
    """Changes what quick pages are made of: the arguments of one_pass.page, in their order."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        make = quick_pages.one_pass
        if make is None:
            pytest.skip("servers/one_pass.c is not compiled")

        def changed(*arguments: Any) -> quick_pages.Made:
            made_of = list(arguments)
            change(made_of)
            return make(*made_of)

        patch.setattr(quick_pages, "one_pass", changed)

    return plant


def _to_the_beginning(made_of: list[Any]) -> None:
    made_of[0] = [[*elements, windows.COMPLETE] for elements in made_of[0]]


def _nobody_hidden(made_of: list[Any]) -> None:
    made_of[3] = b""


def no_tombstone(patch: pytest.MonkeyPatch) -> None:
    """What hydrating finds deleted is shown: a deletion that overtakes its creation is lost."""

    def never(ids: Sequence[int], records: object) -> set[int]:
        return set()

    patch.setattr(timeline_service, "_gone", never)


def retweet_outlives_its_original(patch: pytest.MonkeyPatch) -> None:
    """Readers look at the entries of a page only, not at what they repeat."""
    page = timeline.page

    def forgetful(*args: Any, **rest: Any) -> Page:
        return page(*args, **rest)._replace(originals=())

    patch.setattr(timeline, "page", forgetful)


def late_commit_skipped(patch: pytest.MonkeyPatch) -> None:
    """The relay remembers the highest id that it sent."""
    fetch, mark = outbox.fetch_unsent, outbox.mark_sent
    highest = 0

    async def fetch_newer(connection: Connection, limit: int) -> list[Unsent]:
        return [row for row in await fetch(connection, limit) if row.id > highest]

    async def mark_and_remember(connection: Connection, ids: Sequence[int], **rest: Any) -> bool:
        nonlocal highest
        highest = max(highest, *ids)
        return await mark(connection, ids, **rest)

    patch.setattr(outbox, "fetch_unsent", fetch_newer)
    patch.setattr(outbox, "mark_sent", mark_and_remember)


def sent_before_appended(patch: pytest.MonkeyPatch) -> None:
    """The relay marks rows as sent, then appends them."""
    mark = outbox.mark_sent

    async def step(self: Relay, connection: Connection) -> int:
        rows = await outbox.fetch_unsent(connection, 1_000)
        if not rows:
            return 0
        private: Any = self
        log, fence = private._event_log, private._fence
        await mark(connection, [row.id for row in rows], fence=fence, tail=log.tail)
        await outbox.mark_sent(connection, [], fence=fence, tail=log.tail)  # where crashes happen
        records = [Outgoing(row.partition_key, row.payload) for row in rows]
        await log.append(records, fence=fence)
        return len(rows)

    patch.setattr(Relay, "step", step)


def committed_before_handled(patch: pytest.MonkeyPatch) -> None:
    """The consumer commits a batch, then handles it."""

    async def work(self: Runner, records: Sequence[Record]) -> None:
        private: Any = self
        for record in records:
            await private._commit({record.partition: record.position})
        await private._handle(records)

    patch.setattr(Runner, "_work", work)


def no_look_ahead(patch: pytest.MonkeyPatch) -> None:
    """Repeats are looked for on the page only, not below its end."""
    repeats = vars(timeline)["_repeats_below"]

    def near_sighted(seen: Sequence[Entry], position: int, distance: int) -> bool:
        return bool(repeats(seen[: position // 3 * 3 + 3], position, distance))

    patch.setattr(timeline, "_repeats_below", near_sighted)


def end_of_window_is_the_end(patch: pytest.MonkeyPatch) -> None:
    """A page that the window cannot fill is taken for the last one."""

    async def never(
        self: HomeSkeleton, window: Window, viewer: Viewer, asked: Any, deleted: Container[int]
    ) -> Page:
        private: Any = self
        return private._cut(Window(window.entries, 0), viewer, asked, deleted)

    patch.setattr(HomeSkeleton, "_extended", never)


def pages_below_a_truncated_source(patch: pytest.MonkeyPatch) -> None:
    """Merged windows are read down to the oldest floor, where one of them has ended before."""
    merge = windows.merge

    def too_deep(parts: Sequence[Packed], wanted: int | None) -> Window:
        merged = merge([Packed(window.elements, 0) for window in parts])
        return Window(merged.entries, min(window.floor for window in parts))

    patch.setattr(windows, "merge", too_deep)


def tier_read_at_fan_out(patch: pytest.MonkeyPatch) -> None:
    """Fan-out goes by the tier that the author has by then, not by the stamp."""
    handle, opened = FanoutWorker.handle, database.open_pool
    pools: list[Pool] = []

    def remember(settings: Settings, **rest: Any) -> Any:
        context = opened(settings, **rest)
        enter = type(context).__aenter__

        class Remembering:
            async def __aenter__(self) -> Pool:
                pools[:] = [await enter(context)]
                return pools[0]

            async def __aexit__(self, *how: Any) -> None:
                await context.__aexit__(*how)

        return Remembering()

    async def by_tier_of_now(self: FanoutWorker, records: Sequence[Record]) -> None:
        changed: list[Record] = []
        for record in records:
            event = events_pb2.Event.FromString(record.payload)
            if event.HasField("tweet_created"):
                async with pools[0].connection() as connection:
                    cursor = await connection.execute(
                        "SELECT tier FROM users WHERE id = %s",
                        (event.tweet_created.entry.author_id,),
                    )
                    row = await cursor.fetchone()
                assert row is not None
                delivery = int(fanout.plan(Tier(row[0])))
                event.tweet_created.delivery = events_pb2.Delivery.ValueType(delivery)
            changed.append(replace(record, payload=event.SerializeToString()))
        await handle(self, changed)

    patch.setattr(database, "open_pool", remember)
    patch.setattr(FanoutWorker, "handle", by_tier_of_now)


def follows_leave_the_timeline(patch: pytest.MonkeyPatch) -> None:
    """A change of relations drops nothing: not by the server, the events, or the feed."""

    async def keep(self: TimelineStore, viewer: UserId) -> None:
        pass

    def ignore(self: Viewers, purge: purges.Purge) -> None:
        pass

    patch.setattr(TimelineStore, "drop", keep)
    patch.setattr(Viewers, "on_purge", ignore)
    _lua(
        "call('DEL', 'timeline:' .. tag .. ':' .. follower, 'viewer:' .. tag .. ':' .. follower)",
        "call('DEL', 'timeline:' .. tag .. ':' .. follower)",
    )(patch)


def rebuilt_with_old_relations(patch: pytest.MonkeyPatch) -> None:
    """A rebuild does not ask whether the relations that it knows still hold."""
    begin = TimelineStore.begin_rebuild

    async def unbound(self: TimelineStore, kind: Any, user: UserId, **rest: Any) -> bytes | None:
        return await begin(self, kind, user)

    patch.setattr(TimelineStore, "begin_rebuild", unbound)


def blocks_work_one_way(patch: pytest.MonkeyPatch) -> None:
    """Those who block the viewer are not hidden from the viewer."""

    async def fetch(pool: Pool, viewer: UserId) -> frozenset[UserId]:
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT blocked_id FROM blocks WHERE blocker_id = %s"
                " UNION SELECT muted_id FROM mutes WHERE muter_id = %s",
                (viewer, viewer),
            )
            return frozenset(UserId(row[0]) for row in await cursor.fetchall())

    patch.setattr(candidates, "fetch_hidden", fetch)


def first_pull_goes_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """Readers are not told that an author has pulled tweets now."""

    async def keep(self: TimelineStore) -> None:
        pass

    patch.setattr(TimelineStore, "drop_pulled_token", keep)


def _not_fed(left_out: purges.Kind) -> Plant:
    """Servers are not told of a kind of change, and keep what they have."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        insert = purges.insert

        async def others(
            connection: Connection, kind: purges.Kind, subject: int, version: int = 0
        ) -> None:
            if kind is not left_out:
                await insert(connection, kind, subject, version)

        patch.setattr(purges, "insert", others)

    return plant


def follower_lists_from_the_past(patch: pytest.MonkeyPatch) -> None:
    """Follow events do not reach the follower lists that fan-out keeps."""
    apply = FollowerStore.apply

    async def without_follows(self: FollowerStore, *, changes: Sequence[Any], **rest: Any) -> int:
        kept = [change for change in changes if change.op not in ("follow", "unfollow")]
        return await apply(self, changes=kept, **rest)

    patch.setattr(FollowerStore, "apply", without_follows)


@dataclass(frozen=True)
class Bug:
    """A bug, how long the lists are where it shows, and whose histories are played: those of a seed
    where others meet it late."""

    plant: Plant
    length: int = 7
    distance: int = 3
    seed: int | None = None


BUGS: dict[str, Bug] = {
    "a push makes a list that is not there": Bug(
        _lua(
            "if not head then return 0, count, 1 end",
            "if not head then call('RPUSH', key, nth(entries, 1)) end\n"
            "  head = call('LINDEX', key, 0)",
        )
    ),
    "entries stand in the order of their arrival": Bug(
        _lua(
            "if hhi < hi or (hhi == hi and hlo < lo) then\n    if count == 1",
            "if hhi ~= MARK then\n    if count == 1",
        )
    ),
    "a push is not idempotent": Bug(
        _lua("if ehi == hi and elo == lo then return 0, 1 + probes end", "")
    ),
    "only the last of several entries is newer": Bug(
        _lua(
            "local hi, lo = unpack_id('>I4I4', entries)\n",
            "local hi, lo = unpack_id('>I4I4', nth(entries, count))\n",
        ),
        seed=6,
    ),
    "a rebuild loses what is pushed meanwhile": Bug(
        _lua("local merged, p, s = {}, 2, 5", "local merged, p, s = {}, #pushed + 1, 5")
    ),
    "what was deleted is shown": Bug(_in_python(no_tombstone), 800, 40),
    "idle readers keep their lists": Bug(
        _lua("    call('DEL', key)\n    return 0, count, 2", "    return 0, count, 2")
    ),
    "retweets outlive their originals": Bug(_in_python(retweet_outlives_its_original)),
    "a late commit is skipped": Bug(late_commit_skipped, seed=2),
    "marked as sent before it is appended": Bug(sent_before_appended),
    "committed before it is handled": Bug(committed_before_handled),
    "no look-ahead at a page's end": Bug(_in_python(no_look_ahead)),
    "the end of the list is the end": Bug(_in_python(end_of_window_is_the_end)),
    "pages reach below a truncated source": Bug(_in_python(pages_below_a_truncated_source), 3, 3),
    "the tier is read at fan-out": Bug(tier_read_at_fan_out),
    "a follow leaves the list as it was": Bug(follows_leave_the_timeline),
    "a rebuild with relations of the past": Bug(rebuilt_with_old_relations),
    "blocks work one way": Bug(blocks_work_one_way),
    "the first pulled tweet goes unnoticed": Bug(first_pull_goes_unnoticed),
    "deletions are not fed to the servers": Bug(_not_fed(purges.Kind.TWEET)),
    "deleted accounts are not fed to the servers": Bug(_not_fed(purges.Kind.ERASED)),
    "a quick page takes the end of a list for the end": Bug(_in_quick_pages(_to_the_beginning)),
    "a quick page shows who is hidden": Bug(_in_quick_pages(_nobody_hidden)),
    "follower lists do not follow": Bug(follower_lists_from_the_past),
}
