"""Connections to the event log's Valkey, and scripts called by their digest."""

import functools
import hashlib
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import redis.asyncio
import redis.exceptions

from eventlog import scripts
from mesh import redis_connections
from mesh.settings import Settings

Valkey = redis.asyncio.Redis
Argument = str | bytes | int

CONNECTIONS_MAX = 16
# Longer than a poll may block; a command that takes so long means that the log is away. Below the
# default lease, so that a consumer whose log hangs finds out before it has lost everything.
POLL_WAIT_MS_MAX = 1_000
COMMAND_TIMEOUT_S = 2.0

_GROUP = re.compile(r"[a-z0-9_-]{1,64}")


@asynccontextmanager
async def connect(settings: Settings) -> AsyncGenerator[Valkey]:
    """Opens a bounded pool of connections to the event log's Valkey; connects on first use.

    Commands are not retried inside: an append tried twice behind our back would be out of order,
    and the callers' own retries know what is safe.
    """
    async with redis_connections.opened(
        redis.asyncio.ConnectionPool,
        settings.eventlog_url,
        socket_connect_timeout=COMMAND_TIMEOUT_S,
        socket_timeout=COMMAND_TIMEOUT_S,
        max_connections=CONNECTIONS_MAX,
    ) as valkey:
        yield valkey


Call = tuple[str, Sequence[str], Sequence[Argument]]
"""A script, its keys and its arguments."""


async def run(valkey: Valkey, script: str, keys: Sequence[str], *arguments: Argument) -> Any:
    """Runs one script."""
    (reply,) = await run_all(valkey, [(script, keys, arguments)])
    return reply


async def run_all(
    valkey: Valkey, calls: Sequence[Call], *, seen_at_once: bool = False
) -> list[Any]:
    """Runs scripts in one round trip, in order. Raises the first error that a script raised, after
    all have run: they are not atomic together. With `seen_at_once` nobody sees what some have done
    before the others have.

    A Valkey that lost its scripts (a restart) gets them again and is asked once more for the calls
    that it refused for that; which would reorder calls of one script, but it refuses all of those.
    """
    replies = await _pipeline(valkey, calls, seen_at_once)
    refused = [
        index
        for index, reply in enumerate(replies)
        if isinstance(reply, redis.exceptions.NoScriptError)
    ]
    if refused:
        for script in {calls[index][0] for index in refused}:
            await cast(Any, valkey).script_load(script)
        again = await _pipeline(valkey, [calls[index] for index in refused], seen_at_once)
        for index, reply in zip(refused, again, strict=True):
            replies[index] = reply
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def notify(valkey: Valkey, group: str) -> None:
    """Wakes the members of a group, so that they share partitions and look for letters anew."""
    await cast(Any, valkey).xadd(scripts.notice_key(group), {"w": ""}, maxlen=1, approximate=False)


def check_group(group: str) -> str:
    """Returns the group's name; raises ValueError where it does not fit into keys."""
    if not _GROUP.fullmatch(group):
        raise ValueError(f"a group is named by a-z, 0-9, _ and -, not {group!r}")
    return group


async def _pipeline(valkey: Valkey, calls: Sequence[Call], seen_at_once: bool) -> list[Any]:
    pipeline = cast(Any, valkey.pipeline(transaction=seen_at_once))
    for script, keys, arguments in calls:
        pipeline.execute_command("EVALSHA", _digest(script), len(keys), *keys, *arguments)
    return cast(list[Any], await pipeline.execute(raise_on_error=False))


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
