"""`chirp deadletters`: what consumer groups could not handle, told so that one can decide.

A payload is an event; it is shown as its kind and ids. What cannot be read as one is shown as such.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from chirp.v1 import events_pb2
from google.protobuf.message import DecodeError, Message
from rich.table import Table

from eventlog import deadletters
from eventlog.deadletters import Letter
from mesh.settings import Settings

ERROR_CHARACTERS_SHOWN = 160


async def list_letters(settings: Settings, group: str | None = None) -> Table:
    """Returns the dead letters of a group, of all groups by default, as a table."""
    groups = await deadletters.fetch_groups(settings) if group is None else [group]
    table = Table(title="Dead letters", show_lines=True)
    for column in ("group", "id", "key", "event", "tries", "failed", "error"):
        table.add_column(column, overflow="fold")
    for name in groups:
        async with deadletters.open_letters(settings, name) as letters:
            for letter in await letters.fetch_all():
                table.add_row(name, *_cells(letter))
    return table


async def redrive(settings: Settings, group: str, ids: Sequence[str] | None = None) -> int:
    """Asks a group's workers to handle letters again, all by default; returns how many exist.

    Those that succeed are gone from the list within a second; the others show the new error."""
    async with deadletters.open_letters(settings, group) as letters:
        return await letters.request_redrive(ids)


async def discard(settings: Settings, group: str, ids: Sequence[str]) -> int:
    """Forgets letters for good; returns how many there were."""
    async with deadletters.open_letters(settings, group) as letters:
        return await letters.discard(ids)


def describe_event(payload: bytes) -> str:
    """Returns an event's kind and ids: `tweet_created tweet_id=7 author_id=3`."""
    try:
        event = events_pb2.Event.FromString(payload)
    except DecodeError:
        return f"unreadable, {len(payload)} bytes"
    kind = event.WhichOneof("kind")
    if kind is None:
        return f"of no known kind, {len(payload)} bytes"
    return " ".join([kind, *_ids(getattr(event, kind))])


def _cells(letter: Letter) -> tuple[str, ...]:
    failed_at = datetime.fromtimestamp(letter.failed_at, UTC)
    return (
        letter.id,
        str(letter.key),
        describe_event(letter.payload),
        str(letter.attempts),
        failed_at.strftime("%Y-%m-%d %H:%M:%S"),
        letter.error[:ERROR_CHARACTERS_SHOWN],
    )


def _ids(message: Message) -> Iterator[str]:
    for descriptor, value in message.ListFields():
        # Strings and lists are left out: what a letter is about is named by its ids.
        found: Any = value
        if isinstance(found, Message):
            yield from _ids(found)
        elif isinstance(found, int) and descriptor.name.endswith("_id"):
            yield f"{descriptor.name}={found}"
