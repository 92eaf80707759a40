"""Timeline windows in the cache Valkey: home timelines, and recent entries of pulled authors.

Structure (see storage/functions/timelines.lua, which owns the details):
    timeline:{sN}:<viewer>   list of 32-byte entries, newest first; absent, or complete to its floor
    recent:{sN}:<author>     the same, for an author's pulled tweets
    built:{sN}:<viewer>      newest id of the snapshot that the timeline was last rebuilt from
    marks:{sN}:<viewer>      token, as the next, of what the viewer liked and retweeted
    viewer:{sN}:<viewer>     token; what a process read after it was set holds while it stands
    pulled:{sN}              token, likewise, of the set of authors that have pulled tweets

Everything here may be lost at any time: what is absent is rebuilt by the next read.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import Any, cast

import redis.exceptions

from domain import fanout
from domain.ids import TweetId, UserId
from domain.timeline import Entry, Window
from mesh.settings import Settings
from storage.valkey import Valkey, best_effort, is_missing_function
from storage.valkey_connection import Command
from storage.windows import ENTRY_BYTES, MARK_ID, decode, encode, encode_all

MARK_LIFETIME_S = 10  # a rebuild that takes longer is given up, and another may begin
RECENT_KEEP_S = 30 * 86_400
TOKEN_KEEP_S = 86_400
LEASE_S = 3_600  # a timeline that was read within it is one that active pushes reach
LEASE_RENEW_S = 600.0  # a read renews the lease where the last renewal is older


def timeline_keep_s(settings: Settings) -> int:
    """Returns for how many seconds a read keeps a timeline."""
    return settings.timeline_keep_days * 86_400


def leased_s(settings: Settings) -> int:
    """Returns how many seconds a timeline has left to live, at least, whose reader has a lease."""
    return timeline_keep_s(settings) - LEASE_S


class WindowKind(Enum):
    """The two kinds of windows; the value is the prefix of their keys."""

    TIMELINE = "timeline"
    RECENT = "recent"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names for a number of shards."""

    shards: int

    def tag(self, user: UserId) -> str:
        """The hash tag of the shard that holds a user's windows."""
        return f"{{s{fanout.shard_of(user, self.shards)}}}"

    def window(self, kind: WindowKind, user: UserId) -> str:
        """A timeline or a recent list."""
        return f"{kind.value}:{self.tag(user)}:{user}"

    def built(self, user: UserId) -> str:
        """Where a timeline's last rebuild began: what is newer in it was pushed."""
        return f"built:{self.tag(user)}:{user}"

    def marks(self, user: UserId) -> str:
        """The token of what a viewer liked and retweeted."""
        return f"marks:{self.tag(user)}:{user}"

    def viewer(self, user: UserId) -> str:
        """The token of what processes know of a viewer."""
        return f"viewer:{self.tag(user)}:{user}"

    def pulled(self, shard: int) -> str:
        """The token of the set of pulled authors, in one shard."""
        return f"pulled:{{s{shard}}}"

    def pulled_of(self, user: UserId) -> str:
        """The same, in a user's shard."""
        return self.pulled(fanout.shard_of(user, self.shards))


class TimelineStore:
    """Writes windows: drops, own entries, rebuilds. Reads stand in the timeline server's hot path.

    Raises redis.exceptions.ConnectionError and TimeoutError where Valkey is away.
    """

    def __init__(self, valkey: Valkey, settings: Settings) -> None:
        self._valkey = valkey
        self._length = settings.timeline_length
        self._timeline_keep_s = timeline_keep_s(settings)
        self.keys = Keys(settings.timeline_shards)

    async def drop(self, viewer: UserId) -> None:
        """Forgets a viewer's timeline and relations; the next read rebuilds them."""
        timeline = self.keys.window(WindowKind.TIMELINE, viewer)
        await self._valkey.delete(timeline, self.keys.viewer(viewer))

    async def drop_window(self, viewer: UserId) -> int:
        """The same; returns for how many seconds the window would have been kept, 0 where there
        was none."""
        timeline = self.keys.window(WindowKind.TIMELINE, viewer)
        async with self._valkey.pipeline(transaction=True) as pipeline:
            pipeline.ttl(timeline)
            pipeline.delete(timeline, self.keys.viewer(viewer))
            left_s, _ = await pipeline.execute()
        return max(0, int(left_s))

    async def fetch_materialised(self, viewers: Sequence[UserId]) -> list[UserId]:
        """Returns those of these viewers that have a window."""
        async with self._valkey.pipeline(transaction=False) as pipeline:
            for viewer in viewers:
                pipeline.exists(self.keys.window(WindowKind.TIMELINE, viewer))
            found = await pipeline.execute()
        return [viewer for viewer, exists in zip(viewers, found, strict=True) if exists]

    async def keep_for(self, viewer: UserId, seconds: int) -> None:
        """Says how long a viewer's window is kept, where there is one."""
        await self._valkey.expire(self.keys.window(WindowKind.TIMELINE, viewer), seconds)

    async def fetch(self, kind: WindowKind, user: UserId) -> Window | None:
        """Returns a whole window; None where it is absent or being rebuilt."""
        elements = await cast(Any, self._valkey.lrange(self.keys.window(kind, user), 0, -1))
        return decode(elements)

    async def fetch_built(self, viewer: UserId) -> int:
        """Returns the newest id of the snapshot of the last rebuild, 0 where it is unknown."""
        return int(await self._valkey.get(self.keys.built(viewer)) or 0)

    async def drop_marks(self, viewer: UserId) -> None:
        """Says that what a viewer liked and retweeted has changed."""
        await self._valkey.delete(self.keys.marks(viewer))

    async def push_own(self, author: UserId, entry: Entry) -> None:
        """Puts an author's entry into the own timeline, where that exists. Idempotent."""
        key = self.keys.window(WindowKind.TIMELINE, author)
        await self._function("chirp_push_own", [key], [encode(entry), self._length])

    def push_own_command(self, author: UserId, entry: Entry) -> Command:
        """The same as one command, for a connection that calls share."""
        key = self.keys.window(WindowKind.TIMELINE, author)
        return ("FCALL", "chirp_push_own", 1, key, encode(entry), self._length)

    async def remove_own(self, author: UserId, entry: Entry) -> None:
        """Takes an author's entry out of the own timeline. Idempotent."""
        key = self.keys.window(WindowKind.TIMELINE, author)
        await self._function("chirp_remove_own", [key], [encode(entry)])

    async def begin_rebuild(
        self, kind: WindowKind, user: UserId, *, viewer_token: bytes | None = None
    ) -> bytes | None:
        """Marks an absent window as being rebuilt; from now on nothing that is pushed is lost.

        Returns the mark for `commit_rebuild`, or None where there is a window, another rebuilds, or
        the viewer's relations are not those of `viewer_token` any more. Read the snapshot after
        this, on the primary, never before.
        """
        mark = MARK_ID + secrets.token_bytes(ENTRY_BYTES - len(MARK_ID))
        keys = [self.keys.window(kind, user)]
        arguments: list[Any] = [mark, MARK_LIFETIME_S]
        if viewer_token is not None:
            keys.append(self.keys.viewer(user))
            arguments.append(viewer_token)
        answer = await self._function("chirp_begin_rebuild_v2", keys, arguments)
        return mark if answer == b"begun" else None

    async def commit_rebuild(
        self, kind: WindowKind, user: UserId, mark: bytes, snapshot: Window
    ) -> bool:
        """Stores a snapshot merged with what was pushed since; returns False, and stores nothing,
        where the window was dropped or lost meanwhile."""
        keep_s = self._timeline_keep_s if kind is WindowKind.TIMELINE else RECENT_KEEP_S
        complete = b"1" if snapshot.floor == 0 else b"0"
        entries = encode_all(snapshot.entries[: self._length])
        answer = await self._function(
            "chirp_commit_rebuild",
            [self.keys.window(kind, user)],
            [mark, self._length, keep_s, complete, *entries],
        )
        if answer == 1 and kind is WindowKind.TIMELINE:
            newest = snapshot.entries[0][0] if snapshot.entries else 0
            await self._valkey.set(self.keys.built(user), newest, ex=keep_s)
        return answer == 1

    async def abandon_rebuild(self, kind: WindowKind, user: UserId, mark: bytes) -> None:
        """Takes a mark away whose rebuild failed or was stopped; what was pushed behind it is in
        PostgreSQL, for the next one. Where this fails, the mark ends by itself."""
        window = self.keys.window(kind, user)
        await best_effort(
            "taking a rebuild's mark away",
            self._function("chirp_abandon_rebuild", [window], [mark]),
        )

    async def ensure_token(self, key: str) -> bytes:
        """Returns the token under a key, setting one where there is none.

        What is read from PostgreSQL after this call may be kept as long as the token stands: each
        change deletes the token after it committed.
        """
        fresh = secrets.token_bytes(8)
        found = await self._valkey.set(key, fresh, nx=True, get=True, ex=TOKEN_KEEP_S)
        return fresh if found is None else cast(bytes, found)

    async def drop_pulled_token(self) -> None:
        """Says that an author was pulled for the first time."""
        for shard in range(self.keys.shards):
            await self._valkey.delete(self.keys.pulled(shard))

    def keep_command(self, viewer: UserId) -> tuple[str, str, int]:
        """The command that keeps a timeline materialised for another `timeline_keep_days`, and so
        renews its lease; sent after a read has found it."""
        return ("EXPIRE", self.keys.window(WindowKind.TIMELINE, viewer), self._timeline_keep_s)

    async def _function(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
        return await call_function(self._valkey, name, keys, arguments)


async def call_function(valkey: Valkey, name: str, keys: list[str], arguments: list[Any]) -> Any:
    """Calls a function of the library, loading it where a Valkey does not have it: after
    a restart without persistence it has none."""
    try:
        return await cast(Any, valkey.fcall(name, len(keys), *keys, *arguments))
    except redis.exceptions.ResponseError as error:
        if not is_missing_function(error):
            raise
        await load_functions(valkey)
        return await cast(Any, valkey.fcall(name, len(keys), *keys, *arguments))


def library_source() -> str:
    """Returns timelines.lua and, in the same library, followers.lua."""
    folder = files("storage").joinpath("functions")
    parts = [folder.joinpath(name).read_text() for name in ("timelines.lua", "followers.lua")]
    return "\n".join(parts)


async def load_functions(valkey: Valkey) -> None:
    """Loads the library, replacing an older release's."""
    library = library_source()
    await cast(Any, valkey.function_load(library, replace=True))


def tweet_entry(
    tweet_id: int, author: int, original: int | None, other_author: int | None
) -> Entry:
    """Returns an entry from a row's values."""
    return (
        TweetId(tweet_id),
        UserId(author),
        TweetId(original or 0),
        UserId(other_author or 0),
    )
