"""Which ports each process of a test run may take, so that two at once never choose the same."""

import os

SPAN = 1_500
WORKERS_MAX = 4

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
assert _worker < WORKERS_MAX, f"at most {WORKERS_MAX} workers have ports of their own"
_first = 20_000 + _worker * 2 * SPAN

OWN = f"{_first}-{_first + SPAN - 1}"
"""For what a test itself starts."""
OF_CHIRP_UP = f"{_first + SPAN}-{_first + 2 * SPAN - 1}"
"""For what a `chirp up` starts that a test starts."""
