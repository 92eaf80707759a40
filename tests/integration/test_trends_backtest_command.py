"""`chirp trends backtest`: what it prints and draws; and what the defaults find in real tweets."""

import csv
import lzma
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from domain.trend import Order
from mesh.settings import Settings
from ops import cli, trends_backtest

MINUTE_MS = 60_000
BEGIN_MS = int(datetime(2014, 12, 15, 9, tzinfo=UTC).timestamp() * 1000)
RULES = Settings().trend_rules
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def written(path: Path, rows: Iterable[Sequence[object]], header: str = "") -> Path:
    with lzma.open(path, "wt", newline="") as file:
        file.write((header or "created_at_ms,username,content") + "\n")
        csv.writer(file).writerows(rows)
    return path


def burst(tag: str, minute: float, authors: int, *, who: str = "") -> list[tuple[int, str, str]]:
    """Tweets of so many authors, one every ten seconds."""
    return [
        (BEGIN_MS + int(minute * MINUTE_MS) + 10_000 * number, f"{who or tag}{number}", tag)
        for number in range(authors)
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An hour and a quarter: one tag all the time, and one that bursts in the middle."""
    always = [
        (BEGIN_MS + minute * MINUTE_MS, f"crowd{minute}", "on &amp; on #Always")
        for minute in range(75)
    ]
    rain = [(at, who, f"#{tag} now") for at, who, tag in burst("Rain", 30, 12)]
    return written(tmp_path / "tweets.csv.xz", sorted(always + rain))


def ran(*arguments: str) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["trends", "backtest", *arguments])
    assert done.exception is None, done.output
    return done.output


def row(output: str, first: str) -> list[str]:
    """The cells of a table's row."""
    (line,) = (line for line in output.splitlines() if re.match(rf"\W*{first}\s", line))
    return [cell.strip() for cell in re.split("[│┃|]", line) if cell.strip()]


def test_the_list_is_printed_minute_by_minute(file: Path) -> None:
    lines = ran(str(file), "--limit", "2").splitlines()

    listed = [line for line in lines if line.startswith("2014-12-15 ")]
    # From the third author on.
    assert [line[11:16] for line in listed][:2] == ["09:02", "09:03"]
    assert listed[0] == "2014-12-15 09:02  1 Always 2.9"
    assert listed[30 - 2] == "2014-12-15 09:30  1 Always 15.9  2 Rain 6.0"
    assert len(listed) == 75 - 2


def test_one_minute_may_be_asked_for_and_either_order(file: Path) -> None:
    score = ran(str(file), "--at", "2014-12-15T09:31:59")
    rising = ran(str(file), "--at", "2014-12-15T09:31", "--order", "rising", "--limit", "1")

    (by_score,) = (line for line in score.splitlines() if line.startswith("2014-12-15 "))
    (by_surprise,) = (line for line in rising.splitlines() if line.startswith("2014-12-15 "))
    assert by_score == "2014-12-15 09:31  1 Always 16.1  2 Rain 11.7"
    # (32 - 1)^2 / (1 + 0.3)
    assert by_surprise == "2014-12-15 09:31  1 Always 739.2"


def test_it_says_when_named_tags_were_first_what(file: Path) -> None:
    output = ran(str(file), "--tag", "RAIN", "--tag", "nobody")

    assert row(output, "rain") == [
        "rain",
        "2014-12-15 09:30",  # first seen
        "2014-12-15 09:31",  # the tenth author
        "2014-12-15 09:30",  # in the top 10
        "2014-12-15 09:30",  # in the top 3
        "2014-12-15 09:31",  # its peak
        "11.7",
        "0",
    ]
    assert row(output, "nobody") == ["nobody", *["-"] * 5, "0.0", "0"]
    assert "always" not in output.rpartition("by score")[2]


def test_in_a_narrow_terminal_nothing_is_cut_off(file: Path) -> None:
    done = CliRunner(env={"COLUMNS": "60"}).invoke(
        cli.app, ["trends", "backtest", str(file), "--at", "2014-12-15T09:30"]
    )

    assert "…" not in done.output


def test_without_names_those_that_were_first_for_the_longest_are_shown(file: Path) -> None:
    output = ran(str(file))

    assert row(output, "always")[-1] == "73"


def test_rank_and_value_are_drawn(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.png"

    output = ran(str(file), "--plot", str(path))

    assert f"drawn into {path}" in output.replace("\n", "")
    with Image.open(path) as image:
        assert image.format == "PNG"
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or ()}
    # A line for each of the two tags.
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours


def test_planted_bursts_judge_a_grid_of_settings(file: Path) -> None:
    output = ran(str(file), "--plant", "snow:2014-12-15T09:20:40", "--seeds", "2")

    assert "60 settings, 2 bursts in 2 hours of noise" in output
    assert all(name in output for name in ("precision", "recall", "minutes to detect"))
    assert "false alarms an hour" in output
    best = next(line for line in output.splitlines() if re.search("chi_squared|poisson", line))
    cells = [cell.strip() for cell in best.split("│") if cell.strip()]
    recall, minutes = cells[5], cells[7]
    assert recall == "1.000"
    assert 1 <= float(minutes) <= 10  # as long as such a burst lasts


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--at", "noon"], "`noon` is not a time"),
        (["--order", "loudest"], "must be `score` or `rising`"),
        (["--plant", "snow"], "`snow` is not TAG:AT:SIZE"),
        (["--plant", "12:2014-12-15T09:20:40"], "is not TAG:AT:SIZE"),
        (["--plant", "snow:2014-12-15T09:20:0"], "is not TAG:AT:SIZE"),
        (["--plant", "snow:noon:5"], "`noon` is not a time"),
    ],
)
def test_wrong_arguments_are_named(file: Path, arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(cli.app, ["trends", "backtest", str(file), *arguments])

    assert problem in str(done.exception)


@pytest.mark.parametrize(
    ("header", "first", "problem"),
    [
        ("when,who,what", ("1", "a", "b"), "has no header with"),
        ("", ("soon", "a", "b"), "row 1 of"),
    ],
)
def test_a_file_that_is_no_such_file_is_named(
    tmp_path: Path, header: str, first: Sequence[str], problem: str
) -> None:
    path = written(tmp_path / "other.csv.xz", [first], header)

    with pytest.raises(trends_backtest.BadInput, match=problem):
        trends_backtest.read(path)


class Rising:
    """What a file of real tweets shows in the order `rising`, with the defaults."""

    def __init__(self, name: str) -> None:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"NOT RUN: real tweets; {name} is not in ../shared/data")
        said = trends_backtest.read(path)
        self.top_3: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.tenth: dict[str, int] = {}
        for at_ms, listed in trends_backtest.minutes(said, Order.RISING, RULES):
            for line in listed[:3]:
                self.top_3.setdefault(line.name, at_ms)
            if listed:
                self.first[listed[0].name] = self.first.get(listed[0].name, 0) + 1
        authors: dict[str, set[int]] = {}
        for each in said:
            for tag, _ in each.tags:
                of_tag = authors.setdefault(tag, set())
                of_tag.add(each.author)
                if len(of_tag) == 10:
                    self.tenth.setdefault(tag, each.at_ms)

    def late_minutes(self, tag: str) -> float:
        """How long after its tenth author a tag stood in the top 3."""
        # A list shows the minute that begins at its time, as it ends.
        return (self.top_3[tag] + MINUTE_MS - self.tenth[tag]) / MINUTE_MS


def test_in_real_tweets_what_people_mean_rises_and_what_is_always_on_does_not() -> None:
    sydney = Rising("tweets-sydneysiege.csv.xz")

    assert sydney.late_minutes("illridewithyou") <= 5
    day = 24 * 60
    assert sydney.first["sydneysiege"] < day / 10


def test_in_other_real_tweets_what_people_mean_rises_too() -> None:
    ottawa = Rising("tweets-ottawashooting.csv.xz")

    assert ottawa.late_minutes("ottawashooting") <= 5
    assert ottawa.late_minutes("ottawastrong") <= 5


def test_a_picture_of_nothing_is_drawn_too(tmp_path: Path) -> None:
    path = tmp_path / "out.png"

    trends_backtest.run(
        Console(quiet=True), [], order=Order.SCORE, rules=RULES, tags=(), at=None, limit=10,
        plot=path,
    )  # fmt: skip

    assert path.read_bytes().startswith(b"\x89PNG")
