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
from tests import stores

NAMES = ["plain", "a b %20 ?x=1#y@:"]
LONG = "long" * 30
PASSWORD = "secret"


@pytest.fixture
def base() -> Generator[Path]:
    # /tmp and not pytest's own folder, which PostgreSQL's account cannot enter.
    with tempfile.TemporaryDirectory(prefix="chirp-stores-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.mark.parametrize(
    ("name", "by_socket"),
    [*((name, True) for name in NAMES), ('"quoted"', True), ("a,b", False), (LONG, False)],
)
def test_postgres_answers_by_its_socket_and_its_port(base: Path, name: str, by_socket: bool):
    port = embedded.free_port()
    install = embedded_postgres.prepare(base / name)
    local = install.local_url(port)
    command = install.command(port, durable=False)
    with stores.running(command, install.account):
        wait_until(lambda: probes.postgres_answers(local))
        assert server_address(install.url(port)) == "127.0.0.1"
        assert server_address(local) == (None if by_socket else "127.0.0.1")
        assert any(install.data.glob(".s.PGSQL.*")) == by_socket


def test_sockets_that_a_killed_postgres_left_are_removed(base: Path):
    install = embedded_postgres.prepare(base)
    for left in (".s.PGSQL.20000", ".s.PGSQL.20000.lock"):
        (install.data / left).touch()

    embedded_postgres.prepare(base)

    assert not list(install.data.glob(".s.PGSQL.*"))


@pytest.mark.parametrize(
    ("name", "by_socket"), [*((name, True) for name in NAMES), ("a,b", True), (LONG, False)]
)
def test_valkey_answers_by_its_socket_and_its_port(base: Path, name: str, by_socket: bool):
    folder, port = base / name, embedded.free_port()
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
