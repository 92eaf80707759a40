"""domain/timeline.py against a naive model written from DESIGN section 1, rules 1 to 4."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain import timeline
from domain.ids import TweetId, UserId
from domain.timeline import Entry, Page, Viewer, Window

ME, FRIEND, OTHER_FRIEND, STRANGER = (UserId(number) for number in (1, 2, 3, 4))
PEOPLE = (ME, FRIEND, OTHER_FRIEND, STRANGER)


def post(tweet: int, author: UserId = FRIEND) -> Entry:
    return (TweetId(tweet), author, timeline.NO_TWEET, timeline.NOBODY)


def reply(tweet: int, author: UserId, replied: UserId) -> Entry:
    return (TweetId(tweet), author, timeline.NO_TWEET, replied)


def retweet(
    tweet: int, original: int, author: UserId = FRIEND, original_author: UserId = STRANGER
) -> Entry:
    return (TweetId(tweet), author, TweetId(original), original_author)


@dataclass(frozen=True)
class Case:
    """A world, newest first, and who looks at it."""

    entries: list[Entry]
    viewer: Viewer
    deleted: frozenset[int]
    distance: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Worlds in which an original is always older than its retweets."""
    entries: list[Entry] = []
    tweets: list[tuple[int, UserId]] = []
    number = 0
    for kind, author, choice in draw(
        st.lists(
            st.tuples(
                st.sampled_from(("post", "reply", "retweet", "retweet", "gone original")),
                st.sampled_from(PEOPLE),
                st.integers(0, 6),
            ),
            max_size=40,
        )
    ):
        number += draw(st.integers(1, 3))
        tweet_id = TweetId(number)
        if kind == "retweet" and tweets:
            original, original_author = tweets[-1 - choice % len(tweets)]
            entries.append(retweet(tweet_id, original, author, original_author))
        elif kind == "gone original":
            # One that no window holds: older than everything, or of somebody not followed.
            entries.append(retweet(tweet_id, 10_000 + choice, author, STRANGER))
        elif kind == "reply":
            entries.append(reply(tweet_id, author, PEOPLE[choice % len(PEOPLE)]))
            tweets.append((tweet_id, author))
        else:
            entries.append(post(tweet_id, author))
            tweets.append((tweet_id, author))
    others = st.sets(st.sampled_from((FRIEND, OTHER_FRIEND, STRANGER)))
    return Case(
        entries=entries[::-1],
        viewer=Viewer(ME, frozenset(draw(others)), frozenset(draw(others))),
        deleted=frozenset(draw(st.sets(st.integers(1, number + 1), max_size=5))),
        distance=draw(st.integers(1, 6)),
    )


def naive(case: Case) -> list[Entry]:
    """Rules 1 to 4, read off the design and nothing else."""
    followed, hidden = case.viewer.followees, case.viewer.hidden

    def is_candidate(author: UserId) -> bool:
        return author in followed or author == case.viewer.id

    def is_shown(entry: Entry) -> bool:
        tweet_id, author, original, other = entry
        if tweet_id in case.deleted:
            return False
        if author == case.viewer.id:
            return True
        involved = {author} | ({other} if other else set[UserId]())
        if involved & hidden:
            return False
        is_reply = not original and other
        return not is_reply or other in {case.viewer.id, author} or other in followed

    def key(entry: Entry) -> int:
        return entry[2] or entry[0]

    def is_there(entry: Entry) -> bool:
        return entry[2] not in case.deleted

    oldest_first = sorted(
        e for e in case.entries if is_candidate(e[1]) and is_shown(e) and is_there(e)
    )
    kept: list[Entry] = []
    for position, entry in enumerate(oldest_first):
        nearest = [rn for rn in range(position) if key(oldest_first[rn]) == key(entry)]
        if not nearest or position - nearest[-1] > case.distance:
            kept.append(entry)
    return kept[::-1]


def cut(
    case: Case, window: Window, *, below: int | None = None, above: int = 0, limit: int = 100
) -> Page:
    return timeline.page(
        window,
        case.viewer,
        below=below,
        above=above,
        limit=limit,
        repeat_distance=case.distance,
        deleted=case.deleted,
    )


@given(cases(), st.integers(1, 7))
def test_pages_of_any_limit_laid_end_to_end_are_the_whole(case: Case, limit: int):
    whole = naive(case)
    laid: list[Entry] = []
    below = None
    while True:
        page = cut(case, Window(case.entries, 0), below=below, limit=limit)
        assert page.complete
        assert len(page.entries) == limit or not page.has_more
        laid += page.entries
        if not page.has_more:
            break
        below = page.entries[-1][0]

    assert laid == whole


@given(cases(), st.integers(0, 130), st.integers(0, 130), st.integers(1, 50))
def test_page_between_two_ids_is_that_part_of_the_whole(
    case: Case, below: int, above: int, limit: int
):
    part = [entry for entry in naive(case) if above < entry[0] < below]

    page = cut(case, Window(case.entries, 0), below=below, above=above, limit=limit)

    assert shown(page) == (part[:limit], len(part) > limit, True)


@given(cases(), st.integers(1, 7))
def test_only_the_originals_that_a_page_names_can_change_it_by_their_deletion(
    case: Case, limit: int
):
    page = cut(case, Window(case.entries, 0), limit=limit)
    others = {entry[2] for entry in case.entries} - {entry[0] for entry in case.entries}

    deleted = case.deleted | (others - {0, *page.originals})
    again = cut(replace(case, deleted=deleted), Window(case.entries, 0), limit=limit)

    assert shown(again) == shown(page)


@given(
    cases(), st.integers(1, 45), st.one_of(st.none(), st.integers(0, 130)), st.integers(0, 130),
    st.integers(1, 7),
)  # fmt: skip
@settings(max_examples=300)
def test_window_cut_anywhere_never_gives_a_wrong_entry(
    case: Case, kept: int, below: int | None, above: int, limit: int
):
    entries = case.entries[:kept]
    floor = entries[-1][0] if len(case.entries) >= kept else 0
    part = [e for e in naive(case) if above < e[0] and (below is None or e[0] < below)]

    page = cut(case, Window(entries, floor), below=below, above=above, limit=limit)

    if page.complete:
        assert (page.entries, page.has_more) == (part[:limit], len(part) > limit)
    else:
        assert page.entries == part[: len(page.entries)]


@pytest.mark.parametrize(
    ("entry", "visible"),
    [
        (post(9, ME), True),
        (post(9, FRIEND), True),
        (post(9, STRANGER), False),
        (reply(9, FRIEND, ME), True),
        (reply(9, FRIEND, FRIEND), True),
        (reply(9, FRIEND, OTHER_FRIEND), True),
        (reply(9, FRIEND, STRANGER), False),
        (reply(9, ME, STRANGER), True),
        (reply(9, STRANGER, ME), False),
        (retweet(9, 1, FRIEND, STRANGER), True),
        (retweet(9, 1, FRIEND, ME), True),
        (retweet(9, 1, STRANGER, FRIEND), False),
        (retweet(9, 1, ME, STRANGER), True),
    ],
)
def test_rule_two_without_blocks(entry: Entry, visible: bool):
    viewer = Viewer(ME, frozenset({FRIEND, OTHER_FRIEND}))

    assert timeline.is_visible(entry, viewer) is visible


@pytest.mark.parametrize(
    ("entry", "visible"),
    [
        (post(9, FRIEND), True),
        (post(9, OTHER_FRIEND), False),
        (reply(9, FRIEND, OTHER_FRIEND), False),
        (reply(9, FRIEND, ME), True),
        (retweet(9, 1, FRIEND, OTHER_FRIEND), False),
        (retweet(9, 1, FRIEND, STRANGER), False),
        (retweet(9, 1, ME, OTHER_FRIEND), True),
        (reply(9, ME, OTHER_FRIEND), True),
    ],
)
def test_rule_two_with_hidden_accounts(entry: Entry, visible: bool):
    viewer = Viewer(ME, frozenset({FRIEND, OTHER_FRIEND}), frozenset({OTHER_FRIEND, STRANGER}))

    assert timeline.is_visible(entry, viewer) is visible


def shown(page: Page) -> tuple[Sequence[Entry], bool, bool]:
    return page.entries, page.has_more, page.complete


def ids(page: Page) -> list[int]:
    return [entry[0] for entry in page.entries]


def read(entries: Sequence[Entry], *, floor: int = 0, limit: int = 100, distance: int = 2) -> Page:
    return timeline.page(
        Window(entries, floor),
        Viewer(ME, frozenset({FRIEND, OTHER_FRIEND})),
        below=None,
        limit=limit,
        repeat_distance=distance,
    )


def test_chain_of_repeats_leaves_only_its_oldest_entry():
    chain = [retweet(5, 1), retweet(4, 1, OTHER_FRIEND), retweet(3, 1), post(1)]

    assert ids(read(chain, distance=1)) == [1]


def test_repeat_stands_again_one_entry_beyond_the_distance():
    near = [retweet(9, 1), post(8), post(1)]
    far = [retweet(9, 1), post(8), post(7), post(1)]

    assert ids(read(near)) == [8, 1]
    assert ids(read(far)) == [9, 8, 7, 1]


def test_entry_that_is_not_visible_does_not_count_as_a_position():
    hidden_between = [retweet(9, 1), post(8), post(7, STRANGER), post(1)]

    assert ids(read(hidden_between)) == [8, 1]


def test_retweet_is_not_sure_before_its_whole_look_ahead_is_known():
    entries = [retweet(9, 1), post(8), post(7)]

    assert shown(read(entries[:2], floor=8)) == ([], False, False)
    assert ids(read(entries, floor=7, limit=2)) == [9, 8]


def test_post_needs_no_look_ahead():
    assert shown(read([post(9), post(8)], floor=8, limit=1)) == ([post(9)], True, True)


def test_full_page_at_the_end_of_a_window_does_not_know_whether_there_is_more():
    assert not read([post(9), post(8)], floor=8, limit=2).complete
    assert shown(read([post(9), post(8)], floor=0, limit=2)) == ([post(9), post(8)], False, True)


def test_empty_timeline_is_a_complete_page():
    assert shown(read([])) == ([], False, True)


@example(below=1)
@given(st.integers(1, 10))
def test_page_below_everything_is_empty(below: int):
    page = timeline.page(
        Window([post(11)], 0), Viewer(ME), below=below, limit=1, repeat_distance=40
    )

    assert shown(page) == ([], False, True)
