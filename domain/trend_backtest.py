"""Replays tweets through the counting and ranking of the trend worker, in simulated time, and says
how well a setting finds bursts that were planted.

How a setting is judged:
 1. The tweets' contents are shuffled over their times. Every tag is then as frequent as it was, and
    the crowd talks as much as it did at each time of the day, but no tag has an event of its own:
    whatever alarms is noise.
 2. Bursts are planted: so many new authors, each once, over ten minutes.
 3. An alarm is a tag that enters the first three of the rising list and was not there for an hour.
    A planted tag that alarms within the hour of its burst is found; any other alarm is false.
 4. The best setting has the highest F1 of those that find at least four bursts in five: to miss a
    trend is worse than to show one too many.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import median

from domain import trend
from domain.ids import EPOCH_MS, first_id_at
from domain.trend import Rules, Statistic
from domain.trend_rank import Hours, TrendRanker
from domain.trend_window import MINUTE_MS, TrendWindow

DAY_MS = 86_400_000
PLANT_MS = 10 * MINUTE_MS
TOP = 3
# A handful must be found, and a burst of a tag that is common must be large to be news.
SIZES_OF_NEW, SIZES_OF_COMMON, COMMON_TAGS = (5, 8, 12, 20, 40), (20, 40, 80), 12
QUIET_MINUTES = 60
RECALL_MIN = 0.8
FOUND_WITHIN_MS = 60 * MINUTE_MS
FIRST_PLANTED_AUTHOR = 1 << 40  # above all numbers that authors of a file get


@dataclass(frozen=True, slots=True)
class Said:
    """A tweet: when, by whom, and its tags with their spellings."""

    at_ms: int
    author: int
    tags: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Plant:
    """A burst: so many authors say a tag, from a time on."""

    tag: str
    at_ms: int
    authors: int


@dataclass(slots=True)
class Judged:
    """How well a setting did."""

    rules: Rules
    planted: int
    hours: float
    delays: list[int] = field(default_factory=list[int])
    """Of each planted burst that was found: the minutes until then."""
    false_alarms: int = 0

    def add(self, other: "Judged") -> None:
        """Adds another run of the same setting."""
        self.planted += other.planted
        self.hours += other.hours
        self.delays += other.delays
        self.false_alarms += other.false_alarms

    @property
    def recall(self) -> float:
        """Which share of the bursts was found."""
        return len(self.delays) / self.planted if self.planted else 0.0

    @property
    def precision(self) -> float:
        """Which share of the alarms was a burst."""
        alarms = len(self.delays) + self.false_alarms
        return len(self.delays) / alarms if alarms else 0.0

    @property
    def false_alarms_per_hour(self) -> float:
        """How often nothing was shown as rising."""
        return self.false_alarms / self.hours if self.hours else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    @property
    def delay(self) -> float:
        """The median of the delays; infinite where nothing was found."""
        return median(self.delays) if self.delays else float("inf")


def replay(said: Sequence[Said]) -> Iterator[tuple[int, TrendWindow]]:
    """Yields each minute from the first tweet's on, as its beginning in milliseconds, with the
    window as it stands at its end. `said` is in the order of time.

    Ids hold no time before 2024, so all is moved by whole days."""
    if not said:
        return
    moved_ms = max(0, (EPOCH_MS - said[0].at_ms) // DAY_MS + 1) * DAY_MS
    window = TrendWindow(places_max=1)
    position = 0
    minute = (said[0].at_ms + moved_ms) // MINUTE_MS
    while position < len(said):
        while position < len(said) and (said[position].at_ms + moved_ms) // MINUTE_MS <= minute:
            each = said[position]
            if each.tags:
                moment = first_id_at(each.at_ms + moved_ms)
                window.add(moment + position % (1 << 22), each.author, "", each.tags)
            position += 1
        window.fold(minute)
        yield minute * MINUTE_MS - moved_ms, window
        minute += 1


def shuffled(said: Sequence[Said], random: Random) -> list[Said]:
    """Returns the tweets with their times dealt out anew."""
    times = [each.at_ms for each in said]
    others = list(said)
    random.shuffle(others)
    return [replace(other, at_ms=at_ms) for at_ms, other in zip(times, others, strict=True)]


def planted(said: Sequence[Said], plants: Iterable[Plant]) -> list[Said]:
    """Returns the tweets with bursts among them, in the order of time."""
    author = FIRST_PLANTED_AUTHOR
    more: list[Said] = []
    for plant in plants:
        for number in range(plant.authors):
            author += 1
            at_ms = plant.at_ms + PLANT_MS * number // plant.authors
            more.append(Said(at_ms, author, [(plant.tag, plant.tag)]))
    return sorted([*said, *more], key=lambda each: each.at_ms)


def some_plants(said: Sequence[Said], random: Random) -> list[Plant]:
    """Returns bursts of new tags and of common ones, at times when people talked: of the tweets
    behind the first two hours, each is as likely to be the one that a burst begins with."""
    begin = said[0].at_ms + 2 * 60 * MINUTE_MS
    times = [each.at_ms for each in said if each.at_ms >= begin] or [said[0].at_ms]
    uses = Counter(name for each in said for name, _ in each.tags)
    common = [name for name, _ in uses.most_common(COMMON_TAGS)] or ["planted"]
    new = [
        Plant(f"planted{number}", random.choice(times), size)
        for number, size in enumerate(SIZES_OF_NEW * 6)
    ]
    return new + [
        Plant(common[number % len(common)], random.choice(times), size)
        for number, size in enumerate(SIZES_OF_COMMON * 4)
    ]


def grid(rules: Rules) -> list[Rules]:
    """Returns the settings that are compared: ways to measure surprise, under these rules. How many
    authors a trend needs is not among them: that is about loud accounts and small places."""
    statistics = [
        replace(rules, statistic=Statistic.CHI_SQUARED, overdispersion=k, surprise_min=least)
        for k in (0.0, 0.1, 0.3, 1.0)
        for least in (0.0, 5.0, 8.0, 12.0, 20.0, 30.0)
    ]
    statistics += [
        replace(rules, statistic=Statistic.POISSON, overdispersion=0.0, surprise_min=least)
        for least in (0.0, 2.0, 4.0, 7.0, 10.0, 15.0)
    ]
    return [replace(each, baseline_min=least) for each in statistics for least in (1.0, 2.0)]


def best(judged: Sequence[Judged]) -> list[Judged]:
    """Returns judgements, the best first."""
    return sorted(judged, key=lambda each: (each.recall < RECALL_MIN, -each.f1, each.delay))


def judge(said: Sequence[Said], plants: Sequence[Plant], settings: Sequence[Rules]) -> list[Judged]:
    """Replays tweets with planted bursts once, and judges each setting over them."""
    least = replace(settings[0], authors_min=min(rules.authors_min for rules in settings))
    hours = (said[-1].at_ms - said[0].at_ms) / (60 * MINUTE_MS)
    watches = [_Watch(Judged(rules, len(plants), hours), plants) for rules in settings]
    ranker: TrendRanker | None = None
    for at_ms, window in replay(planted(said, plants)):
        ranker = ranker or TrendRanker(window, least)
        lines = ranker.hours_of_the_world()
        for watch in watches:
            watch.look(at_ms, lines)
    return [watch.judged for watch in watches]


class _Watch:
    """Follows the first of one setting's rising list."""

    def __init__(self, judged: Judged, plants: Sequence[Plant]) -> None:
        self.judged = judged
        self._plants = plants
        self._found: set[Plant] = set()
        self._seen: dict[str, int] = {}

    def look(self, at_ms: int, lines: Sequence[Hours]) -> None:
        """Takes the end of a minute into account."""
        for tag in _rising(lines, self.judged.rules):
            last = self._seen.get(tag)
            self._seen[tag] = at_ms
            if last is not None and at_ms - last <= QUIET_MINUTES * MINUTE_MS:
                continue
            now = [
                plant
                for plant in self._plants
                if plant.tag == tag and -MINUTE_MS < at_ms - plant.at_ms < FOUND_WITHIN_MS
            ]
            self.judged.false_alarms += not now
            for plant in now:
                if plant not in self._found:
                    self._found.add(plant)
                    # The minute that begins here is looked at when it ends.
                    late_ms = at_ms + MINUTE_MS - plant.at_ms
                    self.judged.delays.append(-(-late_ms // MINUTE_MS))


def _rising(lines: Sequence[Hours], rules: Rules) -> list[str]:
    """Returns the first TOP of the rising list, as TrendRanker ranks."""
    ranked: list[tuple[float, str]] = []
    for line in lines:
        if line.authors >= rules.authors_min:
            expected = trend.baseline(float(line.last_hour), rules)
            value = trend.surprise(float(line.this_hour), expected, rules)
            if value > 0 and value >= rules.surprise_min:
                ranked.append((-value, line.name))
    return [name for _, name in sorted(ranked)[:TOP]]
