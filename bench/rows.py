"""What a run has to say: rows for `bench/latest.json` and a table for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. The fields are those of the objects in latest.json."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    """The value as a part of what it is compared with, in the same run."""
    against: str = ""
    """What it is compared with, and its figure."""
    goal: str = ""
    """Empty where there is none."""
    met: bool | None = None
    """None where there is no goal."""
    how: str


def at_least(
    name: str,
    value: float,
    unit: str,
    *,
    ratio: float | None = None,
    ratio_goal: float | None = None,
    value_goal: float | None = None,
    against: str = "",
    how: str,
) -> Row:
    """Returns a row that has a goal for its ratio or for its value."""
    goal, met = "", None
    if ratio_goal is not None:
        goal, met = f"ratio >= {ratio_goal:g}", ratio is not None and ratio >= ratio_goal
    elif value_goal is not None:
        goal, met = f"value >= {value_goal:,.0f}", value >= value_goal
    return Row(
        name=name,
        value=_rounded(value),
        unit=unit,
        ratio=None if ratio is None else round(ratio, 3),
        against=against,
        goal=goal,
        met=met,
        how=how,
    )


def at_most(
    name: str,
    value: float,
    unit: str,
    *,
    value_goal: float | None = None,
    errors: int = 0,
    against: str = "",
    how: str,
) -> Row:
    """Returns a row whose value must not be higher than its goal, if it has one, in a run that saw
    no errors."""
    goal, met = "", None
    if value_goal is not None:
        goal, met = f"value <= {value_goal:,g}", value <= value_goal and not errors
    return Row(
        name=name,
        value=_rounded(value),
        unit=unit,
        against=against,
        goal=goal,
        met=met,
        how=how,
    )


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows whole; readers see the old file or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    partial.replace(path)


def table(rows: Sequence[Row]) -> Table:
    """Returns the rows as a table."""
    shown = Table(title="Chirp, measured side by side")
    for heading, side in (
        ("name", "left"), ("value", "right"), ("unit", "left"), ("ratio", "right"),
        ("against", "left"), ("goal", "left"), ("met", "left"),
    ):  # fmt: skip
        shown.add_column(
            heading, justify="right" if side == "right" else "left", no_wrap=heading == "name"
        )
    for row in rows:
        shown.add_row(
            row.name,
            f"{row.value:,}",
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.against,
            row.goal,
            {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[row.met],
        )
    return shown


def _rounded(value: float) -> float:
    return round(value) if value >= 100 else round(value, 2)
