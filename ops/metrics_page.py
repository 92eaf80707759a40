"""Writes docs/metrics.md from mesh/catalogue.py.

python -m ops.metrics_page generate    writes it
python -m ops.metrics_page check       exits with 1 where it is stale
"""

import sys
from pathlib import Path

from mesh.catalogue import METRICS
from mesh.metrics import Metric

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
HEAD = """\
# Metrics

Each server and worker answers `GET /metrics` to Prometheus, at `CHIRP_METRICS_LISTEN`; `chirp up`
gives each a port of its own, named in `stack.json` of its data folder. This page is made from
`mesh/catalogue.py` by `make gen`, and a test compares that with what all processes tell. The
gateway tells its own: Envoy's admin page has `/stats/prometheus`.
"""


def main(arguments: list[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    if arguments == ["generate"]:
        PAGE.write_text(render())
        return 0
    if arguments != ["check"]:
        print(__doc__, file=sys.stderr)
        return 2
    if PAGE.exists() and PAGE.read_text() == render():
        return 0
    print("docs/metrics.md is stale: run `make gen` and commit the result", file=sys.stderr)
    return 1


def render() -> str:
    """Returns the page."""
    rows = [
        "| metric | kind | unit | labels | meaning |",
        "|---|---|---|---|---|",
        *map(_row, METRICS),
    ]
    return HEAD + "\n" + "\n".join(rows) + "\n"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    bounds = ", ".join(f"{bound:g}" for bound in metric.buckets)
    meaning = metric.meaning + (f" Buckets: {bounds}." if bounds else "")
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {meaning} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
