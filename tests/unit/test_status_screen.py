"""What `chirp status` draws."""

import re
from itertools import pairwise

import pytest

from ops import status_screen
from ops.status import Health, Report, Row
from ops.status_screen import Style

URL = "http://127.0.0.1:8080"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")

ROWS = [
    Row(
        name="gateway", kind="gateway", health=Health.SERVING, up_s=7_500, rate=412.4,
        errors=0.0002, p50_s=0.0042, p99_s=0.041, restarts=0, memory=44_000_000,
    ),
    Row(
        name="timeline_server-1", kind="timeline_server", health=Health.SERVING, up_s=90_000,
        rate=3.25, errors=0.0, p50_s=0.002, p99_s=1.25, streams=12, restarts=1, cpu=0.31,
        memory=96_000_000,
    ),
    Row(name="tweet_server-1", kind="tweet_server", health=Health.NO_ANSWER, restarts=3),
    Row(
        name="fanout_worker-1", kind="fanout_worker", health=Health.NOT_SERVING, up_s=42,
        rate=12_345, lag=2_000_000, restarts=0,
    ),
    Row(name="postgres", kind="postgres", health=Health.SERVING),
]  # fmt: skip

WIDE = """\
chirp  http://127.0.0.1:8080  3 of 5 serve
412 requests/s, <0.1% failed  ▁▅█
home p99 12 ms   post to visible p99 -   2.0M events behind   2 dead letters

                        up  per s  errors     p50    p99   lag  streams  restarts  cpu  memory
● gateway            2h 5m    412   <0.1%  4.2 ms  41 ms     -        -         0    -   44 MB

● timeline_server-1  1d 1h    3.2    0.0%  2.0 ms  1.2 s     -       12         1  31%   96 MB
○ tweet_server-1     NO ANSWER (restarts: 3)

○ fanout_worker-1    NOT SERVING        -       -      -  2.0M        -         0    -       -

● postgres               -      -       -       -      -     -        -         -    -       -"""


def report(rows: list[Row]) -> Report:
    return Report(
        at=0.0, window_s=2.0, rows=rows, home_p99_s=0.012, freshness_p99_s=None, dead_letters=2
    )


def drawn(width: int = 120, height: int | None = None, style: Style | None = None) -> list[str]:
    style = style or Style()
    return status_screen.render(
        report(ROWS), style, url=URL, width=width, height=height, history=[0, 50, 100]
    )


def test_a_wide_terminal_shows_everything() -> None:
    assert "\n".join(drawn()) == WIDE


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("style", [Style(), Style(colour=True), Style(unicode=False)], ids=repr)
def test_no_line_is_wider_than_the_terminal_and_every_process_is_there(
    width: int, style: Style
) -> None:
    lines = [ESCAPE.sub("", line) for line in drawn(width, style=style)]

    assert max(map(len, lines)) <= width
    for row in ROWS:
        assert any(row.name[: width - 2] in line for line in lines)


def test_a_narrow_terminal_leaves_out_what_matters_least() -> None:
    titles = [
        next(line for line in drawn(width) if "per s" in line).split()
        for width in (100, 75, 60, 50)
    ]

    assert "memory" in titles[0] and "memory" not in titles[1]
    assert all(set(more) >= set(fewer) for more, fewer in pairwise(titles))
    assert {"p99", "lag", "restarts"} <= set(titles[2])


def test_a_low_terminal_shows_who_does_not_serve_and_says_that_it_hides_others() -> None:
    lines = drawn(height=8)

    assert len(lines) == 8
    assert [line.split()[1] for line in lines[5:7]] == ["tweet_server-1", "fanout_worker-1"]
    assert lines[-1] == "... 3 more lines: enlarge the window"
    assert drawn(height=len(drawn())) == drawn()


def test_a_terminal_that_is_a_little_low_leaves_out_what_parts_the_groups() -> None:
    lines = drawn(height=len(drawn()) - 3)

    assert len(lines) == len(drawn()) - 3
    assert all(any(row.name in line for line in lines) for row in ROWS)


def test_without_colour_there_is_no_escape_and_with_it_every_one_is_closed() -> None:
    assert "\x1b" not in "".join(drawn())
    for width in (20, 45, 120):
        for line in drawn(width, style=Style(colour=True)):
            codes = re.findall(r"\x1b\[([0-9;]*)m", line)
            assert codes[1::2] == ["0"] * (len(codes) // 2), line
            assert len(codes) % 2 == 0


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert "".join(drawn(style=Style(unicode=False))).isascii()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.9994, "999 ms"), (2.5, "2.5 s")],
)
def test_durations_are_short(value: float | None, text: str) -> None:
    assert status_screen.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0s"), (61, "1m 1s"), (3_599, "59m 59s"), (7_500, "2h 5m"), (90_000, "1d 1h")],
)
def test_ages_are_short(value: float, text: str) -> None:
    assert status_screen.age(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.04, "<0.1"), (3, "3"), (9.96, "10.0"), (12_345, "12.3k")]
)
def test_rates_are_short(value: float, text: str) -> None:
    assert status_screen.number(value) == text


def test_bars_are_as_high_as_their_values() -> None:
    assert status_screen.sparkline([0, 1, 2, 4]) == "▁▃▅█"
    assert status_screen.sparkline([0, 0]) == "▁▁"
    assert status_screen.sparkline([]) == ""
    assert len(status_screen.sparkline([1.0] * 1000)) == status_screen.HISTORY
