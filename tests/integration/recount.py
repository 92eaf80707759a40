"""Counts against a recount from the rows: on deleted tweets too, and on every account."""

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
