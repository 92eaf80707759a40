from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import stream_token
from domain.errors import InvalidArgument
from domain.stream_token import DELIVERED_MAX, TEXT_MAX, Delivered, Token

PARTITIONS = 3
numbers = st.integers(0, (1 << 64) - 1)
positions = st.one_of(st.just(""), st.tuples(numbers, numbers).map("{0[0]}-{0[1]}".format))
tokens = st.builds(
    Token,
    at=numbers,
    positions=st.tuples(*[positions] * PARTITIONS),
    floors=st.tuples(*[numbers] * PARTITIONS),
    since=numbers,
    delivered=st.lists(
        st.builds(Delivered, st.integers(0, PARTITIONS - 1), numbers), max_size=5
    ).map(tuple),
)


def encoded(token: Token) -> str:
    reach = stream_token.encode_reach(at=token.at, positions=token.positions, floors=token.floors)
    return reach + stream_token.encode_own(since=token.since, delivered=token.delivered)


@given(tokens)
def test_a_token_says_what_was_put_into_it(token: Token) -> None:
    assert stream_token.decode(encoded(token), partitions=PARTITIONS) == token


@given(tokens, st.data())
def test_no_other_text_breaks_anything(token: Token, data: st.DataObject) -> None:
    text = encoded(token)
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("A_-z9=+ é\0"))

    # It says something else, or is refused; no other error comes of it.
    with suppress(InvalidArgument):
        stream_token.decode(text[:at] + letter + text[at + 1 :], partitions=PARTITIONS)


@given(st.text(max_size=50))
def test_any_text_is_a_token_or_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidArgument):
        stream_token.decode(text, partitions=PARTITIONS)


def test_a_token_of_another_number_of_partitions_is_refused() -> None:
    token = Token(1, ("", "1-2"), (0, 0), 0, ())

    with pytest.raises(InvalidArgument):
        stream_token.decode(encoded(token), partitions=PARTITIONS)


def test_a_token_names_so_many_delivered_and_no_more() -> None:
    def of(count: int) -> str:
        delivered = tuple(Delivered(0, number) for number in range(count))
        return encoded(Token(1, ("",) * 3, (0,) * 3, 0, delivered))

    assert len(stream_token.decode(of(DELIVERED_MAX), partitions=3).delivered) == DELIVERED_MAX
    with pytest.raises(InvalidArgument):
        stream_token.decode(of(DELIVERED_MAX + 1), partitions=3)


def test_a_token_has_so_many_characters_and_no_more() -> None:
    # Positions of many partitions make it long.
    def of(partitions: int) -> str:
        return encoded(Token(1, ("1-1",) * partitions, ((1 << 64) - 1,) * partitions, 0, ()))

    longest = max(count for count in range(900, 1_000) if len(of(count)) <= TEXT_MAX)

    assert TEXT_MAX - 20 < len(of(longest)) <= TEXT_MAX < len(of(longest + 1))
    assert stream_token.decode(of(longest), partitions=longest).at == 1
    with pytest.raises(InvalidArgument):
        stream_token.decode(of(longest + 1), partitions=longest + 1)
