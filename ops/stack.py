"""How the command line finds a running stack: `chirp up` writes `stack.json` into its data folder,
`chirp load`, `verify`, `token`, `restart` and others read it.

    {"process_id": 123, "gateway": "http://127.0.0.1:8080", "gateway_admin": "http://...",
     "settings": {"CHIRP_DATABASE_URL": "...", ...}}

What the environment sets comes first, so the same commands work on outside services. The file holds
passwords, so its owner alone may read it, and it goes when the stack stops.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mesh import settings as settings_module
from mesh.settings import Settings
from ops import probes

STACK_FILE = "stack.json"
NONE_RUNS = "no stack runs here: start `chirp up` (with the same CHIRP_DATA)"


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack."""

    process_id: int
    gateway: str
    """The URL of the gateway."""
    gateway_admin: str
    """The URL of Envoy's admin page."""
    settings: Mapping[str, str]
    """Where everything is, as environment variables."""
    ports: Mapping[str, Sequence[int]]
    """Where the replicas of each server and worker listen."""
    metrics_ports: Mapping[str, Sequence[int]]
    """Where they answer `GET /metrics`."""
    restarts: int = 0
    """How often all replicas were restarted, one after the other, or it was tried."""
    restart_problem: str = ""
    """What went wrong the last time; empty where nothing did."""
    child_restarts: Mapping[str, int] = field(default_factory=dict[str, int])
    """How often each process (`tweet_server-1`, `gateway`, `postgres`) died by itself and was
    started again. What runs elsewhere is not named."""


def settings() -> Settings:
    """Returns the settings of the running stack, under those of the environment; where no stack
    runs, those of the environment alone. Exits with one clear line where a value is wrong."""
    loaded = settings_module.load()
    stack = read(loaded.data)
    if stack is None:
        return loaded
    told: dict[str, Any] = {
        name.removeprefix("CHIRP_").lower(): value
        for name, value in stack.settings.items()
        if name not in os.environ
    }
    return Settings(**told)


def running() -> Settings:
    """Returns `settings()` once PostgreSQL answers; exits with one clear line where it does not."""
    found = settings()
    if not asyncio.run(probes.postgres_answers(found.database_url)):
        raise SystemExit(
            "chirp: PostgreSQL does not answer: start `chirp up` (with the same CHIRP_DATA),"
            " or set CHIRP_DATABASE_URL and the other addresses"
        )
    return found


def gateway_url() -> str:
    """Returns the URL of the gateway: the running stack's, else by CHIRP_PORT on this machine."""
    loaded = settings_module.load()
    stack = read(loaded.data)
    return stack.gateway if stack else f"http://127.0.0.1:{loaded.port}"


def read(data: Path) -> Stack | None:
    """Returns the stack that runs with a data folder; None where none does."""
    try:
        stack = Stack(**json.loads((data / STACK_FILE).read_text()))
        os.kill(stack.process_id, 0)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return None
    except PermissionError:
        raise SystemExit(
            f"chirp: {data / STACK_FILE} is another user's: run this as the user of `chirp up`"
        ) from None
    return stack


def write(data: Path, stack: Stack) -> None:
    """Writes the file whole; readers see the old one or the new one."""
    partial = data / f"{STACK_FILE}.partial"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(stack), file, indent=1)
    partial.replace(data / STACK_FILE)


def remove(data: Path) -> None:
    """Removes the file when the stack stops."""
    with suppress(FileNotFoundError):
        (data / STACK_FILE).unlink()
