"""What the sample world's people were told: its follows, replies and mentions as notifications, as
if their events had been handled."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice

from domain import notification
from domain.ids import minted_at_ms
from domain.notification import Changes, Deed, State
from storage import notification_changes
from storage.bulk import FollowRow, TweetRow
from storage.database import Connection

CHUNK = 5_000
FOLLOWS = 5_000  # the newest: those of weeks ago are no news
BEFORE_ALL_EVENTS = 0  # a sequence: whatever event comes about one of these is newer


async def write(
    connection: Connection, follows: Sequence[FollowRow], tweets: Iterable[TweetRow]
) -> None:
    """Writes them in the caller's transaction, the oldest first."""
    deeds = _deeds(follows[-FOLLOWS:], tweets)
    while chunk := list(islice(deeds, CHUNK)):
        changes = Changes()
        for at, told in chunk:
            changes.note_deeds(told, State(True, BEFORE_ALL_EVENTS, at))
        if not changes.empty:
            await notification_changes.apply(connection, changes)


def _deeds(
    follows: Iterable[FollowRow], tweets: Iterable[TweetRow]
) -> Iterator[tuple[datetime, list[Deed]]]:
    for follow in follows:
        at = datetime.fromtimestamp(minted_at_ms(follow.id) / 1000, UTC)
        yield at, notification.of_follow(follower=follow.follower_id, followee=follow.followee_id)
    for tweet in tweets:
        told = notification.of_tweet(
            tweet=tweet.id,
            author=tweet.author_id,
            replied_author=tweet.replied_author_id or 0,
            quoted_author=0,
            mentions=tweet.mentions,
            refused_mentions=(),
        )
        yield tweet.created_at, told
