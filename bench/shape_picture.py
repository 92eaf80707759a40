"""The figures of `make bench-shape`: kept in shape.json, shown in shape.md and shape.svg."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent
WIDTH, HEIGHT, COLUMNS = 480, 300, 2
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 56, 44
LINE, CACHE_LINE = "#1f6feb", "#bc4c00"


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point of a curve."""

    axis: str
    x: int
    cpu_us: float
    """CPU time of the timeline server for a read; for `rebuild` and `fanout`, time that passed:
    of a rebuild, of a delivery."""
    p50_ms: float
    """Of a read or a rebuild; for `fanout`, of a whole tweet."""
    cache_us: float
    """CPU time of Valkey for a read; 0 where it was not measured."""
    note: str

    def sentence(self) -> str:
        """The point for people."""
        return (
            f"{self.axis} {self.x:,}: {self.cpu_us:,.1f} us, {self.p50_ms:,.2f} ms,"
            f" Valkey {self.cache_us:,.1f} us; {self.note}"
        )


@dataclass(frozen=True, slots=True)
class Panel:
    """How an axis is shown."""

    title: str
    x: str
    columns: tuple[str, str, str]
    """What the figures of a point are; empty where there is none."""


READ_COLUMNS = ("server CPU, us a read", "p50 alone, ms", "Valkey CPU, us a read")
PANELS = {
    "accounts": Panel("Home read by number of accounts", "accounts", READ_COLUMNS),
    "readers": Panel("Home read by readers who come again", "readers", READ_COLUMNS),
    "followees": Panel("Home read by accounts followed", "followees", READ_COLUMNS),
    "celebrities": Panel("Home read by pulled authors followed", "pulled authors", READ_COLUMNS),
    "rebuild": Panel("Rebuild by accounts followed", "followees", ("us a rebuild", "ms", "")),
    "fanout": Panel("Fan-out by followers", "followers", ("us a delivery", "ms a tweet", "")),
}
BENDS = FOLDER / "shape-notes.md"


def keep(points: Sequence[Point], folder: Path = FOLDER) -> None:
    """Puts points into shape.json in place of those of the same axis and x, and draws all anew."""
    file = folder / "shape.json"
    known = [Point(**one) for one in json.loads(file.read_text())] if file.exists() else []
    merged = {(point.axis, point.x): point for point in (*known, *points)}
    order = list(PANELS)
    ordered = sorted(merged.values(), key=lambda point: (order.index(point.axis), point.x))
    lines = ",\n ".join(json.dumps(asdict(point)) for point in map(_rounded, ordered))
    _write(file, f"[\n {lines}\n]\n")
    notes = BENDS.read_text() if BENDS.exists() else ""
    _write(folder / "shape.md", table(ordered, notes))
    _write(folder / "shape.svg", picture(ordered))


def table(points: Sequence[Point], notes: str) -> str:
    """Returns the points as Markdown, with what is said of the curves."""
    parts = [
        "# How costs grow\n",
        "Written by `make bench-shape`, on two cores with the client and the stores beside the"
        " servers. The same as a picture: [shape.svg](shape.svg).\n",
    ]
    if notes:
        parts.append(notes)
    for axis, panel in PANELS.items():
        chosen = [point for point in points if point.axis == axis]
        if not chosen:
            continue
        shown = [place for place, column in enumerate(panel.columns) if column]
        heads = [panel.x, *(panel.columns[place] for place in shown), "how"]
        parts.append(f"## {panel.title}\n")
        rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for point in chosen:
            figures = (point.cpu_us, point.p50_ms, point.cache_us)
            cells = [f"{point.x:,}", *(_figure(figures[place]) for place in shown), point.note]
            rows.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def picture(points: Sequence[Point]) -> str:
    """Returns the curves as SVG, a panel for each axis; both scales are logarithmic."""
    axes = [axis for axis in PANELS if any(point.axis == axis for point in points)]
    rows = -(-len(axes) // COLUMNS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * COLUMNS}"'
        f' height="{HEIGHT * rows}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, axis in enumerate(axes):
        chosen = [point for point in points if point.axis == axis]
        x, y = WIDTH * (place % COLUMNS), HEIGHT * (place // COLUMNS)
        parts.append(f'<g transform="translate({x} {y})">{_panel(PANELS[axis], chosen)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def decades(low: float, high: float) -> tuple[int, int]:
    """Returns the powers of ten between which all values from `low` to `high` lie."""
    first = math.floor(math.log10(low))
    return first, max(first + 1, math.ceil(math.log10(high)))


def _panel(panel: Panel, points: Sequence[Point]) -> str:
    # 0 has no logarithm: it stands where 0.1 would be.
    xs = [max(0.1, point.x) for point in points]
    curves = [(LINE, panel.columns[0], [point.cpu_us for point in points])]
    if panel.columns[2]:
        curves.append((CACHE_LINE, panel.columns[2], [point.cache_us for point in points]))
    values = [max(1e-3, value) for _, _, curve in curves for value in curve]
    x_range, y_range = decades(min(xs), max(xs)), decades(min(values), max(values))

    def at(x: float, y: float) -> tuple[float, float]:
        part_x = (math.log10(x) - x_range[0]) / (x_range[1] - x_range[0])
        part_y = (math.log10(max(1e-3, y)) - y_range[0]) / (y_range[1] - y_range[0])
        return (
            LEFT + part_x * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part_y * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{escape(panel.title)}</text>']
    for power in range(x_range[0], x_range[1] + 1):
        x, low = at(10.0**power, 10.0 ** y_range[0])
        label = "0" if power < 0 else f"{10**power:,}"
        parts.append(_line((x, TOP), (x, low), "#ddd"))
        parts.append(f'<text x="{x:.1f}" y="{low + 16:.1f}" text-anchor="middle">{label}</text>')
    for power in range(y_range[0], y_range[1] + 1):
        left, y = at(10.0 ** x_range[0], 10.0**power)
        parts.append(_line((left, y), (WIDTH - RIGHT, y), "#ddd"))
        label = f"{10.0**power:,.{max(0, -power)}f}"
        parts.append(f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for place, (colour, name, curve) in enumerate(curves):
        spots = [at(x, y) for x, y in zip(xs, curve, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        parts.append(f'<text x="{LEFT + 190 * place}" y="40" fill="{colour}">{escape(name)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{panel.x}</text>')
    return "\n".join(parts)


def _line(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
        f' stroke="{colour}"/>'
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _rounded(point: Point) -> Point:
    return Point(
        point.axis, point.x, round(point.cpu_us, 3), round(point.p50_ms, 3),
        round(point.cache_us, 3), point.note,
    )  # fmt: skip


def _write(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)
