"""servers/one_pass.c makes the pages that Python's rules and presentation make, or none."""

import asyncio
import gc
import sys
from collections import OrderedDict
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from chirp.v1 import user_pb2
from hypothesis import event, given, settings
from hypothesis import strategies as st

from domain import timeline
from domain.ids import TweetId, UserId
from domain.timeline import Entry, Viewer
from servers import quick_pages, tweet_records
from servers.tweet_presenter import NO_MARKS, Marks, TweetPresenter
from servers.tweet_records import Record
from storage import windows
from storage.tweets import TweetRow

ME = UserId(1)
ACCOUNTS = range(1, 8)
TWEETS = range(1, 41)
GENERATION = 3

if quick_pages.one_pass is None:
    pytest.skip("servers/one_pass.c is not compiled", allow_module_level=True)
one_pass = quick_pages.one_pass


@dataclass
class Posted:
    """A tweet as the rules and the presentation know it."""

    author: int
    original: int = 0
    quoted: int = 0
    replied: int = 0


@dataclass
class World:
    """Everything that one page is made of."""

    tweets: dict[int, Posted]
    windows: list[list[bytes]]
    viewer: Viewer
    marks: Marks
    marks_floor: int
    records: OrderedDict[int, Record]
    erased: set[UserId]
    above: int
    limit: int
    distance: int
    disturbed: bool = False
    """Whether anything but the windows is not as it is for almost every read."""
    kept: dict[int, Record] = field(default_factory=dict[int, Record])


class Names:
    """Names of accounts that are all known."""

    generation = GENERATION
    hits = 0

    async def fields(self, ids: Iterable[int], *, trusted: bool) -> dict[int, bytes]:
        return {i: tweet_records.author_field(user_pb2.UserSummary(id=i)) for i in ids}

    def keeps(self, user: int) -> bool:
        return True


class Feed:
    fresh = True


PRESENTER = TweetPresenter(cast(Any, Names()), cast(Any, Feed()))


@dataclass
class Seen:
    """A viewer to whom a page is presented."""

    known: Marks
    shunned: Container[int] = ()

    async def marks(self, ids: Collection[int]) -> Marks | None:
        return self.known

    async def hidden(self, accounts: Collection[int]) -> Container[int]:
        return self.shunned


def record(tweet: int, posted: Posted, *, version: int = 1, deleted: bool = False) -> Record:
    row = TweetRow(
        id=tweet, author_id=posted.author, content=f"tweet {tweet} " + "x" * (7 * tweet % 200),
        media_urls=[], hashtags=["a"], mentions=[2], reply_to=None, replied_author_id=None,
        retweet_of=posted.original or None, original_author_id=None, quote_of=posted.quoted or None,
        conversation_id=tweet, location="", like_count=tweet % 3, retweet_count=0, reply_count=0,
        quote_count=0, delivery=1, version=version, created_at=datetime(2026, 1, 1, tzinfo=UTC),
        deleted_at=datetime(2026, 1, 2, tzinfo=UTC) if deleted else None,
    )  # fmt: skip
    return tweet_records.from_proto(tweet_records.from_row(row))


def entry(tweet: int, posted: Posted, tweets: dict[int, Posted]) -> Entry:
    other = tweets[posted.original].author if posted.original else posted.replied
    return TweetId(tweet), UserId(posted.author), TweetId(posted.original), UserId(other)


def run(made: Any) -> Any:
    return asyncio.run(made)


@st.composite
def posted_tweets(draw: st.DrawFn) -> dict[int, Posted]:
    tweets: dict[int, Posted] = {}
    for tweet in draw(st.lists(st.sampled_from(TWEETS), unique=True, max_size=40).map(sorted)):
        author = draw(st.sampled_from(ACCOUNTS))
        kind = draw(st.sampled_from(("plain", "plain", "reply", "retweet", "quote")))
        plain = [i for i, each in tweets.items() if not each.original]
        if kind == "reply":
            tweets[tweet] = Posted(author, replied=draw(st.sampled_from(ACCOUNTS)))
        elif kind == "retweet" and plain:
            tweets[tweet] = Posted(author, original=draw(st.sampled_from(plain)))
        elif kind == "quote" and plain:
            tweets[tweet] = Posted(author, quoted=draw(st.sampled_from(plain)))
        else:
            tweets[tweet] = Posted(author)
    return tweets


@st.composite
def window(draw: st.DrawFn, tweets: dict[int, Posted]) -> list[bytes]:
    """What Valkey has of some accounts' tweets: the newest of them, or all."""
    authors = draw(st.frozensets(st.sampled_from(ACCOUNTS)))
    entries = [entry(i, t, tweets) for i, t in sorted(tweets.items(), reverse=True)]
    elements = windows.encode_all(each for each in entries if each[1] in authors)
    if draw(st.booleans()) or not elements:
        return [*elements, windows.COMPLETE]
    return elements[: draw(st.integers(1, len(elements)))]


IDS = st.frozensets(st.sampled_from(ACCOUNTS).map(UserId))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    tweets = draw(posted_tweets())
    some = st.frozensets(st.sampled_from(sorted(tweets) or [1]))
    viewer = Viewer(ME, draw(IDS), draw(IDS) if draw(st.booleans()) else frozenset())
    marks = Marks(draw(some), draw(some)) if draw(st.booleans()) else NO_MARKS
    world = World(
        tweets=tweets,
        windows=draw(st.lists(window(tweets), min_size=1, max_size=4)),
        viewer=viewer,
        marks=marks,
        marks_floor=0,
        records=OrderedDict((i, record(i, posted)) for i, posted in tweets.items()),
        erased=set(),
        above=draw(st.sampled_from((0, 0, *TWEETS))),
        limit=draw(st.integers(1, 12)),
        distance=draw(st.integers(1, 6)),
    )
    run(PRESENTER.frames(list(world.records.values()), Seen(NO_MARKS), fetching(world)))
    if draw(st.booleans()):
        world.disturbed = True
        disturb(world, draw)
    return world


def disturb(world: World, draw: st.DrawFn) -> None:
    """What happens to a few reads only."""
    for tweet in draw(st.lists(st.sampled_from(sorted(world.tweets) or [1]), max_size=4)):
        if tweet not in world.records:
            continue
        posted = world.tweets[tweet]
        match draw(st.sampled_from(("deleted", "anew", "fetched", "gone", "renamed"))):
            case "deleted":
                world.records[tweet] = record(tweet, posted, version=2, deleted=True)
            case "anew":
                world.records[tweet] = record(tweet, posted, version=2)
            case "fetched":
                world.records[tweet] = record(tweet, posted)
            case "gone":
                world.kept[tweet] = world.records.pop(tweet)
            case _:
                world.records[tweet].framed_at = GENERATION - 1
    world.erased = set(draw(IDS)) if draw(st.booleans()) else set()
    world.marks_floor = draw(st.sampled_from((0, *TWEETS)))
    if draw(st.booleans()):
        broken = draw(st.sampled_from(([], [windows.MARK_ID + bytes(24)])))
        world.windows.append(broken)


def fetching(world: World) -> Any:
    """The hydrator: what is kept, or else fetched; of erased authors as deleted."""

    async def fetch(ids: Sequence[int]) -> dict[int, Record]:
        found = {i: world.records.get(i) or world.kept.get(i) for i in ids}
        return {
            i: tweet_records.gone(each) if each.author_id in world.erased else each
            for i, each in found.items()
            if each is not None
        }

    return fetch


def quick(world: World) -> tuple[bytes, int] | None:
    return one_pass(
        world.windows,
        world.viewer.id,
        quick_pages.packed(world.viewer.followees),
        quick_pages.packed(world.viewer.hidden),
        world.marks.liked,
        world.marks.retweeted,
        world.marks_floor,
        world.records,
        world.erased,
        GENERATION,
        world.above,
        world.limit,
        world.distance,
    )


def by_python(world: World) -> tuple[bytes, int] | None:
    """The page; None where it takes another look. As TimelineService.GetHomeTimeline does it."""
    packed = [windows.parse(each) for each in world.windows]
    if any(each is None for each in packed):
        return None
    merged = windows.merge([each for each in packed if each is not None])
    fetch = fetching(world)
    deleted: set[int] = set()
    while True:
        page = timeline.page(
            merged,
            world.viewer,
            below=None,
            above=world.above,
            limit=world.limit,
            repeat_distance=world.distance,
            deleted=deleted,
        )
        if not page.complete:
            return None
        ids = [each[0] for each in page.entries]
        found = run(fetch([*ids, *page.originals]))
        gone = {i for i in [*ids, *page.originals] if i not in found or found[i].deleted}
        if not gone:
            break
        deleted |= gone
    view = Seen(world.marks, world.viewer.hidden)
    frames = run(PRESENTER.frames([found[i] for i in ids], view, fetch))
    cursor = found[ids[-1]].cursor() if page.has_more else ""
    whole = tweet_records.page_bytes(frames, next_cursor=cursor, has_more=page.has_more)
    return whole, len(ids)


def shows_the_hidden(world: World) -> bool:
    shown = {i for each in world.tweets.values() for i in (each.original, each.quoted) if i}
    return any(world.tweets[i].author in world.viewer.hidden for i in shown)


@given(worlds())
@settings(max_examples=500)
def test_a_quick_page_is_the_page_that_python_makes(world: World):
    made = quick(world)
    expected = by_python(world)

    event(f"quick: {made is not None}, Python: {expected is not None}")
    if made is not None:
        assert made == expected
    elif not world.disturbed and not shows_the_hidden(world):
        # Where all is at hand, nothing else has to make the page.
        assert expected is None


def plain_world(count: int) -> World:
    tweets = {tweet: Posted(2) for tweet in range(1, count + 1)}
    entries = [entry(i, tweets[i], tweets) for i in sorted(tweets, reverse=True)]
    world = World(
        tweets=tweets,
        windows=[[*windows.encode_all(entries), windows.COMPLETE]],
        viewer=Viewer(ME, frozenset({UserId(2)}), frozenset()),
        marks=NO_MARKS,
        marks_floor=0,
        records=OrderedDict((i, record(i, posted)) for i, posted in tweets.items()),
        erased=set(),
        above=0,
        limit=20,
        distance=40,
    )
    run(PRESENTER.frames(list(world.records.values()), Seen(NO_MARKS), fetching(world)))
    return world


def test_more_windows_than_there_is_room_for_are_left_to_python():
    world = plain_world(30)
    world.windows = world.windows * 200
    assert quick(world) is None
    assert by_python(world) is not None


def test_more_hidden_entries_than_there_is_room_for_are_left_to_python():
    world = plain_world(3_000)
    world.limit = 100
    world.tweets[3_000] = Posted(2, original=1)
    newest = entry(3_000, world.tweets[3_000], world.tweets)
    world.windows[0][0] = windows.encode(newest)
    world.distance = 1_024
    assert quick(world) is None


def test_elements_of_another_length_are_left_to_python():
    world = plain_world(3)
    world.windows[0].insert(1, b"short")
    assert quick(world) is None


def test_nothing_is_kept_of_a_page():
    world = plain_world(60)
    everything = [*world.windows[0], *world.records.values()]
    quick(world)
    gc.collect()
    before = [sys.getrefcount(each) for each in everything]
    blocks = sys.getallocatedblocks()
    for _ in range(1_000):
        quick(world)
    assert [sys.getrefcount(each) for each in everything] == before
    assert sys.getallocatedblocks() - blocks < 100


WRONG: list[tuple[int, Any]] = [
    *((place, None) for place in (0, 2, 3, 4, 5, 7, 8)),
    *((place, "1") for place in (1, 6, 9, 10, 11, 12)),
    *((1, -1), (11, 0), (11, 101), (12, 1_025)),
]


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_an_argument_of_another_kind_is_refused(place: int, value: Any):
    arguments: list[Any] = [
        [],
        1,
        b"",
        b"",
        set[int](),
        set[int](),
        0,
        {},
        set[int](),
        0,
        0,
        20,
        40,
    ]
    assert one_pass(*arguments) == (b"", 0)
    arguments[place] = value
    with pytest.raises((TypeError, OverflowError)):
        one_pass(*arguments)


def test_a_frame_that_is_no_tweet_is_refused():
    world = plain_world(3)
    world.marks = Marks(frozenset({3}), frozenset())
    world.records[3].kept_frame = b"\x0a\x05\xff\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="no serialised Tweet"):
        quick(world)


def test_a_class_with_other_slots_is_refused():
    from servers import _one_pass

    with pytest.raises((TypeError, AttributeError)):
        _one_pass.bind(cast(Any, Posted))
    # What was bound before still holds.
    assert quick(plain_world(3)) is not None
