"""The event log's Valkey is killed and comes back, with its file or without it."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from eventlog import runner
from eventlog.contract import Record
from mesh.settings import Settings
from ops import embedded
from tests.integration.relays import open_pool, post, running, until, until_sent, written


class OwnValkey:
    """A Valkey of one test, that it may kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = embedded.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return embedded.valkey_url(self._port, "secret")

    def start(self) -> None:
        command = embedded.valkey_command(self._folder, self._port, "secret", cache=False)
        self._process = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        shutil.rmtree(self._folder)


@pytest.fixture
def valkey() -> Generator[OwnValkey]:
    with tempfile.TemporaryDirectory(prefix="chirp-test-") as folder:
        own = OwnValkey(Path(folder) / "eventlog")
        own.start()
        try:
            yield own
        finally:
            own.kill()


class Collector:
    """A handler that remembers payloads."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def handle(self, records: Sequence[Record]) -> None:
        self.taken += [written(record.payload) for record in records]


@asynccontextmanager
async def working(settings: Settings, handler: Collector) -> AsyncGenerator[asyncio.Task[None]]:
    async with runner.open_runner(settings, "fanout", handler) as worker:
        task = asyncio.create_task(worker.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def has_last(handler: Collector, payload: str) -> Callable[[], "asyncio.Future[bool]"]:
    async def check() -> bool:
        return handler.taken[-1:] == [payload]

    return lambda: asyncio.ensure_future(check())


@pytest.mark.parametrize("loses_all", [False, True], ids=["keeps its file", "loses its file"])
async def test_relay_and_consumers_go_on_by_themselves(
    settings: Settings, valkey: OwnValkey, loses_all: bool
) -> None:
    own = settings.model_copy(update={"eventlog_url": valkey.url, "lease_ms": 600})
    handler = Collector()
    async with open_pool(own) as pool, running(own) as relay, working(own, handler) as worker:
        await post(pool, 1, "1", "2", "3")
        await until(has_last(handler, "3"))

        valkey.kill()
        await post(pool, 1, "4", "5")
        if loses_all:
            valkey.forget()
        await asyncio.wait([relay, worker], timeout=0.5)
        assert not relay.done()
        assert not worker.done()
        valkey.start()

        await until(has_last(handler, "5"))
        await until_sent(pool)

    # At least once, and the last occurrences in order, whatever was repeated.
    assert list(dict.fromkeys(reversed(handler.taken)))[::-1] == ["1", "2", "3", "4", "5"]


async def test_the_relay_goes_on_after_postgresql_dropped_its_connections(
    settings: Settings,
) -> None:
    handler = Collector()
    async with open_pool(settings) as pool, running(settings), working(settings, handler):
        await post(pool, 1, "1")
        await until(has_last(handler, "1"))
        base = settings.database_url.rsplit("/", 1)[0]
        async with await psycopg.AsyncConnection.connect(f"{base}/postgres") as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (settings.database_url.rsplit("/", 1)[1],),
            )
        for _ in range(7):  # the test's own connections were dropped too
            with suppress(psycopg.OperationalError):
                await post(pool, 1, "2")
                break

        await until(has_last(handler, "2"))
