import json
from pathlib import Path

import pytest

from bench import http2, rows, tools, world

H2LOAD = """
finished in 42.31ms, 4727.04 req/s, 17.80MB/s
requests: 200 total, 200 started, 200 done, 200 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 771.09KB (789600) total, 2.40KB (2460) headers (space savings 93.11%), 762KB ({data}) data
"""

REDIS_BENCHMARK = """
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"LPUSHX window:__rand_int__ \1\1","423549.34","11.589","2.168","10.639","17.071","20.063","43.647"
"""


def test_cpu_ticks_are_found_behind_a_command_with_spaces_and_brackets() -> None:
    stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 0 0 0 130 20 0 0 20 0 4 0 100 1 1"

    assert tools.cpu_ticks(stat) == 150


def test_h2load_counts_what_succeeded() -> None:
    assert tools.h2load_succeeded(H2LOAD.format(data=780_800), 200) == 200


@pytest.mark.parametrize(
    "output",
    [
        H2LOAD.format(data=0),  # gRPC's errors: status 200, and no message
        H2LOAD.format(data=780_800).replace("0 errored", "3 errored"),
        H2LOAD.format(data=780_800).replace("200 succeeded", "199 succeeded"),
        "could not connect",
    ],
)
def test_h2load_that_saw_errors_measures_nothing(output: str) -> None:
    with pytest.raises(tools.LoadFailed):
        tools.h2load_succeeded(output, 200)


def test_wrk_is_read_from_the_line_of_its_script() -> None:
    load = tools.wrk_load("Running 1s test\nRESULT 3000 2000000 0 9600 53100\n")

    assert (load.rate, load.p50_ms, load.p99_ms) == (1500, 9.6, 53.1)


def test_wrk_with_errors_measures_nothing() -> None:
    with pytest.raises(tools.LoadFailed):
        tools.wrk_load("RESULT 3000 2000000 1 9600 53100\n")


def test_redis_benchmark_is_read_from_its_line_of_commas() -> None:
    assert tools.redis_benchmark_rate(REDIS_BENCHMARK) == 423_549.34


@pytest.mark.parametrize(
    "output",
    [
        REDIS_BENCHMARK.partition('"LPUSHX')[0] + "Error from server: OOM command not allowed\n",
        REDIS_BENCHMARK.replace("423549.34", "0.00"),
        REDIS_BENCHMARK.replace("423549.34", "-nan"),
        REDIS_BENCHMARK + REDIS_BENCHMARK,
        "Could not connect to Redis at 127.0.0.1:1: Connection refused",
    ],
)
def test_redis_benchmark_that_was_given_up_measures_nothing(output: str) -> None:
    with pytest.raises(tools.LoadFailed):
        tools.redis_benchmark_rate(output)


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(tools.Missing, match=r"wrk and redis-benchmark .* wrk redis-tools"):
        tools.check_installed()


@pytest.mark.parametrize(
    ("installed", "runs"),
    [
        (["redis-benchmark"], "redis-benchmark"),
        (["valkey-benchmark"], "valkey-benchmark"),
        (["redis-benchmark", "valkey-benchmark"], "valkey-benchmark"),
    ],
)
def test_either_of_redis_benchmark_and_valkey_benchmark_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str], runs: str
) -> None:
    for name in ["h2load", "wrk", *installed]:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    tools.check_installed()

    assert tools.program("redis-benchmark") == runs


@pytest.mark.parametrize(("part", "found"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)])
def test_percentiles_are_by_nearest_rank(part: float, found: float) -> None:
    assert http2.percentile([float(number) for number in range(1, 101)], part) == found


@pytest.mark.parametrize(("ratio", "met"), [(0.5, True), (0.499, False)])
def test_a_goal_is_met_from_its_line_on(ratio: float, met: bool) -> None:
    row = rows.at_least("home", 4_000, "requests/s", ratio=ratio, ratio_goal=0.5, how="")

    assert (row.met, row.goal) == (met, "ratio >= 0.5")


def test_latest_json_holds_exactly_the_fields_of_a_row(tmp_path: Path) -> None:
    row = rows.at_least("post_p50", 2.345, "ms", how="somehow")
    rows.write_json([row], tmp_path / "latest.json")

    (written,) = json.loads((tmp_path / "latest.json").read_text())

    assert list(written) == ["name", "value", "unit", "ratio", "against", "goal", "met", "how"]
    assert (written["value"], written["goal"], written["met"]) == (2.35, "", None)


def test_the_generated_graph_has_no_double_and_no_own_follow() -> None:
    pairs = list(world.generated_graph(accounts=300, follows=2_000))

    assert len(set(pairs)) == len(pairs) == 2_000
    assert all(one != other for one, other in pairs)
    assert {number for pair in pairs for number in pair} <= set(range(1, 301))


def test_the_generated_graph_is_the_same_each_time() -> None:
    first, second = (list(world.generated_graph(accounts=50, follows=100)) for _ in range(2))

    assert first == second
