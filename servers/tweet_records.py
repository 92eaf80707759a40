"""Tweets as bytes: a record is made once from a row, and answers are put together from records.

An answer is a repeated `Tweet tweets = 1`. A tweet's frame in it is tag, length, then body, author
and counts, each singular field once: Envoy's transcoder refuses a repeated one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from chirp.v1 import tweet_pb2, user_pb2

from domain import paging, varint
from storage.tweets import TweetRow

_AUTHOR_TAG = bytes([tweet_pb2.Tweet.AUTHOR_FIELD_NUMBER << 3 | 2])
_TWEETS_TAG = bytes([1 << 3 | 2])
# Field numbers from 16 on take two bytes of tag.
_RETWEETED_TAG = b"\x92\x01"  # Tweet.retweeted_tweet = 18
_QUOTED_TAG = b"\x9a\x01"  # Tweet.quoted_tweet = 19

MARKS = {
    (liked, retweeted): b"\xa0\x01" + bytes([liked]) + b"\xa8\x01" + bytes([retweeted])
    for liked in (False, True)
    for retweeted in (False, True)
}
"""`Tweet.liked = 20` and `Tweet.retweeted = 21`; both are sent also when false."""


UNMARKED = MARKS[False, False]


@dataclass(slots=True)
class Record:
    """What answers need of a tweet, ready to be spliced. The frame is kept, and the cursor too: a
    page is 20 frames, and they rarely change."""

    tweet_id: int
    version: int
    author_id: int
    body: bytes
    counts: bytes
    deleted: bool
    original_id: int
    quoted_id: int
    refers: bool = field(init=False)
    """Whether it repeats or quotes another tweet."""
    framed_at: int = -1
    """The generation of names (servers/user_names.py) that `kept_frame` holds for; -1: none."""
    kept_frame: bytes = b""
    """The tweet in an answer to a viewer who marked nothing that it shows."""
    parts: "tuple[Record | None, ...]" = ()
    """What `kept_frame` shows beside this tweet; another version of a part is another object."""
    _cursor: str = ""

    def __post_init__(self) -> None:
        """Looks once at what every page asks."""
        self.refers = bool(self.original_id or self.quoted_id)

    def marked_frame(self, marks: bytes) -> bytes:
        """Returns `kept_frame` for a viewer with these marks on the tweet, one of MARKS. Of a tweet
        that refers to another, only without marks: the other's follow its own."""
        return self.kept_frame if marks is UNMARKED else self.kept_frame[: -len(marks)] + marks

    def cursor(self) -> str:
        """Returns the cursor of the page below this tweet."""
        if not self._cursor:
            self._cursor = paging.encode_cursor(self.tweet_id)
        return self._cursor


def from_row(row: TweetRow) -> tweet_pb2.TweetRecord:
    """Returns the record of a row."""
    if row.deleted_at is not None:
        return tweet_pb2.TweetRecord(
            id=row.id, version=row.version, author_id=row.author_id, deleted=True
        )
    body = tweet_pb2.Tweet(
        id=row.id,
        author_id=row.author_id,
        content=row.content,
        media_urls=row.media_urls,
        hashtags=row.hashtags,
        mentions=row.mentions,
        reply_to=row.reply_to or 0,
        retweet_of=row.retweet_of or 0,
        quote_of=row.quote_of or 0,
        conversation_id=row.conversation_id,
        location=row.location,
    )
    body.created_at.FromDatetime(row.created_at)
    counts = tweet_pb2.Tweet(
        like_count=row.like_count,
        retweet_count=row.retweet_count,
        reply_count=row.reply_count,
        quote_count=row.quote_count,
    )
    return tweet_pb2.TweetRecord(
        id=row.id,
        version=row.version,
        author_id=row.author_id,
        body=body.SerializeToString(),
        counts=counts.SerializeToString(),
        original_id=row.retweet_of or 0,
        quoted_id=row.quote_of or 0,
    )


def from_proto(message: tweet_pb2.TweetRecord) -> Record:
    """Returns a record from its wire form."""
    return Record(
        message.id,
        message.version,
        message.author_id,
        message.body,
        message.counts,
        message.deleted,
        message.original_id,
        message.quoted_id,
    )


def gone(record: Record) -> Record:
    """Returns the record of the same tweet, deleted."""
    return Record(record.tweet_id, record.version, record.author_id, b"", b"", True, 0, 0)


def author_field(summary: user_pb2.UserSummary) -> bytes:
    """Returns `Tweet.author` as it stands inside a tweet."""
    content = summary.SerializeToString()
    return _AUTHOR_TAG + varint.encode(len(content)) + content


def tweet_bytes(record: Record, author: bytes) -> bytes:
    """Returns a serialised Tweet."""
    return record.body + author + record.counts


def frame(tweet: bytes) -> bytes:
    """Returns a tweet as it stands in an answer's `tweets`."""
    return _TWEETS_TAG + varint.encode(len(tweet)) + tweet


def member(number: int, tweet: bytes) -> bytes:
    """Returns a tweet as it stands in an answer's field of that number, which is 1 to 15."""
    return bytes((number << 3 | 2,)) + varint.encode(len(tweet)) + tweet


def retweeted_field(tweet: bytes) -> bytes:
    """Returns `Tweet.retweeted_tweet` as it stands inside a tweet."""
    return _RETWEETED_TAG + varint.encode(len(tweet)) + tweet


def quoted_field(tweet: bytes) -> bytes:
    """Returns `Tweet.quoted_tweet` as it stands inside a tweet."""
    return _QUOTED_TAG + varint.encode(len(tweet)) + tweet


def page_bytes(frames: Iterable[bytes], *, next_cursor: str, has_more: bool) -> bytes:
    """Returns a page: `tweets = 1`, `next_cursor = 2`, `has_more = 3`."""
    parts = list(frames)
    if next_cursor:
        encoded = next_cursor.encode()
        parts.append(b"\x12" + varint.encode(len(encoded)) + encoded)
    if has_more:
        parts.append(b"\x18\x01")
    return b"".join(parts)
