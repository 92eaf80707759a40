from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import trend_pressure, trend_window
from domain.ids import first_id_at
from domain.trend import Order
from domain.trend_rank import TrendRanker
from domain.trend_window import MINUTE_MS, TrendWindow
from tests.trend_oracle import RULES

NOW = 30_000_000
PLACES = ("", "fr", "us", "us-ny", "us-ca")
NAMES = ("rain", "snow", "sun")


@dataclass
class Model:
    """Sets of tuples, and a window beside them."""

    window: TrendWindow = field(default_factory=lambda: TrendWindow(places_max=100))
    now: int = NOW
    tweets: dict[int, tuple[int, str, tuple[str, ...]]] = field(
        default_factory=dict[int, tuple[int, str, tuple[str, ...]]]
    )
    removed: set[int] = field(default_factory=set[int])

    def add(self, tweet_id: int, author: int, location: str, spelled: tuple[str, ...]) -> None:
        tags = {each.lower(): each for each in reversed(spelled)}
        self.window.add(tweet_id, author, location, tags.items())
        self.tweets[tweet_id] = (author, location, tuple(tags.values()))

    def uses(self) -> dict[tuple[str, str], dict[int, set[int]]]:
        found: dict[tuple[str, str], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for tweet_id, (author, location, spelled) in self.tweets.items():
            ago = self.now - trend_window.minute_of(tweet_id)
            if tweet_id not in self.removed and 0 <= ago < 120:
                for each in spelled:
                    for place in {"world", location or "world", location[:2] or "world"}:
                        found[place, each.lower()][ago].add(author)
        return found


Tweet = tuple[int, int, int, str, tuple[str, ...]]

minutes = st.one_of(st.integers(0, 2), st.sampled_from([59, 60, 119, 120]))
tweet = st.tuples(
    minutes, st.integers(0, 3), st.integers(0, 3), st.sampled_from(PLACES),
    st.lists(st.sampled_from(["rain", "Rain", "snow", "SUN"]), min_size=1, max_size=2).map(tuple),
)  # fmt: skip
steps = st.one_of(
    st.tuples(st.just("add"), tweet),
    st.tuples(st.just("add"), tweet),
    st.tuples(st.just("again"), st.integers(0, 50)),
    st.tuples(st.just("remove"), st.integers(0, 50)),
    st.tuples(st.just("remove what is to come"), tweet),
    st.tuples(st.just("fold"), st.just(0)),
    st.tuples(st.just("move on"), st.integers(1, 61)),
)


@settings(max_examples=300, deadline=None)
@given(story=st.lists(steps, max_size=40), renumber=st.booleans())
def test_after_any_story_every_count_equals_a_recount(
    story: list[tuple[str, Tweet | int]], renumber: bool
) -> None:
    model = Model()
    ranker = TrendRanker(model.window, RULES)
    with pytest.MonkeyPatch.context() as patch:
        if renumber:
            patch.setattr(trend_window, "DEAD_MIN", 0)
            patch.setattr(trend_window, "DEAD_SHARE", 0.0)
            patch.setattr(trend_window, "DEAD_LOOK_MINUTES", 1)
        for name, choice in story:
            _step(model, name, choice)
            if name in ("fold", "move on"):
                _check(model, ranker)
        model.window.fold(model.now)
        _check(model, ranker)


def _step(model: Model, name: str, choice: Tweet | int) -> None:
    match name, choice:
        case "add" | "remove what is to come", (
            int(ago), int(number), int(author), str(location), tuple(spelled),
        ):  # fmt: skip
            # The author and the text follow from the id, as they do in life.
            tweet_id = first_id_at((model.now - ago) * MINUTE_MS) + number
            if name == "add":
                known = model.tweets.get(tweet_id, (author, location, spelled))
                model.add(tweet_id, *known)
            else:
                model.window.remove(tweet_id)
                model.removed.add(tweet_id)
        case "again", int(which) if model.tweets:
            tweet_id = list(model.tweets)[which % len(model.tweets)]
            model.add(tweet_id, *model.tweets[tweet_id])
        case "remove", int(which) if model.tweets:
            tweet_id = list(model.tweets)[which % len(model.tweets)]
            model.window.remove(tweet_id)
            model.removed.add(tweet_id)
        case "fold" | "move on", int(later):
            model.now += later
            model.window.fold(model.now)
        case _:
            pass


def _check(model: Model, ranker: TrendRanker) -> None:
    uses = model.uses()
    for place in ("world", "fr", "us", "us-ny", "us-ca"):
        for name in NAMES:
            buckets, authors = ranker.explain(place, name)
            found = uses[place, name]
            assert buckets == [len(found[ago]) for ago in range(120)]
            assert authors == len(set[int]().union(*(found[ago] for ago in range(60))))
    live = {name for (_, name), found in uses.items() if any(found.values())}
    assert model.window.spellings.tag_count == len(live)
    assert sum(int(each) for each in model.window.spellings.uses) == sum(
        len(segment.uses) for segment in (model.window.segment(ago) for ago in range(120))
    )
    ranked = ranker.rank()
    for place, lists in ranked.items():
        for listed in lists[Order.SCORE]:
            found = uses[place, listed.name]
            assert listed.count == sum(len(found[ago]) for ago in range(60))


def test_the_oldest_minute_counts_and_the_one_before_does_not() -> None:
    window = TrendWindow(places_max=10)
    window.fold(NOW)

    for ago, name in ((119, "inside"), (120, "outside")):
        window.add(first_id_at((NOW - ago) * MINUTE_MS), 7, "", [(name, name)])
    window.fold(NOW)
    ranker = TrendRanker(window, RULES)

    assert ranker.explain("world", "inside")[0][119] == 1
    assert sum(ranker.explain("world", "outside")[0]) == 0


def test_a_tag_is_shown_in_its_most_used_spelling() -> None:
    window = TrendWindow(places_max=10)
    spelled = ["Rain", "RAIN", "RAIN", "rain", "rain"]

    for author, each in enumerate(spelled):
        window.add(first_id_at(NOW * MINUTE_MS) + author, author, "", [("rain", each)])
    window.fold(NOW)
    tag = window.spellings.tag("rain")
    assert tag is not None

    assert window.spellings.most_used(tag) == "RAIN"
    window.remove(first_id_at(NOW * MINUTE_MS) + 1)
    window.fold(NOW)
    assert window.spellings.most_used(tag) == "rain"


def test_places_beyond_the_maximum_count_for_their_parents() -> None:
    window = TrendWindow(places_max=3)

    for number, place in enumerate(("us", "us-ny", "us-ca", "fr", "fr-75")):
        window.add(first_id_at(NOW * MINUTE_MS) + number, number, place, [("rain", "rain")])
    window.fold(NOW)
    ranker = TrendRanker(window, RULES)

    assert [ranker.explain(each, "rain")[1] for each in ("world", "us", "us-ny")] == [5, 3, 1]
    assert ranker.explain("fr", "rain")[1] == 0
    # France once for itself, and once more as the parent of Paris.
    assert window.places.refused == 4


def test_under_pressure_the_least_used_tags_go_and_none_that_is_listed() -> None:
    window = TrendWindow(places_max=10)
    for number in range(1_000):
        minute = first_id_at((NOW - number % 100) * MINUTE_MS)
        # A few tags of many authors, some of a tiny place, and a long tail.
        name = f"loud{number % 5}" if number < 300 else f"rare{number}"
        place = "fr" if number < 320 else ""
        name = f"small{number % 5}" if 300 <= number < 320 else name
        window.add(minute + number, number, place, [(name, name)])
    window.fold(NOW)
    ranker = TrendRanker(window, RULES)
    before = ranker.rank()

    dropped = trend_pressure.relieve(window, before, 800)

    assert (dropped.tags, dropped.minutes) == (280, 0)
    assert (window.size, dropped.uses) == (720, 280)
    assert ranker.rank() == before
    assert {"small0", "loud0"} <= {listed.name for listed in before["fr"][Order.SCORE]}


def test_where_listed_tags_alone_are_too_many_the_oldest_minutes_go() -> None:
    window = TrendWindow(places_max=10)
    for number in range(1_000):
        minute = first_id_at((NOW - number % 100) * MINUTE_MS)
        window.add(minute + number, number, "", [("loud", "loud")])
    window.fold(NOW)
    ranker = TrendRanker(window, RULES)
    (before,) = ranker.rank()["world"][Order.SCORE]

    dropped = trend_pressure.relieve(window, ranker.rank(), 800)
    (after,) = ranker.rank()["world"][Order.SCORE]

    assert (dropped.tags, dropped.minutes, dropped.uses) == (0, 20, 200)
    assert (after.count, after.score, after.authors) == (600, before.score, before.authors)


def test_loud_accounts_push_nothing_out_of_a_list() -> None:
    window = TrendWindow(places_max=10)
    number = 0
    for tag in range(2_000):
        for ago in range(5):
            number += 1
            name = f"loud{tag}"
            minute = first_id_at((NOW - ago) * MINUTE_MS)
            window.add(minute + number, tag, "", [(name, name)])
    for author in range(2):
        number += 1
        window.add(first_id_at(NOW * MINUTE_MS) + number, author, "", [("real", "real")])
    window.fold(NOW)

    ranked = TrendRanker(window, RULES).rank()

    assert [listed.name for listed in ranked["world"][Order.SCORE]] == ["real"]
    assert [listed.name for listed in ranked["world"][Order.RISING]] == ["real"]


def test_numbers_of_tags_are_given_out_again() -> None:
    window = TrendWindow(places_max=10)

    for hour in range(5):
        for number in range(100):
            name = f"tag{hour}_{number}"
            minute = first_id_at((NOW + hour * 120) * MINUTE_MS)
            window.add(minute + number, number, "", [(name, name)])
        window.fold(NOW + hour * 120)

    assert window.spellings.tag_count == 100
    # A fold takes new uses in before it lets the old ones go.
    assert window.spellings.tag_numbers <= 200
    assert np.count_nonzero(window.spellings.uses) == 100
