"""Rate limits that all replicas share: one number for each policy and subject in the cache Valkey.

Structure (storage/functions/rates.lua owns it):
    rate:<policy>:{<subject>}   theoretical arrival time; goes by itself when it is past

A subject is whatever is limited: an account's id, an address, a name. It may be lost with the rest
of the cache; then a quota begins anew.
"""

import logging
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple, cast

import redis.exceptions

from domain.rate import Limit
from storage.valkey import Valkey, is_missing_function
from storage.valkey_connection import Command, HotConnection

AWAY = (OSError, redis.exceptions.RedisError)
"""What is raised where Valkey cannot say."""

log = logging.getLogger(__name__)


class Standing(NamedTuple):
    """What a charge gave."""

    allowed: bool
    wait_us: int
    """How long until one more would be allowed; 0 for now."""


class RateStore:
    """Charges subjects. Atomic: any number of replicas charge one subject at a time.

    Every method raises one of AWAY where Valkey is away or refuses; then nothing, or everything
    that was asked for, was charged.
    """

    def __init__(self, hot: HotConnection, valkey: Valkey) -> None:
        self._hot = hot
        self._valkey = valkey

    async def charge(self, policy: str, subject: str | int, limit: Limit) -> Standing:
        """Charges one thing that is to be done, if it is allowed; charges nothing if not."""
        (standing,) = await self._call([_command(policy, subject, limit, 1, done=False)], limit)
        return standing

    async def settle(
        self, policy: str, counts: Sequence[tuple[str | int, int]], limit: Limit
    ) -> list[Standing]:
        """Charges subjects for so many things that were done already, allowed or not."""
        commands = [_command(policy, subject, limit, count, done=True) for subject, count in counts]
        return await self._call(commands, limit)

    async def _call(self, commands: list[Command], limit: Limit) -> list[Standing]:
        replies = await self._hot.call(commands)
        missing = [place for place, reply in enumerate(replies) if is_missing_function(reply)]
        if missing:
            # After a restart without persistence a Valkey has no functions.
            await cast(Any, self._valkey.function_load(library_source(), replace=True))
            again = await self._hot.call([commands[place] for place in missing])
            for place, reply in zip(missing, again, strict=True):
                replies[place] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise ConnectionError(f"Valkey refused a charge: {reply}")
        return [Standing(bool(allowed), limit.wait_us(ahead)) for allowed, ahead in replies]


def library_source() -> str:
    """Returns rates.lua."""
    return files("storage").joinpath("functions", "rates.lua").read_text()


def _command(policy: str, subject: str | int, limit: Limit, count: int, *, done: bool) -> Command:
    return (
        "FCALL",
        "chirp_charge",
        1,
        f"rate:{policy}:{{{subject}}}",
        count * limit.interval_us,
        limit.capacity_us,
        int(done),
    )
