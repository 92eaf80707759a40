"""Attempts to sign in and up, in the cache Valkey: a number for each name and each address that
tried lately. `functions/signins.lua` owns the keys."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

import redis.exceptions

from domain.rate import Limit
from storage.valkey import Valkey, is_missing_function

AWAY = (redis.exceptions.RedisError, OSError)
"""What every call raises where Valkey is away, or knows the functions of another release."""

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Quota:
    """What one attempt takes from: a policy's name, whose, and how much there is."""

    policy: str
    subject: str
    limit: Limit


@dataclass(frozen=True, slots=True)
class Refusal:
    """The quota that has nothing left, and how long until it has."""

    quota: Quota
    wait_us: int


class SignInStore:
    """Counts attempts."""

    def __init__(self, cache: Valkey) -> None:
        self._cache = cache

    async def attempt(self, quotas: Sequence[Quota]) -> Refusal | None:
        """Takes one from each of these, in one atomic call; returns the one that has nothing left,
        and then takes from none."""
        found: tuple[int, int] = await self._call(
            "chirp_attempt",
            [_key(quota) for quota in quotas],
            [
                value
                for quota in quotas
                for value in (quota.limit.interval_us, quota.limit.capacity_us)
            ],
        )
        number, wait_us = found
        return Refusal(quotas[number - 1], wait_us) if number else None

    async def forgive(self, quota: Quota) -> None:
        """Gives back what one attempt took. Not idempotent."""
        limit = quota.limit
        await self._call("chirp_forgive", [_key(quota)], [limit.interval_us, limit.capacity_us])

    async def _call(self, function: str, keys: Sequence[str], values: Sequence[int]) -> Any:
        arguments = (function, len(keys), *keys, *map(str, values))
        try:
            return await cast(Any, self._cache.fcall(*arguments))  # pyright: ignore
        except redis.exceptions.ResponseError as error:
            if not is_missing_function(error):
                raise
        library = files("storage").joinpath("functions/signins.lua").read_text()
        await cast(Any, self._cache.function_load(library, replace=True))
        return await cast(Any, self._cache.fcall(*arguments))  # pyright: ignore


def _key(quota: Quota) -> str:
    digest = hashlib.blake2b(quota.subject.encode(), digest_size=DIGEST_BYTES).hexdigest()
    return f"{{signins}}:{quota.policy}:{digest}"
