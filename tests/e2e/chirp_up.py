"""A real `chirp up` in a data folder of its own, for tests: start, look, signal, stop."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from ops import embedded, embedded_postgres, probes, stack
from tests import ports

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 60.0
POLL_S = 0.05


class ChirpUp:
    """One `chirp up`. What it prints goes to files beside the data folder."""

    def __init__(self, data: Path, port: int, *arguments: str, **environment: str) -> None:
        self.data = data
        self.url = f"http://127.0.0.1:{port}"
        self._files = Path(tempfile.mkdtemp(prefix="chirp-up-"))
        with (self._files / "out").open("wb") as out, (self._files / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ops.cli", "up", *arguments],
                cwd=ROOT,
                env={
                    **plain_environment(),
                    "CHIRP_DATA": str(data),
                    "CHIRP_PORT": str(port),
                    "CHIRP_SAMPLE": "0",
                    # A busy machine is no failure.
                    "CHIRP_DEADLINE_FACTOR": "2",
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def output(self) -> str:
        """What it said."""
        return (self._files / "out").read_text()

    @property
    def errors(self) -> str:
        """What it complained of."""
        return (self._files / "err").read_text()

    def wait_for(self, text: str) -> None:
        """Waits until it has said something."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            ended = self.process.poll() is not None
            if text in self.output:
                return
            assert not ended, f"chirp up ended: {self.errors}"
            assert time.monotonic() < deadline, f"no {text!r} in: {self.output}"
            time.sleep(POLL_S)

    def wait_until_ready(self) -> None:
        """Waits until it serves."""
        self.wait_for("Ctrl-C stops it")

    def wait_until_whole(self) -> None:
        """Waits until every server and worker serves, and the gateway knows of it."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while missing := self._not_serving() | self.unreached():
            assert time.monotonic() < deadline, missing
            time.sleep(POLL_S)

    def unreached(self) -> set[int]:
        """The ports of the servers that the gateway does not hold for healthy."""
        described = self.stack()
        admin = urlsplit(described.gateway_admin)
        assert admin.hostname is not None and admin.port is not None
        healthy = asyncio.run(probes.healthy_ports(admin.hostname, admin.port))
        servers = [kind for kind in described.ports if kind.endswith("_server")]
        return {port for kind in servers for port in described.ports[kind]} - healthy

    def _not_serving(self) -> set[int]:
        return {
            port
            for replicas in self.stack().ports.values()
            for port in replicas
            if not asyncio.run(probes.grpc_serving(f"127.0.0.1:{port}"))
        }

    def process_at(self, port: int) -> int:
        """The process id of the server that listens at a port."""
        for child in descendants(self.process.pid):
            if "-m servers." not in command_line(child):
                continue
            environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            if f"CHIRP_LISTEN=127.0.0.1:{port}".encode() in environment:
                return child
        raise AssertionError(f"no server listens at {port}")

    def stack(self) -> stack.Stack:
        """What it says of itself."""
        described = stack.read(self.data)
        assert described is not None
        return described

    def health(self) -> int:
        """What the gateway answers on /healthz."""
        return httpx.get(f"{self.url}/healthz").status_code

    def child(self, words: str) -> int:
        """The process id of the one child whose command line has these words."""
        found = [
            process_id
            for process_id in descendants(self.process.pid)
            if words in command_line(process_id)
        ]
        assert len(found) == 1, found
        return found[0]

    def token(self, user: str) -> str:
        """An access token of an account, by `chirp token`."""
        done = run_chirp("token", user, CHIRP_DATA=str(self.data))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stops it; returns the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Waits until it ends; returns the exit status."""
        return self.process.wait(timeout=START_TIMEOUT_S)

    def close(self) -> None:
        """Ends it if it still runs, and removes what it printed."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self._files)


@contextmanager
def chirp_up(data: Path, port: int, *arguments: str, **environment: str) -> Generator[ChirpUp]:
    """Starts `chirp up` with these arguments and settings; ends it on leaving."""
    running = ChirpUp(data, port, *arguments, **environment)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def ready(*arguments: str, **environment: str) -> Generator[ChirpUp]:
    """A `chirp up` that serves, on a free port and in a data folder of its own."""
    with (
        data_folder() as data,
        chirp_up(data, embedded.free_port(), *arguments, **environment) as running,
    ):
        running.wait_until_ready()
        yield running


@contextmanager
def data_folder(mode: int = 0o755) -> Generator[Path]:
    """A folder for data; removed at the end, with what had to lie elsewhere."""
    # Not pytest's own, which PostgreSQL's account cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="chirp-data-"))
    folder.chmod(mode)
    data = folder / "data"
    try:
        yield data
    finally:
        moved = data / "postgres" / embedded_postgres.MOVED_FILE
        if moved.exists():
            shutil.rmtree(moved.read_text().strip())
        shutil.rmtree(folder)


def run_chirp(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line with these settings and no others."""
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        cwd=ROOT,
        env={**plain_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def plain_environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests, and the size of a terminal."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CHIRP_") and name not in ("COLUMNS", "LINES")
    }
    return {**kept, "CHIRP_FREE_PORTS": ports.OF_CHIRP_UP}


def descendants(process_id: int) -> list[int]:
    """The process ids of all that a process started, and what these started."""
    try:
        text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    except FileNotFoundError:
        return []
    children = [int(word) for word in text.split()]
    return children + [below for child in children for below in descendants(child)]


def command_line(process_id: int) -> str:
    """The command line of a process; empty for one that is gone."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until_gone(process_ids: list[int], within_s: float) -> None:
    """Waits until none of these processes runs."""
    deadline = time.monotonic() + within_s
    while left := [command_line(process_id) for process_id in process_ids]:
        left = [line for line in left if line]
        if not left:
            return
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(POLL_S)
