"""Counts against a recount from the rows, on deleted tweets too, and rows against the events."""

from tests.integration.accounts import Accounts

_TWEETS = """
SELECT id, like_count, retweet_count, reply_count, quote_count, likes, retweets, replies, quotes
FROM tweets AS t,
 LATERAL (SELECT count(*) FROM likes WHERE tweet_id = t.id) AS l (likes),
 LATERAL (SELECT count(*) FROM tweets WHERE retweet_of = t.id AND deleted_at IS NULL)
  AS r (retweets),
 LATERAL (SELECT count(*) FROM tweets WHERE reply_to = t.id AND deleted_at IS NULL)
  AS a (replies),
 LATERAL (SELECT count(*) FROM tweets WHERE quote_of = t.id AND deleted_at IS NULL)
  AS q (quotes)
WHERE (like_count, retweet_count, reply_count, quote_count)
 <> (likes, retweets, replies, quotes)
"""
_USERS = """
SELECT id, tweet_count, follower_count, following_count, tweets, followers, followees
FROM users AS u,
 LATERAL (SELECT count(*) FROM tweets WHERE author_id = u.id AND deleted_at IS NULL)
  AS t (tweets),
 LATERAL (SELECT count(*) FROM follows WHERE followee_id = u.id) AS f (followers),
 LATERAL (SELECT count(*) FROM follows WHERE follower_id = u.id) AS g (followees)
WHERE (tweet_count, follower_count, following_count) <> (tweets, followers, followees)
"""


async def assert_counts_are_exact(accounts: Accounts) -> None:
    """Every count of every tweet and account equals a recount from the rows."""
    assert await accounts.rows(_TWEETS) == []
    assert await accounts.rows(_USERS) == []


async def assert_the_log_gives_the_tables(accounts: Accounts) -> None:
    """Every event changes something, nothing is done to a tweet after its deletion, and all events
    together give the rows."""
    likes: set[tuple[int, int]] = set()
    retweets: set[tuple[int, int]] = set()
    living: set[int] = set()
    for key, event in await accounts.events():
        match event.WhichOneof("kind"):
            case "tweet_liked":
                liked = event.tweet_liked
                assert (key, liked.tweet_id) not in likes and liked.tweet_id in living
                likes.add((key, liked.tweet_id))
            case "tweet_unliked":
                assert event.tweet_unliked.tweet_id in living
                likes.remove((key, event.tweet_unliked.tweet_id))
            case "tweet_created":
                created, entry = event.tweet_created, event.tweet_created.entry
                assert {entry.original_id, created.reply_to, created.quote_of} <= {0, *living}
                living.add(entry.tweet_id)
                if entry.original_id:
                    assert (key, entry.original_id) not in retweets, "retweeted twice"
                    retweets.add((key, entry.original_id))
            case "tweet_deleted":
                entry = event.tweet_deleted.entry
                living.remove(entry.tweet_id)
                if entry.original_id:
                    retweets.remove((key, entry.original_id))
            case _:
                pass
    rows = accounts.rows
    assert likes == set(await rows("SELECT user_id, tweet_id FROM likes"))
    assert living == {
        row[0] for row in await rows("SELECT id FROM tweets WHERE deleted_at IS NULL")
    }
    assert retweets == set(
        await rows(
            "SELECT author_id, retweet_of FROM tweets"
            " WHERE retweet_of IS NOT NULL AND deleted_at IS NULL"
        )
    )
