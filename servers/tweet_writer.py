"""The transactions of tweets: each writes the tweet, the counts that change with it, what caches
must forget, and its event, or nothing.

Locks are taken in the order of storage/tweets.py: the author's row first, then tweets by id. So ids
in the outbox grow in the order of an author's commits, and no two transactions wait for each other.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chirp.v1 import events_pb2

from domain import fanout
from domain.errors import TweetNotFound, Unauthenticated
from domain.fanout import Delivery
from domain.ids import TweetId, UserId
from domain.timeline import Entry
from mesh import traces
from storage import outbox, purges, tweets
from storage.database import Connection
from storage.timelines import tweet_entry
from storage.tweets import AuthorStamp, CountChange, TweetRow
from storage.users import SummaryRow


class AlreadyPosted(Exception):
    """The author used this request id before; raised to roll the transaction back."""


@dataclass(frozen=True, slots=True)
class Written:
    """A tweet as written, and the versions that other tweets reached with it."""

    row: TweetRow
    changed: Sequence[events_pb2.TweetVersion]
    author: SummaryRow | None = None
    """Of a new tweet, its author, as read with the lock."""


@dataclass(frozen=True, slots=True)
class Notices:
    """What an event tells of a tweet beside its row, so that the right people are notified."""

    quoted_author: int = 0
    refused_mentions: Sequence[int] = ()
    """Mentioned accounts that the author blocks, or that block the author."""


NO_NOTICES = Notices()


async def insert(
    connection: Connection,
    row: TweetRow,
    *,
    request_id: str,
    location: str,
    notices: Notices = NO_NOTICES,
) -> Written:
    """Inserts a tweet, stamped with the way of its author's tier; `location` is the tweet's own,
    the author's where it is empty. The caller has locked the author's row and knows that the
    request id is new. Raises TweetNotFound where what it refers to is deleted."""
    author = UserId(row.author_id)
    stamp = await tweets.count_tweet(connection, author, +1)
    if stamp is None:
        raise Unauthenticated("the account of this token is gone")
    row, first_pulled = stamped(row, stamp, location)
    changes = count_changes(row, +1)
    counted = await tweets.change_counts(connection, changes, living=True)
    if len(counted) != len(changes):
        raise TweetNotFound("the tweet referred to was deleted")
    await tweets.insert(connection, row, request_id or None)
    if first_pulled:
        await tweets.mark_pulled(connection, author, TweetId(row.id))
    changed = await purge(connection, counted)
    event = created_event(row, notices, first_pulled=first_pulled, changed=changed)
    await outbox.insert(connection, partition_key=author, payload=event)
    return Written(row, changed, stamp.author)


async def delete(connection: Connection, row: TweetRow) -> Written:
    """Deletes a tweet, or undoes a retweet. Raises TweetNotFound where it is gone already."""
    if not await tweets.lock_living(connection, UserId(row.author_id), TweetId(row.id)):
        raise TweetNotFound("no such tweet")
    await tweets.count_tweet(connection, UserId(row.author_id), -1)
    # What a tweet refers to is older than it is: the order of ids.
    counted = await tweets.change_counts(connection, count_changes(row, -1), living=False)
    gone = await tweets.delete(connection, TweetId(row.id))
    event = new_event()
    deleted = event.tweet_deleted
    deleted.entry.CopyFrom(entry_message(gone))
    deleted.delivery = events_pb2.Delivery.ValueType(gone.delivery)
    deleted.changed.extend(await purge(connection, [*counted, (gone.id, gone.version)]))
    await outbox.insert(connection, partition_key=gone.author_id, payload=event.SerializeToString())
    return Written(gone, list(deleted.changed))


async def purge(
    connection: Connection, counted: Sequence[tuple[int, int]]
) -> list[events_pb2.TweetVersion]:
    """Tells all servers to forget what they keep of changed tweets."""
    for tweet_id, version in counted:
        await purges.insert(connection, purges.Kind.TWEET, tweet_id, version)
    return [events_pb2.TweetVersion(tweet_id=t, version=version) for t, version in counted]


def stamped(row: TweetRow, stamp: AuthorStamp, location: str) -> tuple[TweetRow, bool]:
    """Returns the tweet with the way of its author's tier and its place, and whether it is the
    author's first that is pulled."""
    delivery = fanout.plan(stamp.tier)
    first_pulled = delivery is Delivery.PULL and stamp.first_pulled_tweet_id is None
    return row._replace(delivery=int(delivery), location=location or stamp.location), first_pulled


def created_event(
    row: TweetRow,
    notices: Notices,
    *,
    first_pulled: bool,
    changed: Iterable[events_pb2.TweetVersion] = (),
    trace: str = "",
) -> bytes:
    """Returns the serialised event of a tweet. `trace` is where another task writes it."""
    event = new_event()
    event.trace = trace or event.trace
    created = event.tweet_created
    created.entry.CopyFrom(entry_message(row))
    created.delivery = events_pb2.Delivery.ValueType(row.delivery)
    created.first_pulled = first_pulled
    created.tagged = bool(row.hashtags)
    created.mentions.extend(row.mentions)
    created.reply_to = row.reply_to or 0
    created.quote_of = row.quote_of or 0
    created.location = row.location
    created.quoted_author_id = notices.quoted_author
    created.refused_mentions.extend(notices.refused_mentions)
    created.changed.extend(changed)
    return event.SerializeToString()


def count_changes(row: TweetRow, change: int) -> Mapping[int, CountChange]:
    """Returns what a tweet's coming (+1) or going (-1) changes on the tweets that it refers to."""
    changes: dict[int, CountChange] = {}
    if row.retweet_of is not None:
        changes[row.retweet_of] = CountChange(retweets=change)
    if row.reply_to is not None:
        changes[row.reply_to] = CountChange(replies=change)
    if row.quote_of is not None:
        # A reply may quote what it answers.
        replies = change if row.quote_of == row.reply_to else 0
        changes[row.quote_of] = CountChange(replies=replies, quotes=change)
    return changes


def new_event() -> events_pb2.Event:
    """Returns an event of now."""
    event = events_pb2.Event()
    event.occurred_at.FromMilliseconds(int(time.time() * 1000))
    event.trace = traces.current()
    return event


def entry_of(row: TweetRow) -> Entry:
    """Returns what timelines hold of a tweet."""
    other = row.original_author_id or row.replied_author_id
    return tweet_entry(row.id, row.author_id, row.retweet_of, other)


def entry_message(row: TweetRow) -> events_pb2.TimelineEntry:
    """Returns the same as events tell it."""
    return events_pb2.TimelineEntry(
        tweet_id=row.id,
        author_id=row.author_id,
        original_id=row.retweet_of or 0,
        original_author_id=row.original_author_id or 0,
        replied_author_id=row.replied_author_id or 0,
    )
