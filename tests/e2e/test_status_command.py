"""`chirp status` on a real `chirp up --replicas 2`: what it says, and how it is on a terminal."""

import errno
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx

from ops.status_live import ENTER, LEAVE
from tests.e2e.chirp_up import ROOT, ChirpUp, plain_environment, run_chirp
from tests.e2e.people import sign_up

WITHIN_S = 30.0
WIDTH = 60


def status(shared: ChirpUp) -> dict[str, Any]:
    done = run_chirp("status", "--json", "--interval", "0.5", CHIRP_DATA=str(shared.data))
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert done.returncode == (0 if told["serving"] == len(told["rows"]) else 1)
    return told


def rows(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in told["rows"]}


def test_every_process_has_a_row_and_a_death_shows_as_a_restart(shared: ChirpUp) -> None:
    before = rows(status(shared))
    ours = [f"{kind}-{n}" for kind in shared.stack().ports for n in (1, 2)]
    victim = shared.process_at(shared.stack().ports["notification_server"][1])

    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + WITHIN_S
    wanted = (before["notification_server-2"]["restarts"] or 0) + 1
    while (after := rows(status(shared)))["notification_server-2"]["restarts"] != wanted:
        assert time.monotonic() < deadline, after
    shared.wait_until_whole()
    deadline = time.monotonic() + WITHIN_S
    # Whoever takes more than a second to answer one look, on a machine that does much else, is
    # called not serving in it, and rightly so.
    while (whole := status(shared))["serving"] != len(whole["rows"]):
        assert time.monotonic() < deadline, whole

    assert set(before) == {*ours, "gateway", "postgres", "cache", "eventlog"}
    assert {row["health"] for row in whole["rows"]} == {"serving"}
    assert rows(whole)["notification_server-2"]["up_s"] < before["notification_server-1"]["up_s"]
    for name in ours:
        assert rows(whole)[name]["memory"] > 10_000_000
        assert (rows(whole)[name]["lag"] is not None) == ("_server" not in name), name


def test_on_a_terminal_it_goes_on_until_ctrl_c_and_leaves_the_terminal_as_it_was(
    shared: ChirpUp,
) -> None:
    with watching(shared) as (process, terminal), httpx.Client(base_url=shared.url) as client:
        author = sign_up(client, f"watched_{time.monotonic_ns()}")
        shown = ""
        deadline = time.monotonic() + WITHIN_S
        while not re.search(r"home p99 \d", shown):
            assert time.monotonic() < deadline, shown
            author.home()
            shown += read(terminal)
        process.send_signal(signal.SIGINT)
        while more := read(terminal):
            shown += more
        exit_status = process.wait(WITHIN_S)

    assert exit_status == 0
    assert shown.startswith(ENTER)
    drawn, _, left = shown.partition(LEAVE)
    assert "timeline_server-2" in drawn and "timeline_server-2" in left
    assert "\x1b[32m" not in shown, "NO_COLOR asks for none"
    assert "\x1b" not in left
    assert max(map(len, left.splitlines())) <= WIDTH


@contextmanager
def watching(shared: ChirpUp) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """Starts it on a terminal; the process, and the other side of the terminal."""
    terminal, its_side = os.openpty()
    fcntl.ioctl(its_side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.cli", "status", "--interval", "0.3"],
        cwd=ROOT,
        env={
            **plain_environment(),
            "CHIRP_DATA": str(shared.data),
            "TERM": "xterm",
            "NO_COLOR": "1",
            "PYTHONIOENCODING": "utf-8",
        },
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
    )
    os.close(its_side)
    try:
        yield process, terminal
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def read(terminal: int) -> str:
    """What comes next; nothing once whoever wrote has gone."""
    ready, _, _ = select.select([terminal], [], [], WITHIN_S)
    assert ready, "it says nothing"
    try:
        return os.read(terminal, 65_536).decode(errors="replace")
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return ""


def test_without_a_stack_it_says_how_to_start_one(tmp_path: os.PathLike[str]) -> None:
    done = run_chirp("status", CHIRP_DATA=str(tmp_path))

    assert done.returncode == 1
    assert done.stderr == "chirp: no stack runs here: start `chirp up` (with the same CHIRP_DATA)\n"
