"""The picture of a backtest: rank over time above, value over time below, a line for each tag."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from domain.trend import Order
from domain.trend_window import MINUTE_MS
from ops.trends_backtest import Milestones

WIDTH, HEIGHT, MARGIN, GAP = 1400, 900, 70, 60
SMOOTH = 2  # drawn so many times as large, then made smaller: lines without steps
RANKS = 10
TAGS_MAX = 8
# Okabe and Ito's colours, which people who see colours differently can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
GREY, LIGHT = "#444444", "#DDDDDD"
BREAK_MS = 2 * MINUTE_MS  # a line that was away for longer is not joined


class _Panel:
    """A box with axes: time from left to right, a value from bottom to top."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, *, top: int, bottom: int, low: float, high: float,
        begin_ms: int, end_ms: int,
    ) -> None:  # fmt: skip
        self._draw = draw
        self._box = (MARGIN, top, WIDTH - MARGIN, bottom)
        self._low, self._high = low, high
        self._begin_ms, self._end_ms = begin_ms, end_ms

    def axes(self, title: str, marks: Sequence[tuple[float, str]]) -> None:
        """Draws the box, what the values are, and the hours."""
        left, top, right, bottom = self._box
        self._draw.rectangle(_scaled(self._box), outline=GREY, width=SMOOTH)
        _text(self._draw, (left, top - 26), title)
        for value, label in marks:
            y = self._y(value)
            self._draw.line(_scaled((left, y, right, y)), fill=LIGHT, width=SMOOTH)
            _text(self._draw, (left - 8, y - 9), label, right=True)
        hours = max(1, round((self._end_ms - self._begin_ms) / 3_600_000 / 12))
        step_ms = hours * 3_600_000
        for at_ms in range(-(-self._begin_ms // step_ms) * step_ms, self._end_ms, step_ms):
            x = self._x(at_ms)
            self._draw.line(_scaled((x, top, x, bottom)), fill=LIGHT, width=SMOOTH)
            label = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%d %H:%M")
            _text(self._draw, (x - 26, bottom + 6), label)

    def line(self, points: Sequence[tuple[int, float]], colour: str) -> None:
        """Draws a line through what lies between the lowest and the highest value."""
        for (one_ms, one), (other_ms, other) in itertools.pairwise(points):
            if other_ms - one_ms <= BREAK_MS and max(one, other) <= max(self._low, self._high):
                where = (self._x(one_ms), self._y(one), self._x(other_ms), self._y(other))
                self._draw.line(_scaled(where), fill=colour, width=2 * SMOOTH)

    def _x(self, at_ms: int) -> float:
        left, _, right, _ = self._box
        return left + (right - left) * (at_ms - self._begin_ms) / (self._end_ms - self._begin_ms)

    def _y(self, value: float) -> float:
        _, top, _, bottom = self._box
        return bottom - (bottom - top) * (value - self._low) / (self._high - self._low)


def draw(path: Path, shown: Sequence[Milestones], order: Order) -> None:
    """Draws the lines of up to TAGS_MAX tags into a PNG file. Raises OSError."""
    drawn = [found for found in shown if found.line][:TAGS_MAX]
    image = Image.new("RGB", (WIDTH * SMOOTH, HEIGHT * SMOOTH), "white")
    canvas = ImageDraw.Draw(image)
    times = [at_ms for found in drawn for at_ms, _, _ in found.line] or [0]
    begin_ms, end_ms = min(times), max(times) + MINUTE_MS
    middle = (HEIGHT - MARGIN) // 2
    ranks = _Panel(
        canvas, top=MARGIN, bottom=middle, low=RANKS + 0.5, high=0.5, begin_ms=begin_ms,
        end_ms=end_ms,
    )  # fmt: skip
    highest = max((found.peak_value for found in drawn), default=0.0) or 1.0
    values = _Panel(
        canvas, top=middle + GAP, bottom=HEIGHT - MARGIN, low=0.0, high=highest * 1.05,
        begin_ms=begin_ms, end_ms=end_ms,
    )  # fmt: skip
    ranks.axes(f"rank by {order.value}", [(rank, str(rank)) for rank in (1, 3, 5, 10)])
    what = "score" if order is Order.SCORE else "surprise"
    values.axes(what, [(highest * share / 4, f"{highest * share / 4:,.0f}") for share in range(5)])
    for found, colour in zip(drawn, COLOURS, strict=False):
        ranks.line([(at_ms, rank) for at_ms, rank, _ in found.line], colour)
        values.line([(at_ms, value) for at_ms, _, value in found.line], colour)
    for number, (found, colour) in enumerate(zip(drawn, COLOURS, strict=False)):
        x = MARGIN + number * (WIDTH - 2 * MARGIN) // TAGS_MAX
        canvas.line(_scaled((x, 24, x + 22, 24)), fill=colour, width=4 * SMOOTH)
        _text(canvas, (x + 28, 14), f"#{found.name[:16]}")
    image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path, "PNG")


def _scaled(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    one, two, three, four = (each * SMOOTH for each in box)
    return one, two, three, four


def _text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, *, right: bool = False
) -> None:
    where = (at[0] * SMOOTH, at[1] * SMOOTH)
    font = ImageFont.load_default(15 * SMOOTH)
    draw.text(where, text, fill=GREY, font=font, anchor="ra" if right else "la")
