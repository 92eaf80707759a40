"""The load generators that are not ours, and the CPU time of processes."""

import asyncio
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

PACKAGES = {"h2load": "nghttp2-client", "wrk": "wrk", "redis-benchmark": "redis-tools"}
# What runs instead where it is installed: the same program, as Valkey has it.
INSTEAD = {"redis-benchmark": "valkey-benchmark"}
WRK_SCRIPT = Path(__file__).with_name("wrk.lua")
TOOL_TIMEOUT_S = 60.0
RANDOM_NUMBER = "__rand_int__"  # for redis-benchmark: one of twelve digits

_H2LOAD_DONE = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored")
_H2LOAD_DATA = re.compile(r"\((\d+)\) data")
_WRK_RESULT = re.compile(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)
_BENCHMARK_RESULT = re.compile(r'^"[^"\n]+","(\d+\.\d+)",', re.MULTILINE)


class Missing(Exception):
    """A tool is not installed; the text says which packages to install."""


class LoadFailed(Exception):
    """A load generator saw errors: what it measured means nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator saw."""

    requests: int
    seconds: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def check_installed() -> None:
    """Raises Missing."""
    missing = [tool for tool in PACKAGES if shutil.which(program(tool)) is None]
    if missing:
        packages = " ".join(PACKAGES[tool] for tool in missing)
        raise Missing(
            f"{' and '.join(missing)} not found: install {packages}"
            f" (Debian: apt-get install {packages})"
        )


def program(tool: str) -> str:
    """Returns the name of the program that runs as one of the tools."""
    instead = INSTEAD.get(tool, tool)
    return instead if shutil.which(instead) else tool


def cpu_seconds(process_id: int) -> float:
    """Returns the CPU time that a process has used, user and system, all threads."""
    return cpu_ticks(Path(f"/proc/{process_id}/stat").read_text()) / os.sysconf("SC_CLK_TCK")


def cpu_ticks(stat: str) -> int:
    """Returns utime + stime of a line of /proc/<pid>/stat; the command in it may hold spaces."""
    fields = _fields(stat)
    return int(fields[11]) + int(fields[12])


def page_faults(process_id: int) -> int:
    """Returns how often a process touched memory that Linux had to give it first."""
    fields = _fields(Path(f"/proc/{process_id}/stat").read_text())
    return int(fields[7]) + int(fields[9])


def waited_seconds(process_id: int) -> float:
    """Returns how long a process's first thread could have run and had no core."""
    statistics = Path(f"/proc/{process_id}/schedstat").read_text().split()
    return int(statistics[1]) / 1e9


def family_cpu_seconds(process_id: int) -> float:
    """Returns the CPU time of a process and of its children, those that have ended too."""
    own = Path(f"/proc/{process_id}/stat").read_text()
    ticks = cpu_ticks(own) + ended_children_ticks(own)
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue  # it has ended since; its parent will have its time
            if int(_fields(stat)[1]) == process_id:
                ticks += cpu_ticks(stat)
    return ticks / os.sysconf("SC_CLK_TCK")


def ended_children_ticks(stat: str) -> int:
    """Returns cutime + cstime of a line of /proc/<pid>/stat."""
    fields = _fields(stat)
    return int(fields[13]) + int(fields[14])


def _fields(stat: str) -> list[str]:
    return stat.rpartition(")")[2].split()


async def h2load(
    port: int, method: str, body: Path, tokens: Sequence[str], *, requests: int, streams: int
) -> Load:
    """Runs one h2load for each token, all at the same time, each on a connection of its own.

    The seconds are those of the whole, with the starts. Raises LoadFailed where any call failed."""
    started = time.perf_counter()
    outputs = await asyncio.gather(
        *(
            _output(
                "h2load", "-n", str(requests), "-c", "1", "-m", str(streams),
                "-H", "content-type: application/grpc", "-H", "te: trailers",
                "-H", f"authorization: Bearer {token}", "-d", str(body),
                f"http://127.0.0.1:{port}{method}",
            )
            for token in tokens
        )
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return Load(sum(h2load_succeeded(output, requests) for output in outputs), seconds)


def h2load_succeeded(output: str, requests: int) -> int:
    """Returns how many requests of an h2load run succeeded; raises LoadFailed where not all did.

    gRPC answers errors with HTTP's 200 too, but without a message: so there must be data."""
    done, data = _H2LOAD_DONE.search(output), _H2LOAD_DATA.search(output)
    if done is None or data is None:
        raise LoadFailed(f"h2load said: {output.strip()[-300:]}")
    succeeded, failed, errored = (int(part) for part in done.groups())
    if failed or errored or succeeded != requests or int(data[1]) < 6 * requests:
        raise LoadFailed(f"h2load saw errors: {done[0]}, {data[1]} bytes of data")
    return succeeded


async def wrk(port: int, path: str, tokens: Path, *, connections: int, seconds: int) -> Load:
    """Reads a REST path, each time with another token of a file. Raises LoadFailed."""
    output = await _output(
        "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(WRK_SCRIPT),
        f"http://127.0.0.1:{port}{path}", "--", str(tokens),
    )  # fmt: skip
    return wrk_load(output)


def wrk_load(output: str) -> Load:
    """Reads the line that wrk.lua prints; raises LoadFailed where a request failed."""
    found = _WRK_RESULT.search(output)
    if found is None or int(found[3]):
        raise LoadFailed(f"wrk said: {output.strip()[-300:]}")
    requests, duration_us, _, p50_us, p99_us = (int(part) for part in found.groups())
    return Load(requests, duration_us / 1e6, p50_us / 1000, p99_us / 1000)


async def redis_benchmark(
    url: str, *command: str, requests: int, connections: int, pipeline: int, below: int
) -> Load:
    """Sends a command to the Valkey at a URL (`redis:` or `unix:`), with a random number below
    `below` for each RANDOM_NUMBER in it. Raises LoadFailed, also where Valkey answers an error.

    `requests` must be whole pipelines, or more are sent."""
    at_url = urlsplit(url)
    at = (
        ["-s", unquote(at_url.path)]
        if at_url.scheme == "unix"
        else ["-h", str(at_url.hostname), "-p", str(at_url.port)]
    )
    output = await _output(
        # It takes the password from nowhere else, unlike redis-cli.
        program("redis-benchmark"), *at, "-a", unquote(at_url.password or ""), "--csv",
        "-n", str(requests), "-c", str(connections), "-P", str(pipeline), "-r", str(below),
        *command,
    )  # fmt: skip
    return Load(requests, requests / redis_benchmark_rate(output))


def redis_benchmark_rate(output: str) -> float:
    """Returns the commands per second of a run with one command; raises LoadFailed where it was
    given up, as it is at the first error: then there is no such line."""
    found = _BENCHMARK_RESULT.findall(output)
    if len(found) != 1 or not float(found[0]):
        raise LoadFailed(f"redis-benchmark said: {output.strip()[-300:]}")
    return float(found[0])


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TOOL_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise LoadFailed(f"{command[0]} did not end within {TOOL_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")
