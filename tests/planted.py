"""Looks for planted strings in everything that Chirp keeps: every table of the database, and every
key of a Valkey, whatever its type."""

import re
from collections.abc import Iterable
from typing import Any, cast

from storage.database import Pool
from storage.valkey import Valkey


def found_in(content: bytes, planted: Iterable[str]) -> set[str]:
    """Returns which of the strings stand in bytes, as they are or as PostgreSQL shows bytes."""
    return {
        each
        for each in planted
        if each.encode() in content or each.encode().hex().encode() in content
    }


async def found_in_database(pool: Pool, planted: Iterable[str]) -> dict[str, set[str]]:
    """Returns table -> which of the strings stand in its rows; nothing of tables that have none."""
    found: dict[str, set[str]] = {}
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT relname FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in await cursor.fetchall():
            assert re.fullmatch(r"\w+", table)
            rows = await connection.execute(f"SELECT t::text FROM {table} AS t".encode())
            content = "\n".join(row[0] for row in await rows.fetchall()).encode()
            if here := found_in(content, planted):
                found[table] = here
    return found


async def found_in_valkey(valkey: Valkey, planted: Iterable[str]) -> dict[str, set[str]]:
    """Returns key -> which of the strings stand in it or in its name."""
    found: dict[str, set[str]] = {}
    client = cast(Any, valkey)
    async for key in client.scan_iter():
        content = repr(key).encode() + await _content(client, key)
        if here := found_in(content, planted):
            found[key.decode(errors="replace")] = here
    return found


async def _content(client: Any, key: bytes) -> bytes:
    match (await client.type(key)).decode():
        case "string":
            return bytes(await client.get(key) or b"")
        case "list":
            return b"\n".join(await client.lrange(key, 0, -1))
        case "hash":
            pairs = await client.hgetall(key)
            return b"\n".join([*pairs.keys(), *pairs.values()])
        case "stream":
            entries = await client.xrange(key)
            return b"\n".join(
                part for _, fields in entries for pair in fields.items() for part in pair
            )
        case "zset":
            return b"\n".join(await client.zrange(key, 0, -1))
        case "set":
            return b"\n".join(await client.smembers(key))
        case other:
            assert other == "none", f"a key of a type that nobody looks into: {other}"
            return b""
