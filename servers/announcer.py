"""What tweet_server tells the cache of a change, before the call returns."""

import logging
from collections.abc import Sequence

from chirp.v1 import tweet_pb2

from domain.ids import UserId
from servers import tweet_writer
from servers.tweet_writer import Written
from storage import tweet_cache
from storage.timelines import TimelineStore
from storage.valkey import Valkey, best_effort
from storage.valkey_connection import Command, HotConnection

log = logging.getLogger(__name__)


class Announcer:
    """Tells the cache of a change before the call returns. All of it may fail: the event log brings
    the same again. So does the same call, which may be why the client did not get its answer."""

    def __init__(self, timelines: TimelineStore, cache: Valkey, hot: HotConnection) -> None:
        self._timelines = timelines
        self._cache = cache
        self._hot = hot

    async def created(self, written: Written, record: tweet_pb2.TweetRecord) -> None:
        """The author sees the new tweet at once in the own timeline; `record` is the tweet's."""
        row = written.row
        stored = _stale(written)
        stored[row.id] = tweet_cache.encode(row.version, record.SerializeToString())
        author, entry = UserId(row.author_id), tweet_writer.entry_of(row)
        commands = [
            self._timelines.push_own_command(author, entry),
            *tweet_cache.put_commands(stored),
        ]
        if not await self._sent(commands):
            await best_effort(
                "putting a tweet into its author's timeline",
                self._timelines.push_own(author, entry),
            )
            await best_effort("caching a tweet", tweet_cache.put(self._cache, stored))
        if row.retweet_of is not None:
            await self.marked(author)

    async def deleted(self, written: Written) -> None:
        """The author no longer sees the tweet."""
        author = UserId(written.row.author_id)
        await best_effort(
            "taking a tweet out of its author's timeline",
            self._timelines.remove_own(author, tweet_writer.entry_of(written.row)),
        )
        await best_effort("caching a deletion", tweet_cache.put(self._cache, _stale(written)))
        if written.row.retweet_of is not None:
            await self.marked(author)

    async def counted(self, tweet_id: int, version: int) -> None:
        """Counts of a tweet have changed."""
        stored = {tweet_id: tweet_cache.stale(version)}
        await best_effort("caching a count", tweet_cache.put(self._cache, stored))

    async def marked(self, user: UserId) -> None:
        """What a user liked or retweeted has changed."""
        await best_effort("forgetting marks", self._timelines.drop_marks(user))

    async def _sent(self, commands: Sequence[Command]) -> bool:
        """Sends commands by the connection that all calls share. False where it is to be tried with
        redis-py: a Valkey that was restarted does not have our functions any more."""
        try:
            replies = await self._hot.call(commands)
        except ConnectionError as error:
            log.warning("telling the cache of a tweet failed: %s", error)
            return True
        return not any(isinstance(reply, Exception) for reply in replies)


def _stale(written: Written) -> dict[int, bytes]:
    return {change.tweet_id: tweet_cache.stale(change.version) for change in written.changed}
