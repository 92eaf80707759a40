import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chirp_up import (
    ChirpUp,
    chirp_up,
    command_line,
    data_folder,
    descendants,
    run_chirp,
    wait_until_gone,
)

from mesh.catalogue import EVENT_LAG, OPEN_STREAMS
from ops import embedded

ACCOUNT = {"username": "early_bird", "password": "correct horse"}
STOP_WITHIN_S = 10.0


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def data() -> Iterator[Path]:
    with data_folder() as folder:
        yield folder


@pytest.fixture
def port() -> int:
    return embedded.free_port()


@pytest.fixture(scope="module")
def running() -> Iterator[ChirpUp]:
    """One for several tests, in a folder that only its owner can enter: PostgreSQL's account, where
    that is another one, needs a place elsewhere."""
    with data_folder(mode=0o700) as data, chirp_up(data, embedded.free_port()) as up:
        up.wait_until_ready()
        yield up


def test_starts_answers_stops_or_dies_leaves_nothing_and_keeps_the_data(
    data: Path, port: int
) -> None:
    with chirp_up(data, port) as up:
        up.wait_until_ready()
        children = descendants(up.process.pid)
        # Trends are the last to be ready: the worker counts before the servers have lists.
        trends = httpx.get(f"{up.url}/api/trends")
        signed_up = httpx.post(f"{up.url}/api/users", json=ACCOUNT)
        health = up.health()
        me = httpx.get(f"{up.url}/api/me", headers=bearer(up.token(ACCOUNT["username"])))
        before = time.monotonic()
        status = up.stop()
        stopped_after_s = time.monotonic() - before

    assert health == 200
    assert (trends.status_code, trends.json()["trends"]) == (200, [])
    assert signed_up.status_code == 200
    assert me.json()["username"] == ACCOUNT["username"]
    assert status == 0
    assert stopped_after_s < STOP_WITHIN_S
    assert len(children) >= 9
    wait_until_gone(children, 0.5)
    assert not (data / "stack.json").exists()

    with chirp_up(data, port) as up:
        up.wait_until_ready()
        signed_in = httpx.post(f"{up.url}/api/sessions", json=ACCOUNT)
        children = descendants(up.process.pid)
        up.stop(signal.SIGKILL)
        # They die with the one that started them, and the next start works.
        wait_until_gone(children, 5)

    with chirp_up(data, port) as up:
        up.wait_until_ready()
        health = up.health()

    assert signed_in.status_code == 200
    assert signed_in.json()["user"]["id"] == signed_up.json()["user"]["id"]
    assert health == 200


def test_commands_say_how_to_reach_a_stack_where_none_runs(data: Path) -> None:
    done = run_chirp("token", "nobody", CHIRP_DATA=str(data))

    assert done.returncode == 1
    assert done.stderr.startswith("chirp: PostgreSQL does not answer: start `chirp up`")
    assert len(done.stderr.splitlines()) == 1


def test_help_is_quick() -> None:
    before = time.monotonic()
    done = run_chirp("--help")

    assert done.returncode == 0
    # 0.15 s on its own; anything heavy imported at the top makes it well over a second.
    assert time.monotonic() - before < 1


def test_the_printed_lines_work_as_pasted(running: ChirpUp) -> None:
    lines = [line for line in running.output.splitlines() if "curl" in line]

    pasted = subprocess.run(
        ["/bin/sh"], input="\n".join(lines), capture_output=True, text=True, check=False
    )

    assert len(lines) == 3
    posted, timeline = pasted.stdout.splitlines()
    assert '"content":"Hello, #chirp"' in posted
    assert '"content":"Hello, #chirp"' in timeline


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's PostgreSQL runs as that user")
def test_a_folder_that_only_root_can_enter_stays_so(running: ChirpUp) -> None:
    assert running.health() == 200
    assert running.data.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("words", ["servers.graph_server", "postgres -D"])
def test_a_child_that_is_killed_is_started_again_and_it_says_so(
    running: ChirpUp, words: str
) -> None:
    killed, said = running.child(words), len(running.output)

    os.kill(killed, signal.SIGKILL)

    deadline = time.monotonic() + 20
    while "runs again" not in running.output[said:]:
        assert time.monotonic() < deadline, running.output[said:]
        time.sleep(0.05)
    assert "died (SIGKILL); starting it again in" in running.output[said:]
    assert running.child(words) != killed
    while running.health() != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_second_signal_ends_all_without_waiting_for_any(running: ChirpUp) -> None:
    running.wait_until_whole()
    children = descendants(running.process.pid)
    for child in children:
        if "-m servers." in command_line(child):
            os.kill(child, signal.SIGSTOP)  # stopping in order would wait 4 s for these
    running.process.send_signal(signal.SIGINT)
    running.wait_for("stopping")

    before = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    running.wait_for("stopped")

    # Not until it has ended itself: on a busy machine its interpreter takes seconds to clear up.
    assert time.monotonic() - before < 2
    wait_until_gone(children, 1)
    assert running.wait() == 0


def test_two_replicas_of_each_serve_behind_one_gateway(shared: ChirpUp) -> None:
    running = [command_line(child) for child in descendants(shared.process.pid)]
    ports = shared.stack().ports
    metrics = {
        kind: [httpx.get(f"http://127.0.0.1:{each}/metrics").text for each in replicas]
        for kind, replicas in shared.stack().metrics_ports.items()
    }

    assert shared.health() == 200
    for module in ("servers.tweet_server", "servers.timeline_server", "workers.outbox_relay"):
        assert sum(module in line for line in running) == 2
    assert all(len(set(replicas)) == 2 for replicas in ports.values())
    for worker, group in (
        ("fanout_worker", "fanout"),
        ("trend_worker", "trends"),  # also the one that stands by
        ("notification_worker", "notifications"),
    ):
        assert [f'{EVENT_LAG.name}{{group="{group}",partition="0"}}' in each
                for each in metrics[worker]] == [True, True], worker  # fmt: skip
    for streaming in ("timeline_server", "trend_server", "notification_server"):
        assert [f"\n{OPEN_STREAMS.name} " in each for each in metrics[streaming]] == [True, True]


def test_a_stop_during_the_start_leaves_nothing(data: Path, port: int) -> None:
    with chirp_up(data, port) as up:
        up.wait_for("event log run")
        children = descendants(up.process.pid)
        status = up.stop()

    assert status == 0
    wait_until_gone(children, 0.5)


def test_a_taken_port_is_named_with_the_setting(data: Path, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with chirp_up(data, port) as up:
            status = up.wait()
            errors = up.errors

    assert status == 1
    assert errors == f"chirp: port {port} is taken: set CHIRP_PORT to a free one\n"


def test_a_data_folder_that_cannot_be_written_is_named_with_the_setting(
    tmp_path: Path, port: int
) -> None:
    (tmp_path / "file").touch()  # also root cannot make a folder in a file

    with chirp_up(tmp_path / "file" / "data", port) as up:
        status = up.wait()
        errors = up.errors

    assert status == 1
    assert errors.startswith(f"chirp: cannot write to the data folder {tmp_path}/file/data")
    assert "CHIRP_DATA" in errors
    assert len(errors.splitlines()) == 1


def test_a_wrong_setting_is_named(data: Path, port: int) -> None:
    with chirp_up(data, port, CHIRP_LEASE_MS="soon") as up:
        status = up.wait()
        errors = up.errors

    assert status == 1
    assert errors.startswith("chirp: wrong setting: CHIRP_LEASE_MS:")
    assert len(errors.splitlines()) == 1


def test_two_cannot_share_a_data_folder(data: Path, port: int) -> None:
    with chirp_up(data, port) as first:
        first.wait_for("event log run")
        with chirp_up(data, embedded.free_port()) as second:
            status = second.wait()
            errors = second.errors

    assert status == 1
    assert f"another chirp up (process {first.process.pid}) uses the data folder" in errors
    assert "CHIRP_DATA" in errors


def test_a_child_that_dies_at_start_is_named_and_the_rest_is_stopped(data: Path, port: int) -> None:
    with chirp_up(data, port) as up:
        up.wait_for("event log run")
        up.stop()
    with (data / "postgres" / "cluster" / "postgresql.conf").open("a") as file:
        file.write("\nnonsense = 1\n")

    with chirp_up(data, port) as up:
        status = up.wait()
        errors = up.errors

    assert status == 1
    assert errors.startswith("chirp: postgres died at start (exit status 1).")
    assert 'unrecognized configuration parameter "nonsense"' in errors


def test_an_outside_store_that_does_not_answer_is_named_with_its_setting(
    data: Path, port: int
) -> None:
    nowhere = f"postgresql://chirp@127.0.0.1:{embedded.free_port()}/chirp"

    with chirp_up(data, port, CHIRP_DATABASE_URL=nowhere) as up:
        status = up.wait()
        errors = up.errors

    assert status == 1
    assert errors == "chirp: PostgreSQL does not answer: look at CHIRP_DATABASE_URL\n"
