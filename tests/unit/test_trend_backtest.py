"""How backtests replay tweets, plant bursts and judge settings."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from domain import trend_backtest
from domain.trend import HOUR, Rules
from domain.trend_backtest import Judged, Plant, Said
from domain.trend_rank import TrendRanker
from domain.trend_window import MINUTE_MS
from mesh.settings import Settings

RULES = Settings().trend_rules
# Long before ids begin to hold a time, and in the middle of a minute.
BEGIN_MS = 1_418_600_000_000 // MINUTE_MS * MINUTE_MS + 30_000
HOUR_MS = HOUR * MINUTE_MS


def said(minute: float, author: int, *tags: str) -> Said:
    return Said(BEGIN_MS + int(minute * MINUTE_MS), author, [(tag, tag) for tag in tags])


def chatter(hours: int) -> list[Said]:
    """A crowd that says one tag all the time, twice a minute."""
    return [said(number / 2, number, "always") for number in range(2 * hours * HOUR)]


def test_a_replay_shows_each_minute_as_it_ends() -> None:
    tweets = [said(0, 1, "one"), said(0.2, 2, "one"), said(2, 3, "one", "two"), said(2, 4)]

    seen: list[tuple[int, list[int], list[int]]] = []
    for at_ms, window in trend_backtest.replay(tweets):
        ranker = TrendRanker(window, RULES)
        one, two = (ranker.explain("world", name)[0][:3] for name in ("one", "two"))
        seen.append((at_ms, one, two))

    first = BEGIN_MS // MINUTE_MS * MINUTE_MS
    assert seen == [
        (first, [2, 0, 0], [0, 0, 0]),
        (first + MINUTE_MS, [0, 2, 0], [0, 0, 0]),
        (first + 2 * MINUTE_MS, [1, 0, 2], [1, 0, 0]),
    ]


def test_nothing_is_replayed_of_nothing() -> None:
    assert list(trend_backtest.replay([])) == []


def test_shuffling_keeps_the_times_and_what_was_said() -> None:
    tweets = [said(number**2 / 10, number, f"tag{number % 7}") for number in range(100)]

    noise = trend_backtest.shuffled(tweets, Random(1))

    def content(each: Said) -> tuple[int, tuple[tuple[str, str], ...]]:
        return each.author, tuple(each.tags)

    assert [each.at_ms for each in noise] == [each.at_ms for each in tweets]
    assert sorted(map(content, noise)) == sorted(map(content, tweets))
    assert list(map(content, noise)) != list(map(content, tweets))
    assert trend_backtest.shuffled(tweets, Random(1)) == noise


def test_a_planted_burst_is_new_authors_within_ten_minutes() -> None:
    plant = Plant("rain", BEGIN_MS + HOUR_MS, 20)

    tweets = trend_backtest.planted(chatter(2), [plant])

    assert [each.at_ms for each in tweets] == sorted(each.at_ms for each in tweets)
    burst = [each for each in tweets if ("rain", "rain") in each.tags]
    assert len({each.author for each in burst}) == 20
    assert {each.author for each in burst}.isdisjoint(range(1_000))
    assert (burst[0].at_ms, burst[-1].at_ms) == (plant.at_ms, plant.at_ms + 9.5 * MINUTE_MS)


def test_bursts_are_chosen_of_new_and_of_common_tags_while_people_talk() -> None:
    tweets = chatter(4)

    plants = trend_backtest.some_plants(tweets, Random(1))

    assert Counter(plant.tag == "always" for plant in plants) == {False: 30, True: 12}
    assert {plant.authors for plant in plants} == {5, 8, 12, 20, 40, 80}
    assert all(BEGIN_MS + 2 * HOUR_MS <= plant.at_ms <= tweets[-1].at_ms for plant in plants)


def test_a_burst_is_found_and_an_alarm_without_one_is_false() -> None:
    sudden = [said(200 + number / 10, 5_000 + number, "sudden") for number in range(20)]
    tweets = sorted([*chatter(6), *sudden], key=lambda each: each.at_ms)
    plants = [Plant("rain", BEGIN_MS + 3 * HOUR_MS, 20), Plant("few", BEGIN_MS + 4 * HOUR_MS, 2)]
    deaf = replace(RULES, surprise_min=1e9)

    ours, other = trend_backtest.judge(tweets, plants, [RULES, deaf])

    assert (ours.rules, other.rules) == (RULES, deaf)
    assert ours.planted == 2
    assert ours.hours == pytest.approx(6, abs=0.1)
    # `always` when all begins, and `sudden`.
    assert (len(ours.delays), ours.false_alarms) == (1, 2)
    assert (ours.recall, ours.precision) == (0.5, pytest.approx(1 / 3))
    assert ours.f1 == pytest.approx(0.4)
    assert ours.false_alarms_per_hour == pytest.approx(2 / 6, abs=0.01)
    # The fifth of 20 authors in ten minutes: the surprise is then (5 - 1)^2 / 1.3 > 12.
    assert ours.delay == 3
    assert (other.recall, other.precision, other.f1) == (0, 0, 0)
    assert (other.delay, other.false_alarms) == (float("inf"), 0)


def test_a_tag_that_stays_is_one_alarm_and_one_that_comes_back_is_another() -> None:
    def burst(minute: int) -> list[Said]:
        return [said(minute + number / 10, minute * 100 + number, "back") for number in range(20)]

    begin = burst(0)
    soon = [*begin, *burst(90)]  # not over: the hour before is expected then
    late = [*begin, *burst(300)]

    counts = [
        trend_backtest.judge(tweets, [], [RULES])[0].false_alarms for tweets in (begin, soon, late)
    ]

    assert counts == [1, 1, 2]


def test_runs_of_a_setting_add_up() -> None:
    both = Judged(RULES, 10, 5.0, [1, 2], 3)

    both.add(Judged(RULES, 6, 2.0, [9, 9, 9], 1))

    assert (both.planted, both.hours, both.delays, both.false_alarms) == (
        16, 7.0, [1, 2, 9, 9, 9], 4,
    )  # fmt: skip
    assert (both.recall, both.precision, both.delay) == (5 / 16, 5 / 9, 9)


def test_the_best_setting_misses_few_and_then_errs_least() -> None:
    def judged(found: int, false_alarms: int, delay: int = 5) -> Judged:
        return Judged(RULES, 10, 1.0, [delay] * found, false_alarms)

    careful, quick, slow, noisy = judged(7, 0), judged(8, 2, 4), judged(8, 2, 6), judged(9, 9)

    assert trend_backtest.best([careful, noisy, slow, quick]) == [quick, slow, noisy, careful]


def test_the_defaults_are_one_of_the_settings_that_are_compared() -> None:
    compared = trend_backtest.grid(RULES)

    assert RULES in compared
    assert len(set(compared)) == len(compared)
    assert {rules.authors_min for rules in compared} == {RULES.authors_min}
    assert isinstance(compared[0], Rules)
