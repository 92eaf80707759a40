"""The real PostgreSQL and the two real Valkeys of a test run, started once, stopped at the end; and
which files run in one process."""

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
import redis.asyncio
import redis.exceptions
from xdist.scheduler import LoadFileScheduling

from mesh import keys
from mesh.settings import Settings
from ops import embedded, embedded_postgres
from storage import database
from tests import ports, stores

START_TIMEOUT_S = 20.0

# Files whose tests share a stack (tests/e2e/conftest.py), which takes long to start.
TOGETHER = {
    f"tests/e2e/test_{file}.py": stack
    for stack, files in {
        "shared": (
            "live",
            "live_breaks",
            "main_path",
            "prometheus",
            "secrets",
            "status_command",
            "texts",
            "up",
        ),
        "unlimited": ("hostile_bytes", "schemathesis"),
    }.items()
    for file in files
}

embedded.choose_ports(ports.OWN)
_numbers = itertools.count(1)


class Scheduling(LoadFileScheduling):
    """Gives a process a file at a time, and files that share a stack together."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Tells xdist, where tests run in several processes."""
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def backing() -> Iterator[Settings]:
    """Settings that point at a fresh PostgreSQL (migrated template), cache and event log."""
    with ExitStack() as stack:
        # /tmp and not pytest's own folder, which PostgreSQL's account cannot enter.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chirp-test-")))
        folder.chmod(0o755)
        install = embedded_postgres.prepare(folder / "postgres")
        port = embedded.free_port()
        stack.enter_context(stores.running(install.command(port, durable=False), install.account))
        cache_port, log_port = embedded.free_port(), embedded.free_port()
        for name, valkey_port in (("cache", cache_port), ("eventlog", log_port)):
            stack.enter_context(
                stores.running(
                    embedded.valkey_command(
                        folder / name, valkey_port, "secret", cache=name == "cache"
                    )
                )
            )
        settings = Settings(
            database_url=install.url(port),
            valkey_url=embedded.valkey_url(cache_port, "secret"),
            eventlog_url=embedded.valkey_url(log_port, "secret"),
            keys=folder / "keys",
            listen="127.0.0.1:0",
            drain_delay_s=0,
            drain_grace_s=1,
            outbox_poll_ms=5,
            # A busy machine is no failure: tests say what is right, benches how fast it is.
            deadline_factor=10,
            database_timeout_s=20,
            # Tests do in seconds what people do in days. Those of the limits turn them on.
            rate_limits=False,
        )
        keys.ensure_keys(settings)
        asyncio.run(_until_answering(settings))
        asyncio.run(database.migrate(settings.database_url))
        yield settings


@pytest_asyncio.fixture
async def settings(backing: Settings) -> AsyncGenerator[Settings]:
    """The settings of one test: a database cloned from the template, an empty cache and log."""
    async with fresh_settings(backing) as fresh:
        yield fresh


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_settings(backing: Settings) -> AsyncGenerator[Settings]:
    """The same for all tests of a module, which share one world and use accounts of their own."""
    async with fresh_settings(backing) as fresh:
        yield fresh


@pytest.fixture
def settings_sync(backing: Settings) -> Iterator[Settings]:
    """The same for a test that runs an event loop of its own."""
    with asyncio.Runner() as runner:
        context = fresh_settings(backing)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


@asynccontextmanager
async def fresh_settings(backing: Settings) -> AsyncGenerator[Settings]:
    """A database cloned from the template, an empty cache and log: of one test, or of a module
    whose tests share them."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    base = backing.database_url.rsplit("/", 1)[0]
    async with await psycopg.AsyncConnection.connect(
        f"{base}/postgres", autocommit=True
    ) as connection:
        # Half the time of the default, which writes each page to the log that nobody keeps here.
        await connection.execute(
            f'CREATE DATABASE "{name}" TEMPLATE chirp STRATEGY FILE_COPY'.encode()
        )
        for url in (backing.valkey_url, backing.eventlog_url):
            async with redis.asyncio.Redis.from_url(url) as valkey:
                await valkey.flushall()
        try:
            yield backing.model_copy(update={"database_url": f"{base}/{name}"})
        finally:
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


async def _until_answering(settings: Settings) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    for url in (settings.valkey_url, settings.eventlog_url):
        async with redis.asyncio.Redis.from_url(url) as valkey:
            while True:
                try:
                    await valkey.ping()
                    break
                except redis.exceptions.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.02)
    while True:
        try:
            await (await psycopg.AsyncConnection.connect(settings.database_url)).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
