import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import paging
from domain.errors import InvalidArgument
from domain.ids import MAX_ID


@pytest.mark.parametrize(
    ("value", "expected"), [(None, 20), (1, 1), (20, 20), (100, 100), (101, 100), (2**31 - 1, 100)]
)
def test_limit_has_a_default_and_a_maximum(value: int | None, expected: int) -> None:
    assert paging.limit(value) == expected


@pytest.mark.parametrize("value", [0, -1, -(2**31)])
def test_limit_below_one_is_refused(value: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        paging.limit(value)

    assert [violation.field for violation in caught.value.violations] == ["limit"]


@given(st.integers(1, MAX_ID))
def test_cursor_comes_back_as_it_went(position: int) -> None:
    assert paging.decode_cursor(paging.encode_cursor(position)) == position


def test_empty_cursor_is_the_first_page() -> None:
    assert paging.decode_cursor("") is None


@given(st.text(min_size=1, max_size=20) | st.text("AQE_-=+/", min_size=11, max_size=13))
def test_what_encode_does_not_write_is_refused(text: str) -> None:
    if text == written_again(text):
        return

    with pytest.raises(InvalidArgument) as caught:
        paging.decode_cursor(text)
    assert [violation.field for violation in caught.value.violations] == ["cursor"]


def written_again(text: str) -> str | None:
    try:
        content = base64.urlsafe_b64decode(text)
    except ValueError:
        return None
    position = int.from_bytes(content[1:], "big")
    return paging.encode_cursor(position) if 1 <= position <= MAX_ID else None


@pytest.mark.parametrize("position", [0, -1, MAX_ID + 1])
def test_cursor_stands_only_at_an_id(position: int) -> None:
    with pytest.raises(ValueError, match="stands at an id"):
        paging.encode_cursor(position)
