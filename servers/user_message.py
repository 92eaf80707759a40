"""How an account looks outside: from rows to the messages of `user.proto`."""

from chirp.v1 import user_pb2

from storage.follows import RelationRow
from storage.users import SummaryRow, UserRow


def present(row: UserRow, relation: RelationRow | None) -> user_pb2.User:
    """Returns an account's message; `relation` is the viewer's, None where nobody is signed in."""
    user = user_pb2.User(
        id=row.id,
        username=row.username,
        display_name=row.display_name,
        bio=row.bio,
        location=row.location,
        avatar_url=row.avatar_url,
        follower_count=row.follower_count,
        following_count=row.following_count,
        tweet_count=row.tweet_count,
        is_celebrity=row.tier > user_pb2.TIER_NORMAL,
        tier=user_pb2.Tier.ValueType(row.tier),
    )
    user.created_at.FromDatetime(row.created_at)
    if relation is not None:
        user.following = relation.following
        user.followed_by = relation.followed_by
        user.blocked = relation.blocked
        user.muted = relation.muted
    return user


def present_summary(row: SummaryRow) -> user_pb2.UserSummary:
    """Returns an account's short form."""
    return user_pb2.UserSummary(id=row.id, username=row.username, display_name=row.display_name)
