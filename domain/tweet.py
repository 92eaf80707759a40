"""What a tweet may say, and what is found in it: hashtags and mentions."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from domain import text
from domain.errors import InvalidArgument

CONTENT_MAX = 280
MEDIA_URLS_MAX = 4
HASHTAG_MAX = 100  # code points after folding; longer ones are text
REQUEST_ID_MAX = 64
MENTIONS_MAX = 50  # accounts resolved in one tweet: 280 characters hold 56 names of 4 with the @

_URL = regex.compile(r"https?://\S+", regex.IGNORECASE)
# A tag starts where no word, & (HTML entities) or / (paths) goes on, holds letters, marks, digits
# and _, at least one of them no digit. U+FF03 and U+FF20 are # and @ as East Asian keyboards
# type them.
_HASHTAG = regex.compile(
    r"(?<![\p{L}\p{M}\p{N}_&/])[#\uff03]([\p{L}\p{M}\p{N}_]*[\p{L}_][\p{L}\p{M}\p{N}_]*)"
)
_TAG = regex.compile(r"[\p{L}\p{M}\p{N}_]*[\p{L}_][\p{L}\p{M}\p{N}_]*")
_NOT_IN_TAG = regex.compile(r"[^\p{L}\p{M}\p{N}_]+")
_MENTION = regex.compile(
    r"(?<![A-Za-z0-9_@\uff20/.&])[@\uff20]([A-Za-z0-9_]{3,50})(?![A-Za-z0-9_@])"
)
_REQUEST_ID = regex.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Draft:
    """A tweet that may be posted: checked, in NFC, with what was found in it."""

    content: str
    media_urls: Sequence[str]
    hashtags: Sequence[str]
    mentioned_names: Sequence[str]
    location: str
    reply_to: int
    quote_of: int
    request_id: str


def draft(
    *,
    content: str,
    media_urls: Sequence[str],
    location: str,
    reply_to: int,
    quote_of: int,
    request_id: str,
) -> Draft:
    """Checks what a client sent; raises InvalidArgument that names the field."""
    normal = text.clean("content", content, minimum=1, maximum=CONTENT_MAX, several_lines=True)
    if not normal.strip():
        raise InvalidArgument.of("content", "must not be only white space")
    if len(media_urls) > MEDIA_URLS_MAX:
        raise InvalidArgument.of("mediaUrls", f"must hold at most {MEDIA_URLS_MAX} URLs")
    for position, url in enumerate(media_urls):
        text.url(f"mediaUrls[{position}]", url)
    for field, value in (("replyTo", reply_to), ("quoteOf", quote_of)):
        if value < 0:
            raise InvalidArgument.of(field, "must be a tweet id")
    if request_id and (len(request_id) > REQUEST_ID_MAX or not _REQUEST_ID.fullmatch(request_id)):
        raise InvalidArgument.of(
            "requestId", f"must be 1 to {REQUEST_ID_MAX} printable ASCII characters"
        )
    return Draft(
        content=normal,
        media_urls=tuple(media_urls),
        hashtags=hashtags(normal),
        mentioned_names=mentioned_names(normal),
        location=text.location("location", location),
        reply_to=reply_to,
        quote_of=quote_of,
        request_id=request_id,
    )


def hashtags(content: str) -> list[str]:
    """Returns the folded hashtags (NFKC, case-folded, no #), each once, in order of appearance."""
    return list(_spelled_hashtags(content))


def spellings(content: str, hashtags: Sequence[str]) -> list[str]:
    """Returns how each of a tweet's hashtags is spelled in it, without #; where it stands twice,
    the first time."""
    spelled = _spelled_hashtags(content) if hashtags else {}
    return [spelled.get(name, name) for name in hashtags]


def is_tag(text: str) -> bool:
    """Whether a text, spelled or folded, can be a hashtag, without #."""
    return len(text) <= HASHTAG_MAX and _TAG.fullmatch(text) is not None


def fold(tag: str) -> str:
    """Returns the one name under which all spellings of a tag are counted."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", tag).casefold())
    # Some letters and digits fold into several characters with others between (U+00BD: a fraction
    # slash, U+FDFA: spaces): without these, the name can be written as a tag again.
    return unicodedata.normalize("NFKC", _NOT_IN_TAG.sub("", folded))


def mentioned_names(content: str) -> list[str]:
    """Returns the names after @, in lower case, each once, in order, at most MENTIONS_MAX."""
    names = (match[1].lower() for match in _MENTION.finditer(_without_urls(content)))
    return list(dict.fromkeys(names))[:MENTIONS_MAX]


def _spelled_hashtags(content: str) -> dict[str, str]:
    spelled: dict[str, str] = {}
    for match in _HASHTAG.finditer(_without_urls(content)):
        name = fold(match[1])
        if is_tag(name):
            spelled.setdefault(name, match[1])
    return spelled


def _without_urls(content: str) -> str:
    return _URL.sub(" ", content)
