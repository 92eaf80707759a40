"""Dead letters: records that a group could not handle, kept until someone decides.

Bounded: when a group's letters are full, its runner stops the partition instead of losing one.
A letter is handled again by the group's own consumer, outside of the partition's order.
"""

import base64
import json
import time
from collections.abc import AsyncGenerator, Container, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from eventlog import client, scripts
from eventlog.client import Valkey
from eventlog.contract import Record
from mesh.settings import Settings

ERROR_CHARACTERS_MAX = 1_000
REDRIVES_PER_LOOK = 64


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that failed, why, how often it was tried in all, and when it failed last
    (seconds since 1970)."""

    partition: int
    position: str
    key: int
    payload: bytes
    error: str
    attempts: int
    failed_at: float

    @property
    def id(self) -> str:
        """What names the letter within its group."""
        return f"{self.partition}:{self.position}"

    def failed_again(self, error: BaseException) -> "Letter":
        """The letter after another try."""
        return replace(
            self, error=describe(error), attempts=self.attempts + 1, failed_at=time.time()
        )


class DeadLetters:
    """The dead letters of one group, in the event log's Valkey."""

    def __init__(self, valkey: Valkey, group: str, letters_max: int) -> None:
        self._valkey = cast(Any, valkey)
        self._group = client.check_group(group)
        self._max = letters_max
        self._letters = scripts.letters_key(group)
        self._redrive = scripts.redrive_key(group)

    async def bury(self, record: Record, error: BaseException, attempts: int) -> bool:
        """Keeps a record that failed; False where there is no room. The same one again replaces
        itself, so a crash between this and the commit doubles nothing."""
        letter = Letter(
            record.partition,
            record.position,
            record.key,
            record.payload,
            describe(error),
            attempts,
            time.time(),
        )
        return await self.keep(letter)

    async def keep(self, letter: Letter) -> bool:
        """Writes a letter, new or changed; False where there is no room for a new one."""
        kept = await client.run(
            self._valkey, scripts.BURY, (self._letters,), letter.id, _to_json(letter), self._max
        )
        return bool(kept)

    async def count(self) -> int:
        """How many letters there are."""
        return int(await self._valkey.hlen(self._letters))

    async def fetch_all(self) -> list[Letter]:
        """Returns all letters, by partition and position; at most `deadletters_max`."""
        found = [_from_json(text) for text in await self._valkey.hvals(self._letters)]
        return sorted(found, key=lambda letter: (letter.partition, len(letter.position), letter.id))

    async def request_redrive(self, ids: Sequence[str] | None = None) -> int:
        """Asks the group to handle letters again, all of them by default; returns how many exist.

        The letter goes when that succeeds, and stays with its new error when not."""
        known = {name.decode() for name in await self._valkey.hkeys(self._letters)}
        asked = known if ids is None else known.intersection(ids)
        if asked:
            await self._valkey.sadd(self._redrive, *asked)
            await client.notify(self._valkey, self._group)
        return len(asked)

    async def take_redrives(self, partitions: Container[int]) -> list[Letter]:
        """Takes letters of these partitions that are to be handled again, at most 64 at once. One
        that is taken and then not handled stays among the letters, and can be asked for again."""
        asked = [name.decode() for name in await self._valkey.smembers(self._redrive)]
        ours = [name for name in asked if int(name.split(":")[0]) in partitions]
        ours = sorted(ours)[:REDRIVES_PER_LOOK]
        if not ours:
            return []
        texts = await self._valkey.hmget(self._letters, ours)
        await self._valkey.srem(self._redrive, *ours)
        return [_from_json(text) for text in texts if text is not None]

    async def discard(self, ids: Sequence[str]) -> int:
        """Forgets letters for good; returns how many there were."""
        if not ids:
            return 0
        await self._valkey.srem(self._redrive, *ids)
        return int(await self._valkey.hdel(self._letters, *ids))


@asynccontextmanager
async def open_letters(settings: Settings, group: str) -> AsyncGenerator[DeadLetters]:
    """Opens a group's dead letters; connects on first use."""
    async with client.connect(settings) as valkey:
        yield DeadLetters(valkey, group, settings.deadletters_max)


async def fetch_groups(settings: Settings) -> list[str]:
    """Returns the groups that have dead letters."""
    async with client.connect(settings) as valkey:
        pattern = scripts.letters_key("*")
        found = cast(Any, valkey).scan_iter(match=pattern, count=1_000)
        keys: list[str] = [key.decode() async for key in found]
    prefix, suffix = pattern.split("*")
    return sorted(key.removeprefix(prefix).removesuffix(suffix) for key in keys)


def describe(error: BaseException) -> str:
    """Returns an error in at most 1,000 characters."""
    return f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]


def _to_json(letter: Letter) -> str:
    return json.dumps(
        {
            "partition": letter.partition,
            "position": letter.position,
            "key": letter.key,
            "payload": base64.b64encode(letter.payload).decode(),
            "error": letter.error,
            "attempts": letter.attempts,
            "failed_at": letter.failed_at,
        }
    )


def _from_json(text: bytes) -> Letter:
    fields: dict[str, Any] = json.loads(text)
    fields["payload"] = base64.b64decode(fields["payload"])
    return Letter(**fields)
