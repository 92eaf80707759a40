"""What a line of a log says, and what it cannot say."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mesh import logs, requests

ROW = "Failing row contains (1, planted words)"
HOSTILE = 'ends"here\n{"level": "ERROR"}\r\u2028\x1b[31m'
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def _levels_as_they_were() -> Iterator[None]:
    yield
    for name in ("servers", "mesh.rpc", "redis"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name in logs.OWN:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log-levels"


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("mesh.rpc", logging.WARNING, __file__, 1, message, (), info)


def raised() -> psycopg.Error:
    try:
        # By a name: a traceback shows the line of the source.
        raise psycopg.errors.CheckViolation(ROW)
    except psycopg.Error as error:
        return error


def level(name: str) -> int:
    return logging.getLogger(name).getEffectiveLevel()


def test_a_line_is_one_json_object_whatever_it_says():
    line = logs.JsonLines("tweet_server").format(record(HOSTILE))

    assert line.isascii()
    assert line.isprintable()
    said = json.loads(line)
    assert said["message"] == HOSTILE
    assert said["time"].endswith("Z")
    assert (said["level"], said["process"], said["logger"]) == (
        "WARNING",
        "tweet_server",
        "mesh.rpc",
    )
    assert "request_id" not in said


@pytest.mark.parametrize("formatter", [logs.JsonLines("p"), logs.Text("p")])
def test_an_error_is_told_without_the_rows_of_the_database(formatter: logging.Formatter):
    line = formatter.format(record("it failed", raised()))

    assert "CheckViolation" in line
    assert "in raised" in line
    assert "planted" not in line


@pytest.mark.parametrize("formatter", [logs.JsonLines("p"), logs.Text("p")])
def test_a_line_names_the_request_that_it_is_about(formatter: logging.Formatter):
    requests.begin((("x-request-id", "abc-123"),))

    assert "abc-123" in formatter.format(record("slow"))


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-{'1' * 16}-01", TRACE),
        (f"00-{TRACE}-{'1' * 16}-00", TRACE),
        (f"00-{TRACE.upper()}-{'1' * 16}-01", None),
        (f"00-{'0' * 32}-{'1' * 16}-01", None),
        (f"00-{TRACE}-{'1' * 16}-01-more", None),
        ("", None),
    ],
)
def test_a_line_names_the_trace_that_its_request_belongs_to(traceparent: str, trace_id: str | None):
    requests.begin(((requests.TRACE_HEADER, traceparent),))

    said = json.loads(logs.JsonLines("tweet_server").format(record("hello")))

    assert said.get("trace_id") == trace_id


def test_a_text_cannot_look_like_another_line():
    first, *more = logs.Text("p").format(record("one\n2026-11-21 forged")).splitlines()

    assert first.endswith("mesh.rpc: one")
    assert all(line.startswith("    ") for line in more)


def test_a_message_is_cut():
    line = logs.JsonLines("p").format(record("x" * 100_000))

    assert len(json.loads(line)["message"]) == logs.MESSAGE_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("7d7a4dfc-9a0c-4f5e-8d0e-0f3f2b1f7c11", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("-a", False),
        ("a b", False),
        ('a"', False),
        ("a\n", False),
        ("é", False),
    ],
)
def test_an_id_is_taken_from_the_caller_only_where_it_looks_like_one(given: str, kept: bool):
    request = requests.Request((("other", "x"), ("x-request-id", given)))

    assert (request.id == given) == kept
    assert request.id == request.id, "a new one stays"
    assert 1 <= len(request.id) <= 64


def test_a_file_sets_levels_changes_them_and_takes_them_back(file: Path):
    levels = logs.Levels(file)
    file.write_text("# tuned\nservers DEBUG\nmesh.rpc error  # quieter\n")
    levels.read()
    assert (level("servers.home_log"), level("mesh.rpc")) == (logging.DEBUG, logging.ERROR)

    file.write_text("chirp DEBUG\n")
    levels.read()
    assert {level(name) for name in logs.OWN} == {logging.DEBUG}
    assert level("mesh.rpc") == logging.DEBUG

    file.unlink()
    levels.read()
    assert {level(name) for name in (*logs.OWN, "mesh.rpc")} == {logging.getLogger().level}


@pytest.mark.parametrize(
    "line", ["redis DEBUG", "root DEBUG", "servers LOUD", "servers", "a b c", "\x00 INFO x"]
)
def test_what_means_nothing_or_says_too_much_is_left_out(
    file: Path, line: str, caplog: pytest.LogCaptureFixture
):
    file.write_text(f"{line}\nservers DEBUG\n")

    logs.Levels(file).read()

    assert level("redis") == logging.getLogger().level > logging.DEBUG
    assert level("servers") == logging.DEBUG
    assert "line 1 " in caplog.text


def test_on_a_terminal_lines_are_for_people_and_else_for_machines(
    monkeypatch: pytest.MonkeyPatch,
):
    root = logging.getLogger()
    before, before_level = root.handlers[:], root.level
    # Not `begin`'s to close: pytest's own.
    root.handlers = []
    try:
        for is_terminal, format_, expected in (
            (True, "auto", logs.Text),
            (False, "auto", logs.JsonLines),
            (False, "text", logs.Text),
            (True, "json", logs.JsonLines),
        ):
            monkeypatch.setattr(sys.stderr, "isatty", lambda told=is_terminal: told)
            logs.begin("p", format_)  # pyright: ignore[reportArgumentType]
            assert isinstance(root.handlers[0].formatter, expected)
    finally:
        root.handlers = before
        root.setLevel(before_level)
