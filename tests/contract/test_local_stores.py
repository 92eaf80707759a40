"""The stores of `chirp up` answer by their sockets, where the folder's name allows it, and by their
ports."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops import embedded, embedded_postgres, probes
from ops.embedded_postgres import Install
from tests import stores

NAMES = ["plain", "a b %20 ?x=1#y@:"]
LONG = "long" * 30
PASSWORD = "secret"


class Base:
    """A folder for stores, and in it one of PostgreSQL's, which takes long to make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._postgres = folder / "first"
        embedded_postgres.prepare(self._postgres)

    def postgres(self, name: str) -> Install:
        """PostgreSQL in a folder of this name."""
        self._postgres = self._postgres.rename(self.folder / name)
        return embedded_postgres.prepare(self._postgres)


@pytest.fixture(scope="module")
def base() -> Generator[Base]:
    # /tmp and not pytest's own folder, which PostgreSQL's account cannot enter.
    with tempfile.TemporaryDirectory(prefix="chirp-stores-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield Base(path)


@pytest.mark.parametrize(
    ("name", "by_socket"),
    [*((name, True) for name in NAMES), ('"quoted"', True), ("a,b", False), (LONG, False)],
)
def test_postgres_answers_by_its_socket_and_its_port(base: Base, name: str, by_socket: bool):
    port = embedded.free_port()
    install = base.postgres(name)
    local = install.local_url(port)
    command = install.command(port, durable=False)
    with stores.running(command, install.account):
        wait_until(lambda: probes.postgres_answers(local))
        assert server_address(install.url(port)) == "127.0.0.1"
        assert server_address(local) == (None if by_socket else "127.0.0.1")
        assert any(install.data.glob(".s.PGSQL.*")) == by_socket


def test_sockets_that_a_killed_postgres_left_are_removed(base: Base):
    install = base.postgres("killed")
    for left in (".s.PGSQL.20000", ".s.PGSQL.20000.lock"):
        (install.data / left).touch()

    base.postgres("killed")

    assert not list(install.data.glob(".s.PGSQL.*"))


@pytest.mark.parametrize(
    ("name", "by_socket"), [*((name, True) for name in NAMES), ("a,b", True), (LONG, False)]
)
def test_valkey_answers_by_its_socket_and_its_port(base: Base, name: str, by_socket: bool):
    folder, port = base.folder / f"valkey {name}", embedded.free_port()
    local = embedded.valkey_local_url(folder, port, PASSWORD)
    command = embedded.valkey_command(folder, port, PASSWORD, cache=True)
    with stores.running(command):
        wait_until(lambda: probes.valkey_answers(local))
        assert asyncio.run(probes.valkey_answers(embedded.valkey_url(port, PASSWORD)))
        assert local.startswith("unix:") == by_socket


def server_address(url: str) -> str | None:
    """Returns where PostgreSQL says that the connection came in, None: by a socket."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT host(inet_server_addr())").fetchone()
        assert row is not None
        return row[0]


def wait_until(answers: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    deadline = time.monotonic() + 20
    while not asyncio.run(answers()):
        assert time.monotonic() < deadline, "it does not start"
        time.sleep(0.02)
