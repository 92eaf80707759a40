from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import notification
from domain.errors import InvalidArgument
from domain.ids import MAX_ID
from domain.notification import Cursor, Deed, Kind, Relation, RelationKind

AUTHOR, ADA, GRACE, ALAN = 1, 2, 3, 4
TWEET = 100


def told(
    *,
    replied: int = 0,
    quoted: int = 0,
    mentions: Sequence[int] = (),
    refused: Sequence[int] = (),
) -> dict[int, Kind]:
    deeds = notification.of_tweet(
        tweet=TWEET,
        author=AUTHOR,
        replied_author=replied,
        quoted_author=quoted,
        mentions=mentions,
        refused_mentions=refused,
    )
    assert len({deed.recipient for deed in deeds}) == len(deeds), "each is told once"
    assert all((deed.subject, deed.actor) == (TWEET, AUTHOR) for deed in deeds)
    return {deed.recipient: deed.kind for deed in deeds}


def test_each_is_told_the_nearest_reason_only() -> None:
    assert told(replied=ADA, quoted=GRACE, mentions=[ADA, GRACE, ALAN]) == {
        ADA: Kind.REPLY, GRACE: Kind.QUOTE, ALAN: Kind.MENTION,
    }  # fmt: skip
    assert told(replied=ADA, quoted=ADA) == {ADA: Kind.REPLY}


def test_a_refused_mention_is_not_told_but_an_answer_is() -> None:
    assert told(mentions=[ADA, GRACE], refused=[ADA]) == {GRACE: Kind.MENTION}


def test_nobody_is_told_of_own_doings() -> None:
    assert told(replied=AUTHOR, quoted=AUTHOR, mentions=[AUTHOR]) == {}
    assert notification.of_like(tweet=TWEET, author=ADA, actor=ADA) == []
    assert notification.of_retweet(original=TWEET, original_author=ADA, actor=ADA) == []
    assert notification.of_like(tweet=TWEET, author=ADA, actor=GRACE) == [
        Deed(ADA, Kind.LIKE, TWEET, GRACE)
    ]


def test_a_block_hides_both_ways_and_a_mute_one() -> None:
    assert notification.hides(Relation(ADA, GRACE, RelationKind.BLOCK)) == [
        (ADA, GRACE), (GRACE, ADA),
    ]  # fmt: skip
    assert notification.hides(Relation(ADA, GRACE, RelationKind.MUTE)) == [(ADA, GRACE)]


@given(st.integers(1, MAX_ID), st.integers(1, MAX_ID))
def test_a_cursor_says_what_was_put_into_it(one: int, other: int) -> None:
    cursor = Cursor(max(one, other), min(one, other))

    assert notification.decode_cursor(notification.encode_cursor(cursor)) == cursor


@given(st.integers(0, MAX_ID))
def test_a_token_says_what_was_put_into_it(place: int) -> None:
    assert notification.decode_token(notification.encode_token(place)) == place


@given(st.text(min_size=1, max_size=40))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        notification.decode_cursor(text)
    with pytest.raises(InvalidArgument):
        notification.decode_token(text)
