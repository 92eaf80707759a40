"""servers/one_pass.c makes the pages that Python's rules and presentation make, or none."""

import asyncio
import gc
import sys
from collections import OrderedDict
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, cast

import pytest
from chirp.v1 import timeline_pb2, user_pb2
from hypothesis import given, settings
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
    below: Marks | None = None
    """All marks, where the floor is not the beginning."""
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
        conversation_id=tweet, location="", like_count=version, retweet_count=0, reply_count=0,
        quote_count=0, delivery=1, version=version, created_at=datetime(2026, 1, 1, tzinfo=UTC),
        deleted_at=datetime(2026, 1, 2, tzinfo=UTC) if deleted else None,
    )  # fmt: skip
    return tweet_records.from_proto(tweet_records.from_row(row))


def entry(tweet: int, posted: Posted, tweets: dict[int, Posted]) -> Entry:
    other = tweets[posted.original].author if posted.original else posted.replied
    return TweetId(tweet), UserId(posted.author), TweetId(posted.original), UserId(other)


def run(made: Any) -> Any:
    return asyncio.run(made)


KINDS = ("plain", "plain", "reply", "reply", "quote", "retweet", "retweet", "retweet")
RECENT = 8  # of so many tweets one is repeated: near enough to be a repetition


def posted_tweets(draw: Random) -> dict[int, Posted]:
    tweets: dict[int, Posted] = {}
    for tweet in range(1, 1 + draw.choice((0, 6, 12, 25, 40))):
        author = draw.choice(ACCOUNTS)
        kind = draw.choice(KINDS)
        plain = [i for i, each in tweets.items() if not each.original][-RECENT:]
        if kind == "reply":
            tweets[tweet] = Posted(author, replied=draw.choice(ACCOUNTS))
        elif kind == "retweet" and plain:
            tweets[tweet] = Posted(author, original=draw.choice(plain))
        elif kind == "quote" and plain:
            tweets[tweet] = Posted(author, quoted=draw.choice(plain))
        else:
            tweets[tweet] = Posted(author)
    return tweets


def window(draw: Random, tweets: dict[int, Posted]) -> list[bytes]:
    """What Valkey has of some accounts' tweets: the newest of them, or all."""
    authors = accounts(draw, 3, 7)
    entries = [entry(i, t, tweets) for i, t in sorted(tweets.items(), reverse=True)]
    elements = windows.encode_all(each for each in entries if each[1] in authors)
    if draw.random() < 0.5 or not elements:
        return [*elements, windows.COMPLETE]
    return elements[: draw.randint(1, len(elements))]


def accounts(draw: Random, least: int, most: int) -> frozenset[UserId]:
    return frozenset(map(UserId, draw.sample(ACCOUNTS, draw.randint(least, most))))


def some(draw: Random, tweets: dict[int, Posted]) -> frozenset[int]:
    return frozenset(draw.sample(sorted(tweets), draw.randint(0, len(tweets))))


def drawn(seed: int) -> World:
    """A world of a seed. Hypothesis' own strategies make worlds that are too small to tell a rule
    from its neighbour: of 51 changes to the C code, most would live."""
    draw = Random(seed)
    tweets = posted_tweets(draw)
    hidden = accounts(draw, 1, 3) if draw.random() < 0.4 else frozenset[UserId]()
    world = World(
        tweets=tweets,
        windows=[window(draw, tweets) for _ in range(draw.randint(1, 4))],
        viewer=Viewer(ME, accounts(draw, 4, 7), hidden),
        marks=Marks(some(draw, tweets), some(draw, tweets)) if draw.random() < 0.6 else NO_MARKS,
        marks_floor=0,
        records=OrderedDict((i, record(i, posted)) for i, posted in tweets.items()),
        erased=set(),
        above=draw.choice(TWEETS) if draw.random() < 0.3 else 0,
        limit=draw.randint(1, 12),
        distance=draw.randint(1, 6),
    )
    keep_frames(world)
    if draw.random() < 0.5:
        world.disturbed = True
        disturb(world, draw)
    return world


def keep_frames(world: World) -> None:
    run(PRESENTER.frames(list(world.records.values()), Seen(NO_MARKS), fetching(world)))


def disturb(world: World, draw: Random) -> None:
    """What happens to a few reads only."""
    for tweet in draw.sample(sorted(world.tweets), min(len(world.tweets), draw.randint(0, 3))):
        posted = world.tweets[tweet]
        match draw.choice(("deleted", "anew", "fetched", "gone", "renamed", "restored")):
            case "deleted":
                world.records[tweet] = record(tweet, posted, version=2, deleted=True)
            case "anew":
                world.records[tweet] = record(tweet, posted, version=2)
            case "fetched":
                world.records[tweet] = record(tweet, posted)
            case "gone":
                world.kept[tweet] = world.records.pop(tweet)
            case "restored":
                # Frames were made while its author counted as deleted, and then did not.
                standing = world.records[tweet]
                world.records[tweet] = tweet_records.gone(standing)
                for each in world.records.values():
                    each.framed_at = -1
                shown = [each for each in world.records.values() if not each.deleted]
                run(PRESENTER.frames(shown, Seen(NO_MARKS), fetching(world)))
                world.records[tweet] = standing
            case _:
                world.records[tweet].framed_at = GENERATION - 1
                world.records[tweet].kept_frame = b"\x0a\x02\x08\x01"
    if draw.random() < 0.3:
        world.erased = set(accounts(draw, 1, 2))
    if draw.random() < 0.3:
        floor = draw.choice(TWEETS)
        world.marks_floor = floor
        # As viewer_marks.py keeps them: what it has of marks below the floor is no promise.
        world.below = world.marks
        world.marks = Marks(
            frozenset(i for i in world.marks.liked if i > floor),
            frozenset(i for i in world.marks.retweeted if i > floor),
        )
    if draw.random() < 0.1:
        marked = [windows.MARK_ID + bytes(24), *world.windows[0]]
        world.windows.append(draw.choice(([], [marked[0]], marked)))


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


def quick(world: World) -> quick_pages.Made:
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


def by_python(world: World) -> quick_pages.Made:
    """The page; None where a window is not there, (None, 0) where it takes another look. As
    TimelineService.GetHomeTimeline does it."""
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
            return None, 0
        ids = [each[0] for each in page.entries]
        found = run(fetch([*ids, *page.originals]))
        gone = {i for i in [*ids, *page.originals] if i not in found or found[i].deleted}
        if not gone:
            break
        deleted |= gone
    view = Seen(world.below or world.marks, world.viewer.hidden)
    frames = run(PRESENTER.frames([found[i] for i in ids], view, fetch))
    cursor = found[ids[-1]].cursor() if page.has_more else ""
    whole = tweet_records.page_bytes(frames, next_cursor=cursor, has_more=page.has_more)
    return whole, len(ids)


def shows_the_hidden(world: World) -> bool:
    shown = {i for each in world.tweets.values() for i in (each.original, each.quoted) if i}
    return any(world.tweets[i].author in world.viewer.hidden for i in shown)


@given(st.integers(0, (1 << 64) - 1))
@settings(max_examples=200)
def test_a_quick_page_is_the_page_that_python_makes(seed: int):
    draw = Random(seed)
    for _ in range(20):
        world = drawn(draw.getrandbits(64))
        made = quick(world)  # first: Python makes frames anew
        expected = by_python(world)

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
    keep_frames(world)
    return world


def test_a_deleted_original_below_a_page_is_not_what_more_there_is():
    world = plain_world(3)
    world.tweets[1].original = 9
    world.tweets[9] = Posted(2)
    world.windows[0][2] = windows.encode(entry(1, world.tweets[1], world.tweets))
    world.records[9] = record(9, world.tweets[9], deleted=True)
    world.limit = 2
    assert quick(world) is None
    page, _ = by_python(world) or (None, 0)
    assert timeline_pb2.GetHomeTimelineResponse.FromString(page or b"").has_more is False


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


def test_a_frame_that_is_no_tweet_is_left_to_python():
    world = plain_world(3)
    world.marks = Marks(frozenset({3}), frozenset())
    whole = quick(world)
    assert whole is not None
    for broken in (b"\x0a\x05\xff\xff\xff\xff\xff", b"\x0a\x02\x0a\x7f", b"", cast(Any, None)):
        world.records[3].kept_frame = broken
        assert quick(world) is None


def test_marks_are_found_behind_fields_of_every_kind():
    world = plain_world(1)
    world.marks = Marks(frozenset({1}), frozenset())
    eight, four = b"\xb9\x01" + bytes(8), b"\xbd\x01" + bytes(4)
    tweet = b"\x08\x01" + eight + four + tweet_records.UNMARKED
    world.records[1].kept_frame = tweet_records.frame(tweet)
    marked = tweet_records.frame(tweet[:-6] + world.marks.suffix(1))
    assert quick(world) == (marked, 1)


def test_a_record_without_a_slot_is_left_to_python():
    world = plain_world(1)
    del world.records[1].parts
    assert quick(world) is None
    world.records[1] = Record.__new__(Record)
    assert quick(world) is None


def test_an_id_that_is_none_is_refused():
    world = plain_world(1)
    world.records[1].framed_at = cast(Any, "3")
    with pytest.raises(TypeError):
        quick(world)


class OtherSlots:
    """All slots of a record but the last, and in another order."""

    __slots__ = (
        "author_id", "deleted", "framed_at", "kept_frame", "original_id", "quoted_id", "refers",
        "tweet_id", "version",
    )  # fmt: skip


@pytest.mark.parametrize("kind", [Posted, OtherSlots, 3])
def test_a_class_with_other_slots_is_refused(kind: Any):
    from servers import _one_pass

    with pytest.raises((TypeError, AttributeError)):
        _one_pass.bind(kind)
    # What was bound before still holds.
    assert quick(plain_world(3)) is not None
