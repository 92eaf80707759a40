"""Which slot of a Valkey Cluster a command belongs to, and what spans several."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
from redis.crc import key_slot

from storage.valkey_connection import Command

SLOTS = 16_384
KEYLESS = frozenset(("PING", "ECHO"))  # they go where slot 0 is
COUNTED_KEYS = frozenset(("FCALL", "FCALL_RO", "EVAL", "EVALSHA"))  # name, number of keys, keys


class Join(NamedTuple):
    """An MGET that was split: its parts take the places from `first` on, and each part has the
    values of some of its keys."""

    first: int
    positions: list[list[int]]


class Split(NamedTuple):
    """A call's commands, each of one slot."""

    commands: list[Command]
    slots: list[int]
    joins: list[Join]

    def joined(self, replies: list[Any]) -> list[Any]:
        """Returns the replies to the commands as they were before. Where a part of an MGET was
        refused, so was the MGET."""
        if not self.joins:
            return replies
        joined: list[Any] = []
        taken = 0
        for first, positions in self.joins:
            parts = replies[first : first + len(positions)]
            joined += replies[taken:first]
            joined.append(_whole(positions, parts))
            taken = first + len(positions)
        return joined + replies[taken:]


def split(commands: Sequence[Command]) -> Split:
    """Splits every MGET by slot where it must be, and finds the slots of all commands."""
    found = Split([], [], [])
    for command in commands:
        name = _name(command)
        if name == "MGET" and len(command) > 2:
            _split_mget(command, found)
        else:
            found.commands.append(command)
            found.slots.append(_slot(name, command))
    return found


def unpack(packed: bytes, count: int) -> list[Command]:
    """Returns commands that were packed: they are sent in the form of replies."""
    reader = hiredis.Reader()
    reader.feed(packed)
    return [tuple(reader.gets()) for _ in range(count)]


def _split_mget(command: Command, found: Split) -> None:
    by_slot: dict[int, list[int]] = {}
    for position, key in enumerate(command[1:]):
        by_slot.setdefault(_slot_of_key(key), []).append(position)
    if len(by_slot) > 1:
        found.joins.append(Join(len(found.commands), list(by_slot.values())))
    for slot, positions in by_slot.items():
        found.commands.append(("MGET", *(command[1 + position] for position in positions)))
        found.slots.append(slot)


def _whole(positions: list[list[int]], parts: list[Any]) -> Any:
    values: list[Any] = [None] * sum(map(len, positions))
    for of_part, part in zip(positions, parts, strict=True):
        if isinstance(part, Exception):
            return part
        for position, value in zip(of_part, part, strict=True):
            values[position] = value
    return values


def _name(command: Command) -> str:
    name = command[0]
    return (name.decode() if isinstance(name, bytes) else str(name)).upper()


def _slot(name: str, command: Command) -> int:
    if name in KEYLESS:
        return 0
    place = 1
    if name in COUNTED_KEYS:
        place = 3 if int(command[2]) else len(command)
    return _slot_of_key(command[place]) if place < len(command) else 0


def _slot_of_key(key: str | bytes | int) -> int:
    return key_slot(key if isinstance(key, bytes) else str(key).encode())
