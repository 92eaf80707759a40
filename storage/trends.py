"""The published trends in the cache Valkey: what trend_worker ranked last, read by trend_server.

storage/functions/trends.lua owns the keys (`trends:{trends}:head`, `:lists`, `:changed`). One call
publishes the lists that changed together with the version that they make, so a reader sees all of a
version or nothing of it. Everything may be lost at any time: then the worker counts again and
publishes everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

import redis.exceptions

from storage.valkey import Valkey, is_missing_function

KEYS = tuple(f"trends:{{trends}}:{part}" for part in ("head", "lists", "changed"))
# A call carries at most so much, so that it does not hold Valkey for long.
PUBLISH_BYTES_MAX = 500_000

NO_VERSION = ""


class FencedOut(Exception):
    """A newer worker publishes."""


class Lost(Exception):
    """What was published is no longer there, or somebody else published."""


class Moved(Exception):
    """An earlier publication whose outcome was not known went through: publish everything."""


@dataclass(frozen=True, slots=True)
class News:
    """What changed since a version."""

    version: str
    as_of_ms: int
    whole: bool
    """Whether `lists` is everything: what is known of other places is to be forgotten."""
    lists: Mapping[str, bytes]
    """By place; empty where the place has no lists any more."""


class TrendStore:
    """Publishes and reads. Raises what Valkey raises when it is away."""

    def __init__(self, cache: Valkey) -> None:
        self._cache = cache

    async def publish(
        self, lists: Mapping[str, bytes], *, after: str, fence: int, as_of_ms: int
    ) -> str:
        """Publishes the lists of changed places; returns the version that stands now.

        `after` is the version that the caller published last; NO_VERSION replaces everything.
        Empty lists take a place out. Raises Lost or Moved, and changes nothing, where that version
        does not stand, and FencedOut where a publisher with a greater fence was here."""
        version = after
        for part in _parts(lists):
            version = await self._publish_part(part, version, fence, as_of_ms)
        return version

    async def read(self, since: str) -> News | None:
        """Returns what changed since a version (NO_VERSION: everything), None where nothing is
        published."""
        reply = await self._call("chirp_read_trends", since)
        if not reply:
            return None
        pairs = iter(reply[3:])
        return News(
            version=reply[0].decode(),
            as_of_ms=int(reply[1]),
            whole=reply[2] == b"1",
            lists={place.decode(): each for place, each in zip(pairs, pairs, strict=True)},
        )

    async def drop(self) -> None:
        """Forgets what is published: the worker counts again, from PostgreSQL. For whoever writes
        tweets that have no events."""
        await self._cache.delete(*KEYS)

    async def _publish_part(
        self, lists: Mapping[str, bytes], after: str, fence: int, as_of_ms: int
    ) -> str:
        arguments = [argument for pair in lists.items() for argument in pair]
        try:
            version = await self._call(
                "chirp_publish_trends", str(fence), after, str(as_of_ms), *arguments
            )
        except redis.exceptions.ResponseError as error:
            if str(error).startswith("FENCED"):
                raise FencedOut(str(error)) from error
            raise
        if version == b"LOST":
            raise Lost("the published trends are gone")
        if version == b"MOVED":
            raise Moved
        return version.decode()

    async def _call(self, function: str, *arguments: str | bytes) -> Any:
        try:
            return await cast(Any, self._cache.fcall(function, len(KEYS), *KEYS, *arguments))  # pyright: ignore
        except redis.exceptions.ResponseError as error:
            if not is_missing_function(error):
                raise
        await load_functions(self._cache)
        return await cast(Any, self._cache.fcall(function, len(KEYS), *KEYS, *arguments))  # pyright: ignore


async def load_functions(cache: Valkey) -> None:
    """Loads trends.lua, replacing an older release's."""
    library = files("storage").joinpath("functions/trends.lua").read_text()
    await cast(Any, cache.function_load(library, replace=True))


def _parts(lists: Mapping[str, bytes]) -> list[dict[str, bytes]]:
    parts: list[dict[str, bytes]] = [{}]
    size = 0
    for place, each in lists.items():
        if size > PUBLISH_BYTES_MAX:
            parts.append({})
            size = 0
        parts[-1][place] = each
        size += len(each)
    return parts
