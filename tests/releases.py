"""The release before this one: the code as it was before the last change of what processes are made
of, run as processes of its own."""

import asyncio
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.settings import Settings
from ops import embedded, probes, processes
from ops.children import Child, ChildSpec
from ops.processes import ProcessKind

ROOT = Path(__file__).resolve().parent.parent
CODE = ("domain", "eventlog", "gen", "mesh", "servers", "storage", "workers")
"""What processes are made of; `ops`, tests and documents are not."""

STOP_S = 15.0


def unpack(folder: Path) -> str:
    """Puts the release before into a folder, or the commit that CHIRP_RELEASE_BEFORE names; returns
    the commit. Skips the test, and says why, where there is none: no repository, a clone of one
    commit, other packages."""
    newest = _git("log", "--first-parent", "-1", "--format=%H", "--", *CODE)
    if not newest:
        pytest.skip("this code is in no git repository: the release before it is not known")
    # What is not committed yet comes after the newest commit.
    before = newest if _git("status", "--porcelain", "--", *CODE) else f"{newest}^1"
    commit = os.environ.get("CHIRP_RELEASE_BEFORE", before)
    archive = _run("archive", "--format=tar", commit, "pyproject.toml", *CODE)
    if archive.returncode != 0:
        pytest.skip("this clone is shallow: it lacks the release before; `git fetch --unshallow`")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    project: Any = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    missing = [name for name in map(_name, project["dependencies"]) if not _is_installed(name)]
    if missing:
        pytest.skip(f"the release before needs packages that are not here: {', '.join(missing)}")
    return _git("rev-parse", commit)


@asynccontextmanager
async def running(
    folder: Path, settings: Settings, ports: Mapping[ProcessKind, int]
) -> AsyncGenerator[dict[str, Child]]:
    """Runs processes of that release, by their names; logs are beside its code."""
    told = {name: getattr(settings, name) for name in settings.model_fields_set}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CHIRP_")},
        **{f"CHIRP_{name.upper()}": str(value) for name, value in told.items()},
        # Before the packages of this interpreter, of which one may be this release.
        "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'gen'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    children: dict[str, Child] = {}
    try:
        for kind, port in ports.items():
            listen = f"127.0.0.1:{port}"
            spec = ChildSpec(
                name=kind.name,
                # `-P`: the folder of this process is this release's.
                command=[sys.executable, "-P", *processes.process_command(kind, "")[1:]],
                environment={
                    **environment,
                    "CHIRP_LISTEN": listen,
                    "CHIRP_METRICS_LISTEN": f"127.0.0.1:{embedded.free_port()}",
                },
                log=log_of(folder, kind.name),
                # As a whole: it does not know the services that are new.
                ready=lambda listen=listen: probes.grpc_serving(listen),
                stop_within_s=STOP_S,
            )
            children[kind.name] = Child(spec, print)
        async with asyncio.TaskGroup() as starting:
            for child in children.values():
                starting.create_task(child.start())
        yield children
    finally:
        await asyncio.gather(*(child.stop() for child in children.values()))


def log_of(folder: Path, name: str) -> Path:
    """Where a process writes its log."""
    return folder / f"{name}.log"


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found.group()


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _git(*arguments: str) -> str:
    return _run(*arguments).stdout.decode().strip()


def _run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        # Whoever owns the clone: a container's root, often.
        command = ["git", "-c", "safe.directory=*", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, b"", b"")
