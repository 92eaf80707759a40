import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import trend_look, trend_rank
from domain.ids import first_id_at
from domain.trend import Order
from domain.trend_rank import TrendRanker
from domain.trend_window import MINUTE_MS, TrendWindow
from tests.trend_oracle import RULES, TrendOracle

NOW = 30_000_000
LIMIT = 2
PLACES = ("", "fr", "us", "us-ny")

# One account's minutes of this hour are as many uses as several accounts' in one: it is loud.
uses = st.tuples(
    st.sampled_from((0, 1, 2, 3, 4, 70)),
    st.integers(1, 4),
    st.sampled_from(PLACES),
    st.sampled_from([f"tag{number}" for number in range(9)]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(uses, max_size=60), st.integers(1, 3), st.integers(1, 3))
def test_every_list_is_that_of_a_recount_however_few_are_looked_at_first(
    story: list[tuple[int, int, str, str]], look_first: int, growth: int
) -> None:
    window = TrendWindow(places_max=10)
    window.fold(NOW)
    rows: list[tuple[int, int, int, str, str]] = []
    for number, (ago, author, place, tag) in enumerate(story):
        tweet_id = first_id_at((NOW - ago) * MINUTE_MS) + number
        window.add(tweet_id, author, place, [(tag, tag)])
        rows.append((tweet_id, author, (NOW - ago) * MINUTE_MS, place, f"#{tag}"))
    window.fold(NOW)
    oracle = TrendOracle(rows, NOW * MINUTE_MS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trend_look, "LOOK_FIRST", look_first)
        patch.setattr(trend_look, "LOOK_GROWTH", 1 + growth)
        for module in (trend_look, trend_rank):
            patch.setattr(module, "LIMIT_MAX", LIMIT)
        ranked = TrendRanker(window, RULES).rank()

    for place in ("world", "fr", "us", "us-ny"):
        for order in Order:
            expected = oracle.ranked(place, order.value, RULES)[:LIMIT]
            found = ranked[place][order] if place in ranked else ()
            assert [(each.name, each.count, each.authors) for each in found] == [
                (each.name, each.count, each.authors) for each in expected
            ]
            assert [each.score for each in found] == pytest.approx(
                [each.score for each in expected]
            )
