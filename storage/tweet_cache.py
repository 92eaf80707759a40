"""Tweet records in the cache Valkey, shared by all servers.

    tweet:<id>   version (8 bytes, big-endian), then a serialised chirp.v1.TweetRecord

The version orders writers: a reader that fetched an old record and stores it late does not replace
a newer one. A change of a tweet stores the new version without a record: twice, when it is made
and by its event, so that no crash leaves an old record behind. Everything may be lost; what is
absent is asked of tweet_server.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, cast

import redis.exceptions

from storage.valkey import Valkey, is_missing_function
from storage.valkey_connection import Command

KEEP_S = 7 * 86_400
VERSION_BYTES = 8


def key(tweet_id: int) -> str:
    """Returns the key of a tweet's record."""
    return f"tweet:{tweet_id}"


def encode(version: int, record: bytes) -> bytes:
    """Returns the stored form of a record."""
    return version.to_bytes(VERSION_BYTES) + record


def stale(version: int) -> bytes:
    """Returns what stands for a record that has reached a version and must be fetched again."""
    return version.to_bytes(VERSION_BYTES)


def decode(stored: bytes) -> tuple[int, bytes]:
    """Returns the version and the record of a stored form; no record where it is stale."""
    return int.from_bytes(stored[:VERSION_BYTES]), stored[VERSION_BYTES:]


async def put(valkey: Valkey, records: Mapping[int, bytes]) -> None:
    """Stores records in their stored form by tweet id, except where a newer one is there."""
    try:
        await _put(valkey, records)
    except redis.exceptions.ResponseError as error:
        if not is_missing_function(error):
            raise
        await load_functions(valkey)
        await _put(valkey, records)


def put_commands(records: Mapping[int, bytes]) -> list[Command]:
    """The same as commands, for a connection that calls share."""
    return [
        ("FCALL", "chirp_put_tweet", 1, key(tweet_id), stored, KEEP_S)
        for tweet_id, stored in records.items()
    ]


async def load_functions(valkey: Valkey) -> None:
    """Loads tweets.lua, replacing an older release's."""
    library = files("storage").joinpath("functions/tweets.lua").read_text()
    await cast(Any, valkey.function_load(library, replace=True))


async def _put(valkey: Valkey, records: Mapping[int, bytes]) -> None:
    async with valkey.pipeline(transaction=False) as pipeline:
        for tweet_id, stored in records.items():
            pipeline.fcall("chirp_put_tweet", 1, key(tweet_id), stored, KEEP_S)  # pyright: ignore
        await pipeline.execute()
