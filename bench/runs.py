"""One run of a benchmark: its options, its settings, its folder and its exit status."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench.tools import LoadFailed
from bench.world import GRAPH
from mesh import settings as settings_module
from mesh.settings import Settings
from ops import embedded_postgres
from ops.children import StartError

# A benchmark does in a second what a person does in days. Everything is counted, and nothing
# refused, so that what limits cost is in the figures.
QUOTAS = {
    f"CHIRP_RATE_{name}": "999999999/1000"
    for name in ("POST", "FOLLOW", "LIKE", "READ", "ACCOUNT", "SIGN_IN", "ADDRESS")
}


def run(name: str, measure: Callable[[Path], Coroutine[Any, Any, None]]) -> int:
    """Runs a benchmark in a folder of its own; returns the exit status, having said what failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"chirp-{name}-"))
    try:
        folder.chmod(0o755)  # PostgreSQL's account must enter it
        uvloop.run(measure(folder))
    except (StartError, OSError, LoadFailed) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        _remove(folder)
    return 0


def settings_in(folder: Path, **more: str) -> Settings:
    """Returns the settings of a benchmark whose data is in a folder; `more` are variables of the
    environment. Whatever this shell is set up for, it writes into nobody's database."""
    for name in [name for name in os.environ if name.startswith("CHIRP_")]:
        del os.environ[name]
    os.environ.update(QUOTAS, CHIRP_DATA=str(folder), **more)
    return settings_module.load()


def add_graph(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the follower graph."""
    parser.add_argument(
        "--data",
        type=Path,
        default=GRAPH,
        help="a follower graph, `follower,followee` in each line (CHIRP_BENCH_DATA)",
    )


def some_of(known: Sequence[str], what: str) -> Callable[[str], list[str]]:
    """Returns the type of an option that names some of what there is, with commas between."""

    def chosen(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"no such {what}: {', '.join(unknown)}")
        return names

    return chosen


def _remove(folder: Path) -> None:
    """Removes a stopped stack's folder, and PostgreSQL's where that had to lie elsewhere."""
    moved = folder / "postgres" / embedded_postgres.MOVED_FILE
    if moved.exists():
        shutil.rmtree(moved.read_text().strip(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
