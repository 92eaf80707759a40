"""A Valkey of a test's own, that it may stop and start again."""

import asyncio
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import redis.asyncio
import redis.exceptions

from ops import embedded

PASSWORD = "its own secret"
START_TIMEOUT_S = 10.0


class OwnValkey:
    """A cache Valkey on a port of its own; empty whenever it starts."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are those of Valkey that the cache does not have."""
        self._port = embedded.free_port()
        self._folder = folder
        self._command = embedded.valkey_command(folder, self._port, PASSWORD, cache=True)
        for name, value in (settings or {}).items():
            self._command += (f"--{name}", value)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return embedded.valkey_url(self._port, PASSWORD)

    @property
    def local_url(self) -> str:
        """By its socket."""
        return embedded.valkey_local_url(self._folder, self._port, PASSWORD)

    @property
    def port(self) -> int:
        return self._port

    async def start(self) -> None:
        self._launch()
        deadline = time.monotonic() + START_TIMEOUT_S
        async with redis.asyncio.Redis.from_url(self.url) as valkey:
            while True:
                try:
                    await valkey.ping()
                    return
                except redis.exceptions.ConnectionError:
                    assert time.monotonic() < deadline, "Valkey does not start"
                    await asyncio.sleep(0.01)

    def _launch(self) -> None:
        self._process = subprocess.Popen(
            self._command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    async def command(self, *words: str | int) -> Any:
        """Carries out a command; answers as Valkey does."""
        async with redis.asyncio.Redis.from_url(self.url) as valkey:
            valkey.response_callbacks.clear()
            return await cast(Any, valkey.execute_command(*words))

    def freeze(self) -> None:
        """It keeps its connections, and answers nothing any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Takes `freeze` back."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """As a crash: at once, nothing kept."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None


@asynccontextmanager
async def own_valkey() -> AsyncGenerator[OwnValkey]:
    with tempfile.TemporaryDirectory(prefix="chirp-valkey-") as folder:
        valkey = OwnValkey(Path(folder))
        await valkey.start()
        try:
            yield valkey
        finally:
            valkey.stop()
