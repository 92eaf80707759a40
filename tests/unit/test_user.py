import pytest

from domain import user
from domain.errors import InvalidArgument
from domain.user import ProfileChange


def test_draft_takes_the_username_where_there_is_no_display_name() -> None:
    profile = user.draft("Ada_1", "", "", "")

    assert (profile.username, profile.display_name) == ("Ada_1", "Ada_1")


def test_change_keeps_absent_apart_from_empty() -> None:
    assert user.change(None, None, None, None).is_empty
    assert user.change("", None, None, None) == ProfileChange(display_name="")
    assert user.change(None, None, None, "") == ProfileChange(avatar_url="")
    assert not user.change(None, None, "", None).is_empty


@pytest.mark.parametrize("name", ["abc", "A_9", "a" * 50, "___"])
def test_names_that_can_be(name: str) -> None:
    assert user.check_username(name) == name
    assert user.is_username(name)


@pytest.mark.parametrize(
    "name", ["", "ab", "a" * 51, "a-b", "abc\n", "\u00e4bc", "\uff21bc", "a\x00b"]
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(InvalidArgument):
        user.check_username(name)
    assert not user.is_username(name)


def test_password_is_counted_and_kept_in_nfc() -> None:
    assert user.check_password("e\u0301" * 8) == "\u00e9" * 8
    assert user.check_password("\u1f02\u0345" * 128) == "\u1f82" * 128
    for wrong in ("", "e\u0301" * 7, "a" * 129, "\u0301\u0323" * 1_000_000, "12345678\x00"):
        with pytest.raises(InvalidArgument) as caught:
            user.check_password(wrong)
        assert [violation.field for violation in caught.value.violations] == ["password"]


def test_ids_are_positive() -> None:
    assert user.check_id(1) == 1
    for wrong in (0, -1):
        with pytest.raises(InvalidArgument):
            user.check_id(wrong)
