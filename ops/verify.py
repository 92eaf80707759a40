"""`chirp verify`: compares home timelines with the oracle, and says what it found."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from rich.progress import Progress

from domain.ids import UserId
from mesh.settings import Settings
from ops import verifier
from ops.differences import Difference, Report, Way
from ops.load import progress_bar
from ops.verifier import Selection

IDS_SHOWN_MAX = 10
DIFFERENCES_SHOWN_MAX = 20


def run(
    settings: Settings,
    selection: Selection,
    *,
    gateway: str | None,
    materialise: bool,
    repair: bool,
) -> int:
    """Compares, and with `repair` makes anew what differs; with `materialise` only makes the
    timelines. Returns the exit status, 1 where a timeline is not what it must be, and was not
    repaired. `gateway` is a URL, None for gRPC past the gateway."""
    started = time.monotonic()
    with progress_bar() as progress:
        viewers, report = uvloop.run(
            _work(settings, selection, gateway, materialise, repair, progress)
        )
    seconds = time.monotonic() - started
    if report is None:
        print(f"{len(viewers):,} timelines are materialised, in {seconds:.1f} s")
        return 0
    where = gateway or f"{settings.timeline_target} (gRPC)"
    print(f"{summary(report)}\nread through {where} in {seconds:.1f} s")
    return 1 if report.differences else 0


def read_users(text: str) -> list[str]:
    """Returns the users that `--users` names: a file with one on each line, or names with commas
    between them. Raises OSError."""
    path = Path(text)
    # A name that is too long for a file is a name.
    is_file = len(text) < 256 and path.is_file()
    words = path.read_text().splitlines() if is_file else text.split(",")
    return [word.strip() for word in words if word.strip()]


def summary(report: Report) -> str:
    """Returns what was found, for people."""
    wrong, repaired = len(report.differences), len(report.repaired)
    lines = [*_describe_all(report.differences), *_describe_all(report.repaired, "repaired: ")]
    lines.append(
        f"{report.accounts - wrong:,} of {report.accounts:,} home timelines equal the oracle:"
        f" {report.entries:,} entries on {report.pages:,} pages"
    )
    for way in Way:
        share = 100 * report.ways[way] / report.entries if report.entries else 0.0
        lines.append(f"  {way.value:<14}{report.ways[way]:>12,} {share:>6.1f} %")
    lines.append(f"repaired: {repaired:,} timelines; by all runs so far: {report.repaired_ever:,}")
    return "\n".join(lines)


def _describe_all(differences: Sequence[Difference], prefix: str = "") -> Iterator[str]:
    for difference in differences[:DIFFERENCES_SHOWN_MAX]:
        yield from _describe(difference, prefix)
    if len(differences) > DIFFERENCES_SHOWN_MAX:
        yield f"{prefix}... and {len(differences) - DIFFERENCES_SHOWN_MAX:,} more"


def _describe(difference: Difference, prefix: str) -> list[str]:
    lines = [
        f"{prefix}account {difference.viewer}: {difference.expected:,} entries in the oracle,"
        f" {difference.served:,} served, the first difference at entry {difference.position + 1:,}"
    ]
    if difference.flaw:
        lines.append(f"  {difference.flaw}")
    for name, ids in (("missing", difference.missing), ("extra", difference.extra)):
        if ids:
            more = f" and {len(ids) - IDS_SHOWN_MAX:,} more" if len(ids) > IDS_SHOWN_MAX else ""
            lines.append(f"  {name}: {', '.join(map(str, ids[:IDS_SHOWN_MAX]))}{more}")
    if not difference.missing and not difference.extra and not difference.flaw:
        lines.append("  the same entries, out of order or twice")
    return lines


async def _work(
    settings: Settings,
    selection: Selection,
    gateway: str | None,
    materialise: bool,
    repair: bool,
    progress: Progress,
) -> tuple[list[UserId], Report | None]:
    async with AsyncExitStack() as stack:
        verifying = await verifier.open_verifier(stack, settings, gateway=gateway)
        viewers = await verifying.select(selection)
        if materialise:
            await verifying.materialise(viewers, progress)
            return viewers, None
        return viewers, await verifying.verify(viewers, progress, repair=repair)
