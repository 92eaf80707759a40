"""`chirp status` as text: a head of a few lines, and a table as wide as the terminal."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ops.status import GATEWAY, Health, Report, Row

NOTHING = "-"
GAP = 2
HISTORY = 40
"""So many looks a line of bars shows."""
BARS = "▁▂▃▄▅▆▇█"
DOWN = {Health.NOT_SERVING: "NOT SERVING", Health.NO_ANSWER: "NO ANSWER"}
# What people wait for longer than this is shown as slow.
SLOW_S = 0.25
BEHIND = 1_000

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Style:
    """What a terminal can show."""

    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, code: str) -> str:
        """Returns the text in a colour."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code else text


@dataclass(frozen=True, slots=True)
class Column:
    """A column; which is left out first where the terminal is narrow: the highest."""

    title: str
    left_out: int
    text: Callable[[Row], str]
    colour: Callable[[Row], str] = lambda _: ""


def render(
    report: Report,
    style: Style,
    *,
    url: str,
    width: int,
    height: int | None = None,
    history: Sequence[float] = (),
) -> list[str]:
    """Returns lines of at most `width` letters, and at most `height` of them: where there is no
    room for all, who does not serve comes first. `history` are the gateway's rates of the looks
    before, oldest first."""
    columns = _fitting(report.rows, width, style)
    head = [*_head(report, style, url, history), ""]
    lines = head + _table(report.rows, columns, style)
    if height is not None and len(lines) > height:
        rows = sorted(report.rows, key=lambda row: row.health is Health.SERVING)
        lines = head + [line for line in _table(rows, columns, style) if line]
    if height is not None and len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], f"... {hidden} more lines: enlarge the window"]
    return [_cut(line, width) for line in lines]


def sparkline(values: Sequence[float]) -> str:
    """Returns a bar for each value, the highest for the largest."""
    top = max(values, default=0.0) or 1.0
    return "".join(BARS[round(value / top * (len(BARS) - 1))] for value in values[-HISTORY:])


def seconds(value: float | None) -> str:
    """Returns a short duration for people."""
    if value is None:
        return NOTHING
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1000:.1f} ms" if value < 0.01 else f"{value * 1000:.0f} ms"


def age(value: float | None) -> str:
    """Returns a long duration for people."""
    if value is None:
        return NOTHING
    whole = int(value)
    for unit, size, below in (("d", 86_400, "h"), ("h", 3_600, "m"), ("m", 60, "s")):
        if whole >= size:
            rest = whole % size // {"h": 3_600, "m": 60, "s": 1}[below]
            return f"{whole // size}{unit} {rest}{below}"
    return f"{whole}s"


def number(value: float | None) -> str:
    """Returns a count or a rate for people."""
    if value is None:
        return NOTHING
    if value >= 1_000_000:
        return f"{value / 1_000_000:.1f}M"
    if value >= 10_000:
        return f"{value / 1_000:.1f}k"
    if 0 < value < 0.1:
        return "<0.1"
    return f"{value:.1f}" if value < 10 and value != int(value) else f"{value:.0f}"


def share(value: float | None) -> str:
    """Returns a share in per cent; what is small does not look like nothing."""
    if value is None:
        return NOTHING
    return "<0.1%" if 0 < value < 0.001 else f"{value:.1%}"


def _memory(value: int | None) -> str:
    return NOTHING if value is None else f"{value / 1_000_000:.0f} MB"


def _cores(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def _slow(value: float | None) -> str:
    return YELLOW if value is not None and value > SLOW_S else ""


COLUMNS = (
    Column("up", 6, lambda row: age(row.up_s), lambda _: DIM),
    Column("per s", 1, lambda row: number(row.rate)),
    Column("errors", 4, lambda row: share(row.errors), lambda row: RED if row.errors else ""),
    Column("p50", 5, lambda row: seconds(row.p50_s), lambda row: _slow(row.p50_s)),
    Column("p99", 1, lambda row: seconds(row.p99_s), lambda row: _slow(row.p99_s)),
    Column(
        "lag", 1, lambda row: number(row.lag), lambda row: YELLOW if (row.lag or 0) > BEHIND else ""
    ),
    Column("streams", 3, lambda row: number(row.streams)),
    Column("restarts", 2, lambda row: number(row.restarts), lambda r: YELLOW if r.restarts else ""),
    Column("cpu", 7, lambda row: _cores(row.cpu), lambda _: DIM),
    Column("memory", 8, lambda row: _memory(row.memory), lambda _: DIM),
)


def _head(report: Report, style: Style, url: str, history: Sequence[float]) -> list[str]:
    count = len(report.rows)
    well = report.serving == count
    said = f"all {count} processes serve" if well else f"{report.serving} of {count} serve"
    gateway = report.gateway
    requests = f"{number(gateway.rate if gateway else None)} requests/s"
    if gateway is not None and gateway.errors:
        requests += f", {style.paint(f'{share(gateway.errors)} failed', RED)}"
    if style.unicode and history:
        requests += f"  {style.paint(sparkline(history), GREEN)}"
    behind = max((row.lag or 0 for row in report.rows), default=0)
    letters = f"{report.dead_letters} dead letters"
    parts = (
        f"home p99 {seconds(report.home_p99_s)}",
        f"post to visible p99 {seconds(report.freshness_p99_s)}",
        style.paint(f"{number(behind)} events behind", YELLOW if behind > BEHIND else ""),
        style.paint(letters, RED if report.dead_letters else ""),
    )
    return [
        f"{style.paint('chirp', BOLD)}  {url}  {style.paint(said, GREEN if well else RED)}",
        requests,
        "   ".join(parts),
    ]


def _fitting(rows: Sequence[Row], width: int, style: Style) -> list[Column]:
    columns = list(COLUMNS)
    # By the line of titles, which is as wide as any whole line.
    while columns and _length(_table(rows, columns, style)[0]) > width:
        columns.remove(max(columns, key=lambda column: column.left_out))
    return columns


def _table(rows: Sequence[Row], columns: Sequence[Column], style: Style) -> list[str]:
    name_width = max((len(row.name) for row in rows), default=0) + 2
    widths = [
        max(len(column.title), *(len(column.text(row)) for row in rows)) for column in columns
    ]
    titles = [column.title.rjust(size + GAP) for column, size in zip(columns, widths, strict=True)]
    lines = [style.paint(" " * name_width + "".join(titles), DIM)]
    group = ""
    for row in rows:
        if group and _group(row) != group:
            lines.append("")
        group = _group(row)
        lines.append(_line(row, columns, name_width, widths, style))
    return lines


def _line(
    row: Row, columns: Sequence[Column], name_width: int, widths: Sequence[int], style: Style
) -> str:
    well = row.health is Health.SERVING
    mark = ("●" if well else "○") if style.unicode else ("+" if well else "!")
    text = f"{style.paint(mark, GREEN if well else RED)} {row.name}"
    text += " " * (name_width - _length(text))
    if row.health is Health.NO_ANSWER:
        restarts = f" (restarts: {row.restarts})" if row.restarts else ""
        return text + " " * GAP + style.paint(f"{DOWN[row.health]}{restarts}", RED)
    end = name_width
    if not well:
        # In the place of the first columns, which are not as urgent.
        text += " " * GAP + style.paint(DOWN[row.health], RED)
    for column, size in zip(columns, widths, strict=True):
        cell = column.text(row)
        end += GAP + size
        space = end - len(cell) - _length(text)
        if space >= GAP:
            colour = DIM if cell == NOTHING else column.colour(row)
            text += " " * space + style.paint(cell, colour)
    return text


def _group(row: Row) -> str:
    if row.kind == GATEWAY:
        return GATEWAY
    if "_" not in row.kind:
        return "store"
    return "server" if row.kind.endswith("_server") else "worker"


def _length(line: str) -> int:
    return len(_ESCAPE.sub("", line))


def _cut(line: str, width: int) -> str:
    """Cuts what a terminal would wrap, and leaves no colour open."""
    if _length(line) <= width:
        return line
    kept, length = "", 0
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if _ESCAPE.fullmatch(part):
            kept += part
            continue
        kept += part[: width - length]
        length = min(width, length + len(part))
    return kept
