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
