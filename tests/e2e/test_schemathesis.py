"""What the gateway answers is what its OpenAPI document says, whatever is asked: no 5xx, no answer
outside the document, no word of SQL, a stack, a host or a path.

Schemathesis makes the requests and runs all of its checks but these:

    unsupported_method        a wrong method on a known path is 404 here, and not 405
    negative_data_rejection   unknown fields of a body are ignored, and a number may come for a
                              string, as Envoy's transcoder reads JSON
    positive_data_acceptance  which cursors, places, tags and texts are good is more than a schema
                              can say; that they are refused with 400 is what other tests show

Operations that are left out: streams, whose answers have no end, and what ends the caller's session
or account, after which every other answer would be 401.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ops import gateway
from tests.e2e import people
from tests.e2e.chirp_up import ChirpUp
from tests.e2e.people import Person

# `make soak` asks for more: with 75 it is over 20,000 cases.
EXAMPLES = int(os.environ.get("CHIRP_TEST_HOSTILE", "1")) * 8
CASES_MIN = 400
LEFT_OUT_CHECKS = "unsupported_method,negative_data_rejection,positive_data_acceptance"
STREAMS = "Stream"
ENDS_THE_CALLER = "DeleteSessions|DeleteCurrentSession|DeleteMe"
LEAKS = re.compile(
    r"psycopg|SELECT .* FROM|INSERT INTO|Traceback|File \"|redis\.|127\.0\.0\.1|localhost|/home/"
    r"|/root/|/tmp/|\.py\b|grpc_status|upstream connect",
    re.IGNORECASE,
)
pytestmark = pytest.mark.timeout(1_800 if EXAMPLES > 8 else 120)


def attacked(up: ChirpUp, folder: Path, *arguments: str) -> list[tuple[int, str]]:
    """Runs Schemathesis; returns status and body of every answer.

    By one worker: two that parse Python at once confuse Python 3.11, which counts nested nodes for
    all threads together ("AST constructor recursion depth mismatch", gh-106905).
    """
    trace = folder / "events.ndjson"
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "st"), "run", str(gateway.DOCUMENT),
            "--url", up.url, "--no-color", "--workers", "1", "--seed", "1",
            "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES),
            "--exclude-checks", LEFT_OUT_CHECKS, "--request-timeout", "10", "--no-shrink",
            "--report", "har", "--report-har-path", str(trace), *arguments,
        ],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    entries = json.loads(trace.read_text())["log"]["entries"]
    answers = [(e["response"]["status"], e["response"]["content"].get("text", "")) for e in entries]
    assert len(answers) >= CASES_MIN
    return answers


def assert_nothing_leaks(answers: list[tuple[int, str]]) -> None:
    for status, body in answers:
        assert status < 500, body
        if status >= 400:
            assert not LEAKS.search(body), body


def test_whoever_is_signed_in_gets_what_the_document_says(unlimited: ChirpUp, tmp_path: Path):
    with httpx.Client(base_url=unlimited.url) as client:
        caller: Person = people.sign_up(client, "signed_in")

    answers = attacked(
        unlimited, tmp_path,
        "--header", f"Authorization: Bearer {caller.token}",
        "--exclude-operation-id-regex", f"{STREAMS}|{ENDS_THE_CALLER}",
    )  # fmt: skip

    assert_nothing_leaks(answers)
    assert {200, 400, 404} <= {status for status, _ in answers}


def test_nobody_gets_what_the_document_says(unlimited: ChirpUp, tmp_path: Path):
    answers = attacked(unlimited, tmp_path, "--exclude-operation-id-regex", STREAMS)

    assert_nothing_leaks(answers)
    assert {200, 400, 401, 404} <= {status for status, _ in answers}
