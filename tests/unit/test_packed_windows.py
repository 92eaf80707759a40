"""storage/windows.py: merging windows as bytes."""

from hypothesis import given
from hypothesis import strategies as st

from domain.ids import TweetId, UserId
from domain.timeline import Entry, Window
from storage import windows

IDS = st.integers(1, 300) | st.integers(1, (1 << 63) - 1)


def entry(tweet: int) -> Entry:
    return (TweetId(tweet), UserId(tweet % 7), TweetId(tweet % 3), UserId(tweet % 2))


@st.composite
def cut_off(draw: st.DrawFn) -> tuple[list[Entry], Window]:
    """All entries of some authors, newest first, and a window that has them down to a floor."""
    whole = [entry(tweet) for tweet in sorted(draw(st.sets(IDS, max_size=40)), reverse=True)]
    kept = whole[: draw(st.integers(1, 45))]
    return whole, Window(kept, kept[-1][0] if len(kept) < len(whole) else 0)


@given(st.lists(cut_off(), min_size=1, max_size=5))
def test_merged_windows_hold_everything_down_to_the_newest_floor(
    parts: list[tuple[list[Entry], Window]],
):
    merged = windows.merge([windows.pack(window) for _, window in parts])

    assert merged.floor == max(window.floor for _, window in parts)
    expected = sorted({e for whole, _ in parts for e in whole}, reverse=True)
    expected = [e for e in expected if e[0] >= merged.floor]
    assert list(merged.entries) == expected
    assert len(merged.entries) == len(expected)
    assert merged.entries[:2] == expected[:2]


@given(st.lists(cut_off(), min_size=1, max_size=5), st.integers(1, 100))
def test_a_merged_top_is_where_the_whole_begins(
    parts: list[tuple[list[Entry], Window]], wanted: int
):
    packed = [windows.pack(window) for _, window in parts]
    whole, top = windows.merge(packed), windows.merge(packed, wanted)

    assert list(top.entries) == list(whole.entries)[: len(top.entries)]
    if len(top.entries) == len(whole.entries):
        assert top.floor >= whole.floor
    else:
        assert top.floor == top.entries[-1][0]
        repeated = sum(len([e for e in each.entries if e[0] >= top.floor]) for _, each in parts)
        assert wanted <= repeated


def test_a_merged_top_is_not_much_longer_than_wanted():
    parts = [Window([entry(i) for i in range(9_000 + k, 0, -11)], 0) for k in range(11)]
    top = windows.merge([windows.pack(window) for window in parts], 80)
    assert 80 <= len(top.entries) <= 80 + len(parts) * windows.SAMPLED


def test_nothing_merged_is_a_complete_empty_window():
    for nothing in ([], [windows.Packed([], 0)], [windows.Packed([], 0)] * 2):
        merged = windows.merge(nothing)
        assert (list(merged.entries), merged.floor) == ([], 0)


@given(st.lists(IDS, max_size=5), st.booleans())
def test_packed_windows_are_read_as_they_were_written(tweets: list[int], complete: bool):
    entries = [entry(tweet) for tweet in sorted(set(tweets), reverse=True)]
    window = Window(entries, 0 if complete or not entries else entries[-1][0])
    elements = windows.encode_all(entries) + ([windows.COMPLETE] if window.floor == 0 else [])
    assert windows.decode(elements) == window
    assert windows.parse(elements) == windows.pack(window)
