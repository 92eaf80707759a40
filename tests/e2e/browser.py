"""A headless Chromium, spoken to through two pipes: no port, no driver, no further package."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

TIMEOUT_S = 30.0
NAMES = ("chromium", "chromium-browser", "google-chrome")
# The browser reads commands from descriptor 3 and writes to 4.
PIPED = """
import os, sys
commands, events = map(int, sys.argv[1:3])
events = os.dup(events) if events == 3 else events
for here, there in ((commands, 3), (events, 4)):
    os.dup2(here, there)
    os.set_inheritable(there, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
REQUIRED = "CHIRP_TEST_REQUIRES_BROWSER"


def find() -> str | None:
    """Returns the path of a Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a browser, by the DevTools protocol."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands = commands
        self._events = events
        self._number = 0
        self._read = b""
        self._session = ""

    def open(self, url: str) -> None:
        """Opens a page, and waits until it is there."""
        target = self._call("Target.createTarget", {"url": url})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        self.wait_for(f"document.readyState == 'complete' && location.href == {json.dumps(url)}")

    def run(self, script: str) -> Any:
        """Runs JavaScript in the page; returns what it gives."""
        answer = self._call("Runtime.evaluate", {"expression": script, "returnByValue": True})
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Waits until JavaScript gives something true; returns it."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"{script} stays {value}"
            time.sleep(0.05)
        return value

    def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._events], [], [], deadline - time.monotonic())
            assert ready, "the browser says nothing"
            more = os.read(self._events, 65_536)
            assert more, "the browser has gone"
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)


@contextmanager
def opened(path: str) -> Generator[Page]:
    """Starts a browser with a profile of its own; ends it on leaving."""
    read_commands, write_commands = os.pipe()
    read_events, write_events = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chirp-browser-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", PIPED, str(read_commands), str(write_events), path,
             "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe",
             f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(read_commands, write_events),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_commands)
        os.close(write_events)
        try:
            yield Page(write_commands, read_events)
        finally:
            os.close(write_commands)  # it ends when nobody commands it
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(read_events)
