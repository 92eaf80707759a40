"""`chirp trends backtest`: replays a file of tweets through the code that counts and ranks trends,
in simulated time. Needs nothing that runs.

The file is CSV with a header that names `created_at_ms`, `username` and `content`; .xz and .gz are
unpacked. Contents are HTML text, as archives of tweets hold them. There are no places: it is all
about the world.
"""

import csv
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Column, Table

from domain import trend_backtest, tweet
from domain.trend import WORLD, Listed, Order, Rules
from domain.trend_backtest import Judged, Plant, Said
from domain.trend_rank import TrendRanker
from domain.trend_window import MINUTE_MS
from ops import inputs
from ops.inputs import BadInput

MILESTONE_AUTHORS = 10
GRID_ROWS_SHOWN = 30


@dataclass(slots=True)
class Milestones:
    """When a tag was first what; minutes in milliseconds, None where it never was."""

    name: str
    first_seen: int | None = None
    tenth_author: int | None = None
    top_10: int | None = None
    top_3: int | None = None
    peak: int | None = None
    peak_value: float = 0.0
    minutes_first: int = 0
    line: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])
    """Minute, rank and value, while it is in the list."""
    authors: set[int] = field(default_factory=set[int])


def read(path: Path) -> list[Said]:
    """Returns the tweets of a file in the order of time. Raises OSError, and BadInput where it is
    no such file."""
    authors: dict[str, int] = {}
    said: list[Said] = []
    with inputs.opened(path) as file:
        reader = csv.DictReader(file.text, strict=True)
        if not {"created_at_ms", "username", "content"} <= set(reader.fieldnames or ()):
            raise BadInput(f"{path} has no header with `created_at_ms`, `username` and `content`")
        for number, row in enumerate(reader, start=1):
            try:
                at_ms = int(row["created_at_ms"])
            except (TypeError, ValueError):
                raise BadInput(f"row {number} of {path} has no time") from None
            content = html.unescape(row["content"] or "")
            names = tweet.hashtags(content)
            tags = list(zip(names, tweet.spellings(content, names), strict=True))
            author = authors.setdefault(row["username"], len(authors) + 1)
            said.append(Said(at_ms, author, tags))
    said.sort(key=lambda each: each.at_ms)
    return said


def minutes(
    said: Sequence[Said], order: Order, rules: Rules
) -> Iterator[tuple[int, Sequence[Listed]]]:
    """Yields the world's list of each minute."""
    ranker: TrendRanker | None = None
    for at_ms, window in trend_backtest.replay(said):
        ranker = ranker or TrendRanker(window, rules)
        lists = ranker.rank().get(WORLD)
        yield at_ms, lists[order] if lists else ()


def run(
    console: Console,
    said: Sequence[Said],
    *,
    order: Order,
    rules: Rules,
    tags: Sequence[str],
    at: str | None,
    limit: int,
    plot: Path | None,
) -> None:
    """Prints the list minute by minute, or as of one minute, then the milestones of tags: those
    named, else the ones that stood first for the longest."""
    only_ms = None if at is None else parse_time(at) // MINUTE_MS * MINUTE_MS
    followed: dict[str, Milestones] = {}
    for at_ms, listed in minutes(said, order, rules):
        if listed and only_ms in (None, at_ms):
            console.print(_line(at_ms, listed[:limit], order), soft_wrap=True, highlight=False)
        for rank, line in enumerate(listed, start=1):
            found = followed.setdefault(line.name, Milestones(line.name))
            _follow(found, at_ms, rank, line.score if order is Order.SCORE else line.surprise)
    for each in said:
        for name, _ in each.tags:
            found = followed.setdefault(name, Milestones(name))
            _use(found, each)
    shown = [followed.get(name) or Milestones(name) for name in map(tweet.fold, tags)] or sorted(
        followed.values(), key=lambda found: -found.minutes_first
    )[:10]
    console.print(_milestones(shown, order))
    if plot is not None:
        from ops import trends_plot

        trends_plot.draw(plot, shown, order)
        console.print(f"drawn into {plot}")


def run_grid(
    console: Console,
    files: Sequence[Sequence[Said]],
    plants: Sequence[Plant],
    rules: Rules,
    *,
    seeds: int,
) -> None:
    """Prints how well each setting of the grid finds planted bursts: these, or some. Each seed
    deals times and bursts out in another way; all runs are added up."""
    judged: dict[Rules, Judged] = {}
    for said in files:
        for seed in range(1, seeds + 1):
            random = Random(seed)  # noqa: S311 -- made up, and the same each time
            noise = trend_backtest.shuffled(said, random)
            bursts = plants or trend_backtest.some_plants(noise, random)
            for each in trend_backtest.judge(noise, bursts, trend_backtest.grid(rules)):
                judged.setdefault(each.rules, Judged(each.rules, 0, 0.0)).add(each)
    ranked = trend_backtest.best(list(judged.values()))
    first = ranked[0]
    table = _table(
        *("statistic", "k", "baseline", "at least", "precision", "recall", "F1"),
        *("minutes to detect", "false alarms an hour"),
        title=f"{len(ranked)} settings, {first.planted} bursts in {first.hours:.0f} hours of noise",
    )
    for each in ranked[:GRID_ROWS_SHOWN]:
        rules = each.rules
        table.add_row(
            rules.statistic.value, f"{rules.overdispersion:g}",
            f"{rules.baseline_min:g}", f"{rules.surprise_min:g}", f"{each.precision:.3f}",
            f"{each.recall:.3f}", f"{each.f1:.3f}", f"{each.delay:g}",
            f"{each.false_alarms_per_hour:.2f}",
        )  # fmt: skip
    console.print(table)


def parse_plant(text: str) -> Plant:
    """Parses TAG:AT:SIZE. Raises BadInput."""
    tag, _, rest = text.partition(":")
    at, _, size = rest.rpartition(":")
    name = tweet.fold(tag)
    if not (tweet.is_tag(tag) and tweet.is_tag(name) and at and size.isdecimal() and int(size)):
        raise BadInput(f"`{text}` is not TAG:AT:SIZE, as in rain:2014-12-15T09:00:20")
    return Plant(name, parse_time(at), int(size))


def parse_time(text: str) -> int:
    """Parses a time by ISO 8601, in UTC where it says nothing else; returns milliseconds."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"`{text}` is not a time, as in 2014-12-15T09:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _follow(found: Milestones, at_ms: int, rank: int, value: float) -> None:
    found.line.append((at_ms, rank, value))
    found.minutes_first += rank == 1
    if rank <= 10 and found.top_10 is None:
        found.top_10 = at_ms
    if rank <= 3 and found.top_3 is None:
        found.top_3 = at_ms
    if value > found.peak_value:
        found.peak, found.peak_value = at_ms, value


def _use(found: Milestones, said: Said) -> None:
    minute = said.at_ms // MINUTE_MS * MINUTE_MS
    found.first_seen = minute if found.first_seen is None else found.first_seen
    found.authors.add(said.author)
    if len(found.authors) == MILESTONE_AUTHORS and found.tenth_author is None:
        found.tenth_author = minute


def _line(at_ms: int, listed: Sequence[Listed], order: Order) -> str:
    tags = "  ".join(
        f"{rank} {line.tag} {line.score if order is Order.SCORE else line.surprise:.1f}"
        for rank, line in enumerate(listed, start=1)
    )
    return f"{_time(at_ms)}  {tags}"


def _milestones(shown: Sequence[Milestones], order: Order) -> Table:
    table = _table("tag", "first seen", "tenth author", "top 10", "top 3", "peak", "at its peak",
                   "minutes first", title=f"by {order.value}")  # fmt: skip
    for found in shown:
        table.add_row(
            found.name, _time(found.first_seen), _time(found.tenth_author), _time(found.top_10),
            _time(found.top_3), _time(found.peak), f"{found.peak_value:.1f}",
            str(found.minutes_first),
        )  # fmt: skip
    return table


def _table(*columns: str, title: str) -> Table:
    # In a narrow terminal cells take more lines; nothing is cut off.
    return Table(*(Column(name, overflow="fold") for name in columns), title=title)


def _time(at_ms: int | None) -> str:
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
