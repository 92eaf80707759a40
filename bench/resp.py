"""Commands to Valkey, encoded before the clock starts, over one plain connection that always has
some under way: what Valkey does where the client costs next to nothing."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import hiredis

from bench.tools import LoadFailed

READ_BYTES = 1 << 16


@dataclass(slots=True)
class Batch:
    """Commands that are written at once."""

    commands: int = 0
    parts: list[bytes] = field(default_factory=list[bytes])

    def add(self, *words: bytes) -> None:
        """Adds a command, encoded."""
        self.commands += 1
        self.parts.append(
            b"*%d\r\n" % len(words)
            + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
        )


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to a Valkey, by its port or its socket. Raises LoadFailed where it refuses us."""
    at_url = urlsplit(url)
    reader, writer = (
        await asyncio.open_unix_connection(unquote(at_url.path))
        if at_url.scheme == "unix"
        else await asyncio.open_connection(at_url.hostname, at_url.port)
    )
    writer.write(f"AUTH {at_url.password}\r\n".encode())
    if await reader.readline() != b"+OK\r\n":
        writer.close()
        raise LoadFailed("Valkey refused the password")
    return reader, writer


async def pump(url: str, batches: Sequence[Batch], under_way: int) -> float:
    """Sends everything, with so many commands unanswered at most, or one batch; returns how many
    seconds it took. Raises LoadFailed where a command is refused."""
    sent = [b"".join(batch.parts) for batch in batches]
    reader, writer = await connect(url)
    try:
        parser = hiredis.Reader()
        waiting = at = 0
        started = time.perf_counter()
        while at < len(batches) or waiting:
            while at < len(batches) and (
                not waiting or waiting + batches[at].commands <= under_way
            ):
                writer.write(sent[at])
                waiting += batches[at].commands
                at += 1
            answers = await reader.read(READ_BYTES)
            if not answers:
                raise LoadFailed("Valkey went away")
            parser.feed(answers)
            while (answer := parser.gets()) is not False:
                if isinstance(answer, hiredis.ReplyError):
                    raise LoadFailed(f"Valkey said {answer}")
                waiting -= 1
        return time.perf_counter() - started
    finally:
        writer.close()
        await writer.wait_closed()
