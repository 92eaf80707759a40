"""`chirp load`: a follower graph and tweets from files, with progress bars; says what it did.

Both can be interrupted with Ctrl-C and run again: nothing is doubled.
"""

import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mesh.settings import Settings
from ops import load_graph, load_tweets
from ops.inputs import BadInput


def graph(settings: Settings, path: Path, *, limit: int | None) -> int:
    """Loads a follower graph; returns the exit status."""
    done, started = load_graph.Loaded(), time.monotonic()

    def summary() -> str:
        return (
            f"{done.lines:,} lines: {done.accounts:,} new accounts, {done.follows:,} new follows,"
            f" {done.tiers:,} changes of tier, in {time.monotonic() - started:.1f} s"
        )

    _run(
        lambda progress: load_graph.load(settings, path, progress, done, limit=limit),
        summary,
    )
    return 0


def tweets(
    settings: Settings,
    path: Path,
    *,
    rate: float | None,
    limit: int | None,
    accounts: int | None,
) -> int:
    """Posts a file of tweets; returns the exit status, 1 where a row was refused."""
    done = load_tweets.Posted()

    def summary() -> str:
        per_second = done.posted / done.seconds if done.seconds else 0.0
        lines = [
            f"{done.posted:,} tweets posted in {done.seconds:.1f} s ({per_second:,.0f} a second);"
            f" of {done.rows:,} rows, {done.already:,} were there already"
        ]
        if done.refused:
            lines += [f"{done.refused:,} rows were refused, such as", *done.refusals]
        return "\n".join(lines)

    _run(
        lambda progress: load_tweets.load(
            settings, path, progress, done, rate=rate, limit=limit, accounts_max=accounts
        ),
        summary,
    )
    return 1 if done.refused else 0


def progress_bar() -> Progress:
    """Returns a progress bar, on the error stream so that output can be piped."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _run(work: Callable[[Progress], Coroutine[Any, Any, None]], summary: Callable[[], str]) -> None:
    try:
        with progress_bar() as progress:
            uvloop.run(work(progress))
    except (BadInput, LookupError):
        raise  # the same again would end the same
    except BaseException:
        print(f"stopped: {summary()}\nrun it again to go on where it stopped", flush=True)
        raise
    print(summary(), flush=True)
