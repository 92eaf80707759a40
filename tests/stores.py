"""Runs a store as a child of the tests."""

import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

from ops.embedded_postgres import Account


@contextmanager
def running(
    command: list[str], account: Account | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """Runs PostgreSQL, as this account, or a Valkey; ends it in the end."""
    process = subprocess.Popen(
        command,
        cwd="/",
        user=account.user if account else None,
        group=account.group if account else None,
        extra_groups=[] if account and account.user is not None else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL: fast shutdown; Valkey: stop
        process.wait(timeout=20)
