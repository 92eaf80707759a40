"""How long parts of a walk through memory last for a process that is alone on this machine: what of
the longest calls is the machine's."""

import asyncio
import subprocess
import sys

IDLE_S = 10.0
# As a call of fan-out does, each part touches memory at random for about half a millisecond.
WALK = """
import sys, time
import numpy as np
memory = np.ones(1 << 27)
draw = np.random.default_rng(1)
places = [draw.integers(0, len(memory), 20_000) for _ in range(50)]
lasted = []
until = time.perf_counter() + float(sys.argv[1])
while (began := time.perf_counter()) < until:
    memory[places[len(lasted) % len(places)]].sum()
    lasted.append(1_000 * (time.perf_counter() - began))
lasted.sort()
print(lasted[len(lasted) // 2], sum(ms > float(sys.argv[2]) for ms in lasted), lasted[-1])
"""


async def measure(limit_ms: float) -> str:
    """Walks for IDLE_S; says how often a part took longer than the limit, and how long once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WALK, str(IDLE_S), str(limit_ms), stdout=subprocess.PIPE
    )
    median, too_long, longest = map(float, (await process.communicate())[0].split())
    return (
        f"alone on this machine, a process that adds up numbers at random places of a gigabyte,"
        f" {median:.2f} ms at a time, took longer than {limit_ms:g} ms {too_long / IDLE_S:.1f}"
        f" times a second, {longest:.1f} ms once"
    )
