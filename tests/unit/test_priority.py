"""Workers give way to servers on the same machine, and lower nobody else's priority."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import priority
from ops.processes import KINDS, ProcessKind

ROOT = Path(__file__).parents[2]
GIVE_WAY = "import os; from mesh import priority; priority.give_way(); print(os.nice(0))"
GROUP = f"; print(open({str(priority.AUTOGROUP)!r}).read())"
WORKERS = [kind for kind in KINDS if not kind.is_server]


def run(program: str, *, own_session: bool) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        start_new_session=own_session,
    )
    return answer.stdout.split("\n")


def test_a_process_that_gives_way_is_nicer() -> None:
    nicer = min(19, os.nice(0) + priority.NICENESS)

    assert run(GIVE_WAY, own_session=True)[0] == str(nicer)


@pytest.mark.skipif(not priority.AUTOGROUP.exists(), reason="this kernel groups no sessions")
def test_only_a_session_of_its_own_gives_way() -> None:
    before = priority.AUTOGROUP.read_text().strip()

    alone = run(GIVE_WAY + GROUP, own_session=True)[1]
    beside = run(GIVE_WAY + GROUP, own_session=False)[1]

    assert alone.endswith(f"nice {priority.NICENESS}")
    assert beside == before == priority.AUTOGROUP.read_text().strip()


@pytest.mark.parametrize("worker", WORKERS, ids=lambda kind: kind.name)
def test_each_worker_gives_way(worker: ProcessKind, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def main(name: str, _: object) -> None:
        begun.append(name)

    monkeypatch.setattr("mesh.priority.give_way", lambda: begun.append("gives way"))
    monkeypatch.setattr("mesh.server.main", main)

    monkeypatch.delitem(sys.modules, worker.module, raising=False)
    runpy.run_module(worker.module, run_name="__main__")

    assert begun == ["gives way", worker.name]
