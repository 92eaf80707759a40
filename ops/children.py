"""Supervision of child processes: start, wait until ready, restart with back-off, stop.

A child writes to its log file by itself, so that nothing it says is lost when the supervisor is
killed, and a slow supervisor never blocks it. It runs in a session of its own (a terminal's Ctrl-C
reaches the supervisor only, which stops its children in order) and on a leash (`ops/leash.py`).
"""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops import leash

START_TIMEOUT_S = 40.0  # several times what a loaded laptop needs; within the 60 s of `chirp up`
PROBE_PAUSE_S = 0.05

RESTART_DELAY_S = 0.5
RESTART_DELAY_MAX_S = 30.0
STEADY_AFTER_S = 60.0  # a child that lived so long starts again from the shortest delay

LOG_BYTES_MAX = 20_000_000  # and as much again in NAME.log.1
TAIL_LINES = 8
TAIL_BYTES = 4_096

Say = Callable[[str], None]


class StartError(Exception):
    """Something could not be started. The text is one line: which, why, and what to set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What a child is and how it is treated."""

    name: str
    command: Sequence[str]
    """The program by its full path, and its arguments."""
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[], Coroutine[Any, Any, bool]]
    """Whether it does its work; asked until it says yes."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within_s: float
    """Killed when it takes longer."""
    kill_signal: signal.Signals = signal.SIGKILL
    orphan_signal: signal.Signals = signal.SIGKILL
    """What it gets when the supervisor dies without stopping it."""
    user: int | None = None
    group: int | None = None
    keep_open: tuple[int, ...] = field(default=())
    """File descriptors that it inherits."""


def restart_delay_s(
    failures: int, jitter: float, delay_max_s: float = RESTART_DELAY_MAX_S
) -> float:
    """Returns how long to wait before a restart, after so many deaths in a row (from 1).

    Doubles up to `delay_max_s`; `jitter` (0 to 1) takes up to half of it off, so that children
    that died together do not come back together."""
    delay_s = min(delay_max_s, RESTART_DELAY_S * 2 ** min(failures - 1, 16))
    return delay_s * (1 - jitter / 2)


class Child:
    """One supervised process."""

    def __init__(
        self,
        spec: ChildSpec,
        say: Say,
        *,
        restart_delay_max_s: float = RESTART_DELAY_MAX_S,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._spec = spec
        self._say = say
        self._on_restart = on_restart
        self.restarts = 0
        """How often it died by itself and was started again."""
        self._delay_max_s = restart_delay_max_s
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._log_start = 0

    @property
    def name(self) -> str:
        """Its name."""
        return self._spec.name

    @property
    def process_id(self) -> int | None:
        """The process id of the running child."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts the child, waits until it is ready, then supervises it. Raises StartError where
        it dies before, or is not ready in time."""
        await self._spawn()
        died = await self._until_ready_or_dead()
        if died:
            raise StartError(f"{self.name} {died}.{self._last_words()}")
        self._supervision = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Stops the child; kills it where it takes too long. Safe at any time, also again."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        _send(process, self._spec.stop_signal)
        try:
            async with asyncio.timeout(self._spec.stop_within_s):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    async def restart(self) -> None:
        """Stops the child and starts it again; returns when it is ready. Raises StartError."""
        await self.stop()
        await self.start()

    def kill(self) -> None:
        """Ends the child at once."""
        if self._supervision is not None:
            self._supervision.cancel()
        if self._process is not None and self._process.returncode is None:
            _send(self._process, self._spec.kill_signal)

    def trim_log(self) -> None:
        """Moves a log that is too long into NAME.log.1. What is written meanwhile may be lost."""
        if trim_log(self._spec.log):
            self._log_start = 0

    async def _spawn(self) -> None:
        spec = self._spec
        with spec.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", leash.__file__,
                str(int(spec.orphan_signal)), str(os.getpid()),
                str(-1 if spec.user is None else spec.user),
                str(-1 if spec.group is None else spec.group),
                *spec.command,
                env=dict(spec.environment),
                cwd="/",  # another user need not be able to enter ours
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=spec.keep_open,
            )  # fmt: skip

    async def _until_ready_or_dead(self) -> str:
        # Returns "" when ready, else what went wrong.
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.returncode is None:
            if await self._spec.ready():
                return ""
            if time.monotonic() > deadline:
                return f"was not ready within {START_TIMEOUT_S:.0f} s"
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_PAUSE_S):
                    await self._process.wait()
        return f"died at start ({_how(self._process.returncode)})"

    async def _supervise(self) -> None:
        failures = 0
        assert self._process is not None
        while True:
            born = time.monotonic()
            code = await self._process.wait()
            failures = 1 if time.monotonic() - born > STEADY_AFTER_S else failures + 1
            jitter = random.random()  # noqa: S311 -- not a secret
            delay_s = restart_delay_s(failures, jitter, self._delay_max_s)
            self._say(
                f"{self.name} died ({_how(code)}); starting it again in {delay_s:.1f} s."
                f" Its log: {self._spec.log}"
            )
            await asyncio.sleep(delay_s)
            await self._spawn()
            self.restarts += 1
            self._on_restart()
            problem = await self._until_ready_or_dead()
            if not problem:
                self._say(f"{self.name} runs again")
            elif self._process.returncode is None:
                self._say(f"{self.name} {problem}. Its log: {self._spec.log}")

    def _last_words(self) -> str:
        lines = tail(self._spec.log, self._log_start)
        if not lines:
            return f" It said nothing in {self._spec.log}"
        return f" The end of {self._spec.log}:\n" + "\n".join(f"    {line}" for line in lines)


def tail(log: Path, start: int) -> list[str]:
    """Returns the last lines of a log, from the byte `start` on."""
    with log.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(start, end - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]


def trim_log(log: Path) -> bool:
    """Moves a log that is too long aside; says whether it did.

    The writer keeps its file open in append mode, so it is copied and emptied, not renamed."""
    if not log.exists() or log.stat().st_size <= LOG_BYTES_MAX:
        return False
    shutil.copyfile(log, log.with_suffix(".log.1"))
    with log.open("r+b") as file:
        file.truncate(0)
    return True


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not process.send_signal(): it waits for the child too, and takes its exit status away from
    # the event loop's own waiting.
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
