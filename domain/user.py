"""What an account may be called and say about itself."""

import re
import unicodedata
from dataclasses import dataclass

from domain import text
from domain.errors import InvalidArgument

USERNAME_LENGTH_MIN = 3
USERNAME_LENGTH_MAX = 50
PASSWORD_LENGTH_MIN = 8
PASSWORD_LENGTH_MAX = 128
DISPLAY_NAME_LENGTH_MAX = 100
BIO_LENGTH_MAX = 500

_USERNAME = re.compile(r"[A-Za-z0-9_]{3,50}")
_NOT_IN_USERNAME = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True, slots=True)
class Profile:
    """What an account says about itself when it is made."""

    username: str
    display_name: str
    bio: str
    location: str


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """What to change of a profile; None stays as it is, an empty text is cleared."""

    display_name: str | None = None
    bio: str | None = None
    location: str | None = None
    avatar_url: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be changed."""
        return (self.display_name, self.bio, self.location, self.avatar_url) == (None,) * 4


def draft(username: str, display_name: str, bio: str, location: str) -> Profile:
    """Returns the profile of a new account; raises InvalidArgument for what is wrong."""
    checked = check_username(username)
    return Profile(
        username=checked,
        display_name=_display_name(display_name) or checked,
        bio=_bio(bio),
        location=text.location("location", location),
    )


def change(
    display_name: str | None, bio: str | None, location: str | None, avatar_url: str | None
) -> ProfileChange:
    """Returns a change of a profile; raises InvalidArgument for what is wrong."""
    return ProfileChange(
        display_name=None if display_name is None else _display_name(display_name),
        bio=None if bio is None else _bio(bio),
        location=None if location is None else text.location("location", location),
        avatar_url=_avatar_url(avatar_url) if avatar_url else avatar_url,
    )


def check_username(username: str) -> str:
    """Returns a username as it is; raises InvalidArgument where no account can have it."""
    text.well_formed("username", username)
    if _NOT_IN_USERNAME.search(username):
        raise InvalidArgument.of("username", "must consist of a-z, A-Z, 0-9 and _")
    return text.clean(
        "username", username, minimum=USERNAME_LENGTH_MIN, maximum=USERNAME_LENGTH_MAX
    )


def is_username(username: str) -> bool:
    """Whether an account can have that name."""
    return _USERNAME.fullmatch(username) is not None


def check_password(password: str) -> str:
    """Returns a password in NFC, so that every keyboard types the same one.

    Control characters other than NUL are let through: they are never shown.
    """
    text.well_formed("password", password)
    normal = (
        unicodedata.normalize("NFC", password)
        # Longer ones cannot be short enough in NFC, and normalising them may take very long.
        if len(password) <= PASSWORD_LENGTH_MAX * text.DECOMPOSITION_MAX
        else password
    )
    if len(normal) < PASSWORD_LENGTH_MIN:
        raise InvalidArgument.of("password", f"must have at least {PASSWORD_LENGTH_MIN} characters")
    if len(normal) > PASSWORD_LENGTH_MAX:
        raise InvalidArgument.of("password", f"must have at most {PASSWORD_LENGTH_MAX} characters")
    return normal


def check_id(user_id: int) -> int:
    """Returns an account's id as it is; raises InvalidArgument where no account can have it."""
    if user_id < 1:
        raise InvalidArgument.of("id", "must be a positive number")
    return user_id


def _display_name(value: str) -> str:
    return text.one_line("displayName", value, maximum=DISPLAY_NAME_LENGTH_MAX)


def _bio(value: str) -> str:
    return text.clean("bio", value, maximum=BIO_LENGTH_MAX, several_lines=True)


def _avatar_url(value: str) -> str:
    return text.url("avatarUrl", value)
