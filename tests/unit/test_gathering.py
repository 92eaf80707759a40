"""Deliveries gathered by window, and follower lists of who came and went, against naive models."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain import fanout
from domain.ids import MAX_ID, UserId
from storage import follower_lists
from storage.gathering import Gathered, Parts
from storage.windows import ENTRY, ENTRY_BYTES

ids = st.integers(1, 6) | st.integers(2**62, 2**62 + 2)
windows = st.lists(st.integers(-3, 9).filter(bool) | ids, max_size=12)
parts = st.lists(st.tuples(ids, windows, st.integers(1, 3)), min_size=1, max_size=10)


def entry(tweet: int) -> bytes:
    return ENTRY.pack(tweet, 7, 0, 0)


def gather(case: list[tuple[int, list[int], int]]) -> Gathered:
    collected = Parts()
    for tweet, of, urgency in case:
        collected.add(entry(tweet), np.array(of, np.int64), urgency)
    return Gathered(collected, timeline=b"t:", recent=b"r:")


@given(parts, st.integers(1, 7))
def test_every_window_gets_its_entries_once_and_the_oldest_first(
    case: list[tuple[int, list[int], int]], limit: int
):
    expected: dict[bytes, set[int]] = {}
    for tweet, of, _ in case:
        for window in of:
            key = b"t:%d" % window if window > 0 else b"r:%d" % -window
            expected.setdefault(key, set()).add(tweet)
    gathered = gather(case)

    found: dict[bytes, list[int]] = {}
    for begin in range(0, len(gathered), limit):
        arguments = gathered.arguments(begin, min(begin + limit, len(gathered)))
        content = b"".join(arguments[1::2])
        assert len(content) == ENTRY_BYTES * min(limit, len(gathered) - begin)
        for key, entries in zip(arguments[::2], arguments[1::2], strict=True):
            found.setdefault(key, []).extend(tweet for tweet, *_ in ENTRY.iter_unpack(entries))

    assert len(gathered) == sum(map(len, expected.values()))
    assert found == {key: sorted(tweets) for key, tweets in expected.items()}


@given(parts)
def test_windows_with_something_urgent_come_first(case: list[tuple[int, list[int], int]]):
    urgency: dict[bytes, int] = {}
    for _, of, urgent in case:
        for window in of:
            key = b"t:%d" % window if window > 0 else b"r:%d" % -window
            urgency[key] = min(urgent, urgency.get(key, urgent))
    gathered = gather(case)

    order = [urgency[key] for key in gathered.arguments(0, len(gathered))[::2]]

    assert order == sorted(order)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 8)), max_size=30))
def test_follower_stands_in_a_list_where_it_came_last(history: list[tuple[bool, int]]):
    following: dict[int, None] = {}
    for came, follower in history:
        following.pop(follower, None)
        if came:
            following[follower] = None
    numbers = np.array([who if came else -who for came, who in history], np.int64)

    assert follower_lists.resolve(numbers).tolist() == list(following)


@given(st.lists(st.integers(1, MAX_ID)), st.integers(1, 64))
def test_followers_are_parted_as_their_windows_are(followers: list[int], shards: int):
    parts = follower_lists.by_shard(np.array(followers, np.int64), shards)

    assert [part.tolist() for part in parts] == [
        [user for user in followers if fanout.shard_of(UserId(user), shards) == shard]
        for shard in range(shards)
    ]
