"""The rules for text from outside: Unicode form, length, characters, URLs, places.

Each function takes the field's name as in the JSON contract (`displayName`, `mediaUrls[1]`) and
raises InvalidArgument that names it.
"""

import re
import unicodedata
from urllib.parse import urlsplit

import regex

from domain.errors import InvalidArgument

# In UTF-8: a page of 100 quotes with 4 URLs each, and 4 more in what they quote, must fit into one
# message of 4 MB.
URL_BYTES_MAX = 2_048
# A code point decomposes into at most 4, so longer input cannot be short enough in NFC. Checked
# before normalising, whose time grows with the square of a run of combining marks.
DECOMPOSITION_MAX = 4

_SURROGATE = re.compile("[\ud800-\udfff]")
# C0, DEL and C1 controls: they show nothing, and terminals obey them. NUL cannot be stored at all.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Embeddings, overrides and isolates, which order what stands beside the text too; and the two
# separators that end a line. The marks U+200E and U+200F do neither, and names have them.
_NOT_IN_ONE_LINE = re.compile("[\u202a-\u202e\u2066-\u2069\u2028\u2029]")
# White space, what Unicode says may be left out when it is shown, and a Braille pattern of no dots.
_UNSEEN = regex.compile(r"[\p{White_Space}\p{Default_Ignorable_Code_Point}\u2800]*")
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f-\xa0\s<>\"\\^`{|}]")
_LOCATION = re.compile(r"[a-z]{2}(-[a-z0-9]{1,3})?")


def clean(
    field: str, value: str, *, minimum: int = 0, maximum: int, several_lines: bool = False
) -> str:
    """Returns `value` in NFC, of `minimum` to `maximum` code points counted after normalising.

    Refuses NUL, lone surrogates and control characters; tabs and line ends are let through where
    `several_lines` is true.
    """
    well_formed(field, value)
    if len(value) > maximum * DECOMPOSITION_MAX:
        raise InvalidArgument.of(field, _too_long(maximum))
    normal = unicodedata.normalize("NFC", value)
    if len(normal) > maximum:
        raise InvalidArgument.of(field, _too_long(maximum))
    if not normal and minimum:
        raise InvalidArgument.of(field, "must not be empty")
    if len(normal) < minimum:
        raise InvalidArgument.of(field, f"must have at least {minimum} characters")
    if (_CONTROL_BUT_LINES if several_lines else _CONTROL).search(normal):
        raise InvalidArgument.of(field, "must not contain control characters")
    return normal


def one_line(field: str, value: str, *, maximum: int) -> str:
    """The same as `clean` for what is shown within a line of others' words, such as a name: there
    must be something to see, and it must not turn what stands beside it around. Empty passes."""
    normal = clean(field, value, maximum=maximum)
    if _NOT_IN_ONE_LINE.search(normal):
        raise InvalidArgument.of(field, "must not contain bidirectional controls or line ends")
    if normal:
        visible(field, normal)
    return normal


def visible(field: str, value: str) -> None:
    """Refuses text of which nothing is to be seen."""
    if _UNSEEN.fullmatch(value):
        raise InvalidArgument.of(field, "must not be only white space or invisible characters")


def well_formed(field: str, value: str) -> None:
    """Refuses what no field may contain: NUL, which cannot be stored, and lone surrogates."""
    if "\x00" in value:
        raise InvalidArgument.of(field, "must not contain NUL")
    if _SURROGATE.search(value):
        raise InvalidArgument.of(field, "must be well-formed Unicode")


def url(field: str, value: str) -> str:
    """Returns an http or https URL as it is; raises for the empty string too."""
    well_formed(field, value)
    if len(value.encode()) > URL_BYTES_MAX:
        raise InvalidArgument.of(field, f"must have at most {URL_BYTES_MAX} bytes")
    if not _is_url(value):
        raise InvalidArgument.of(field, "must be an http or https URL, without user or password")
    return value


def location(field: str, value: str) -> str:
    """Returns a place's slug by ISO 3166 as it is; the empty string is no place and passes."""
    well_formed(field, value)
    if value and not _LOCATION.fullmatch(value):
        raise InvalidArgument.of(
            field, "must be an ISO 3166 code in lower case, as `us` or `us-ny`"
        )
    return value


def parent_location(slug: str) -> str | None:
    """Returns the country of a subdivision (`us` for `us-ny`), None for a country or no place."""
    country, dash, _ = slug.partition("-")
    return country if dash else None


def _is_url(value: str) -> bool:
    if _NOT_IN_URL.search(value):
        return False
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises ValueError where it is no port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def _too_long(maximum: int) -> str:
    return f"must have at most {maximum} characters"
