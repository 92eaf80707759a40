"""Whatever bytes come, servers answer clearly, stay up, and keep no memory of it."""

import os
import time
from pathlib import Path

import httpx
import pytest

from mesh.access import CALLERS, RULES, Access
from mesh.settings import Settings
from ops import mint
from ops.processes import KINDS
from tests.e2e import hostile_bytes, people
from tests.e2e.chirp_up import ChirpUp
from tests.e2e.hostile_bytes import Target

# `make soak` asks for more.
CASES = int(os.environ.get("CHIRP_TEST_HOSTILE", "1")) * 6
GROWN_MAX_MB = 24
WITHIN_S = 10.0
# They end the caller's session, or the caller.
LAST = ("DeleteSessions", "DeleteCurrentSession", "DeleteMe")
SERVERS = [kind.name for kind in KINDS if kind.name.endswith("_server")]


async def targets_of(up: ChirpUp) -> list[Target]:
    ports = up.stack().ports
    addresses = [f"127.0.0.1:{ports[name][0]}" for name in SERVERS]
    found = [each for address in addresses for each in await hostile_bytes.methods_of(address)]
    assert {"CreateTweet", "GetHomeTimeline", "ListFollowerIds"} <= {t.method.name for t in found}
    return found


def memory_mb(up: ChirpUp) -> dict[str, float]:
    used: dict[str, float] = {}
    for name in SERVERS:
        process_id = up.child(f"servers.{name}")
        pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
        used[f"{name} {process_id}"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return used


@pytest.mark.timeout(1_800 if CASES > 6 else 120)
async def test_no_bytes_break_a_server(unlimited: ChirpUp) -> None:
    targets = await targets_of(unlimited)
    harmless = [each for each in targets if each.method.name not in LAST]
    with httpx.Client(base_url=unlimited.url, timeout=WITHIN_S) as client:
        token = people.sign_up(client, "hostile").token
    keys = Settings(keys=unlimited.data / "keys")

    def of_those_let_in(target: Target) -> list[str | None]:
        if RULES[target.path] is Access.SERVICE:
            return [mint.service_token(keys, sorted(CALLERS[target.path])[0])]
        return [token]

    def of_all(target: Target) -> list[str | None]:
        return [None, token, *of_those_let_in(target)]

    # Caches fill at first.
    await hostile_bytes.attack(harmless, of_those_let_in, cases=CASES, seed=1)
    before = memory_mb(unlimited)

    tally = await hostile_bytes.attack(harmless, of_all, cases=CASES, seed=2)
    last = await hostile_bytes.attack(targets, of_those_let_in, cases=2, seed=3)

    assert tally.wrong + last.wrong == []
    assert {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "CANCELLED"} <= set(tally.codes)
    after = memory_mb(unlimited)
    assert after.keys() == before.keys(), "a server was started anew"
    grown = {name: after[name] - before[name] for name in before}
    assert max(grown.values()) < GROWN_MAX_MB, grown
    deadline = time.monotonic() + WITHIN_S
    while unlimited.health() != 200:
        assert time.monotonic() < deadline
