"""Spliced bytes are the bytes of the message: what protobuf would have written, each field once."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from chirp.v1 import timeline_pb2, tweet_pb2, user_pb2
from google.protobuf import unknown_fields
from hypothesis import given
from hypothesis import strategies as st

from servers import tweet_records
from storage.tweets import TweetRow

SINGULAR = {f.number for f in tweet_pb2.Tweet.DESCRIPTOR.fields if not f.is_repeated}

big = st.integers(1, 2**63 - 1)
maybe = st.one_of(st.none(), big)
count = st.integers(0, 2**31 - 1)
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=280)

rows = st.builds(
    TweetRow,
    id=big,
    author_id=big,
    content=text,
    media_urls=st.lists(text, max_size=4),
    hashtags=st.lists(text, max_size=5),
    mentions=st.lists(big, max_size=5),
    reply_to=maybe,
    replied_author_id=maybe,
    retweet_of=maybe,
    original_author_id=maybe,
    quote_of=maybe,
    conversation_id=big,
    location=st.sampled_from(("", "us", "us-ny")),
    like_count=count,
    retweet_count=count,
    reply_count=count,
    quote_count=count,
    delivery=st.sampled_from((1, 2)),
    version=big,
    created_at=st.datetimes(datetime(2024, 1, 1), datetime(2093, 1, 1), timezones=st.just(UTC)),
    deleted_at=st.none(),
)
summaries = st.builds(user_pb2.UserSummary, id=big, username=text, display_name=text)


def expected(row: TweetRow, author: user_pb2.UserSummary) -> tweet_pb2.Tweet:
    tweet = tweet_pb2.Tweet(
        id=row.id,
        author_id=row.author_id,
        author=author,
        content=row.content,
        media_urls=row.media_urls,
        hashtags=row.hashtags,
        mentions=row.mentions,
        reply_to=row.reply_to or 0,
        retweet_of=row.retweet_of or 0,
        quote_of=row.quote_of or 0,
        conversation_id=row.conversation_id,
        location=row.location,
        like_count=row.like_count,
        retweet_count=row.retweet_count,
        reply_count=row.reply_count,
        quote_count=row.quote_count,
    )
    tweet.created_at.FromDatetime(row.created_at)
    return tweet


def stored(row: TweetRow) -> tweet_records.Record:
    """A record on its way through a cache."""
    message = tweet_pb2.TweetRecord.FromString(tweet_records.from_row(row).SerializeToString())
    return tweet_records.from_proto(message)


def field_numbers(message: bytes) -> Counter[int]:
    """How often each field stands in serialised bytes."""
    empty: Any = user_pb2.GetMeRequest.FromString(message)
    return Counter(field.field_number for field in unknown_fields.UnknownFieldSet(empty))


@given(rows, summaries)
def test_spliced_tweet_is_the_message(row: TweetRow, author: user_pb2.UserSummary):
    spliced = tweet_records.tweet_bytes(stored(row), tweet_records.author_field(author))

    assert tweet_pb2.Tweet.FromString(spliced) == expected(row, author)


@given(rows, summaries)
def test_each_singular_field_stands_once(row: TweetRow, author: user_pb2.UserSummary):
    spliced = tweet_records.tweet_bytes(stored(row), tweet_records.author_field(author))

    numbers = field_numbers(spliced)

    assert all(numbers[number] <= 1 for number in SINGULAR)
    assert numbers.keys() <= {field.number for field in tweet_pb2.Tweet.DESCRIPTOR.fields}


@given(st.lists(st.tuples(rows, summaries), max_size=4), st.text(max_size=200), st.booleans())
def test_spliced_page_is_the_message(
    entries: list[tuple[TweetRow, user_pb2.UserSummary]], cursor: str, has_more: bool
):
    frames = [
        tweet_records.frame(
            tweet_records.tweet_bytes(stored(row), tweet_records.author_field(author))
        )
        for row, author in entries
    ]

    page = tweet_records.page_bytes(frames, next_cursor=cursor, has_more=has_more)

    tweets = [expected(row, author) for row, author in entries]
    answer = timeline_pb2.GetHomeTimelineResponse(
        tweets=tweets, next_cursor=cursor, has_more=has_more
    )
    assert timeline_pb2.GetHomeTimelineResponse.FromString(page) == answer
    numbers = field_numbers(page)
    assert (numbers[2], numbers[3]) == (bool(cursor), has_more)
    user_page = timeline_pb2.GetUserTimelineResponse.FromString(page)
    assert list(user_page.tweets) == tweets
    batch = tweet_records.page_bytes(frames, next_cursor="", has_more=False)
    assert list(tweet_pb2.BatchGetTweetsResponse.FromString(batch).tweets) == tweets


@given(rows, summaries, st.booleans(), st.booleans())
def test_kept_frame_takes_the_marks_of_each_viewer(
    row: TweetRow, author: user_pb2.UserSummary, liked: bool, retweeted: bool
):
    record = stored(row)
    tweet = tweet_records.tweet_bytes(record, tweet_records.author_field(author))
    record.kept_frame = tweet_records.frame(tweet + tweet_records.UNMARKED)

    page = record.marked_frame(tweet_records.MARKS[liked, retweeted])

    wanted = expected(row, author)
    wanted.liked, wanted.retweeted = liked, retweeted
    assert list(timeline_pb2.GetHomeTimelineResponse.FromString(page).tweets) == [wanted]
    assert record.marked_frame(tweet_records.UNMARKED) == record.kept_frame


@given(rows)
def test_record_of_a_deleted_tweet_holds_nothing_of_it(row: TweetRow):
    record = stored(row._replace(deleted_at=datetime.now(UTC)))

    assert record == tweet_records.Record(row.id, row.version, row.author_id, b"", b"", True, 0, 0)
