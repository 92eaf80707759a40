import re
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain import tweet
from domain.errors import InvalidArgument
from domain.tweet import Draft

URL = "https://example.org/"


def draft(**changed: Any) -> Draft:
    fields: dict[str, Any] = {
        "content": "hello",
        "media_urls": (),
        "location": "",
        "reply_to": 0,
        "quote_of": 0,
        "request_id": "",
    }
    return tweet.draft(**{**fields, **changed})


def test_plain_draft_holds_what_was_sent():
    assert draft(
        content="Hi @Ada, see #Café",
        media_urls=[URL + "a", URL + "b"],
        location="us-ny",
        reply_to=7,
        quote_of=8,
        request_id="r-1",
    ) == Draft(
        content="Hi @Ada, see #Café",
        media_urls=(URL + "a", URL + "b"),
        hashtags=["café"],
        mentioned_names=["ada"],
        location="us-ny",
        reply_to=7,
        quote_of=8,
        request_id="r-1",
    )


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ("a", "a"),
        ("a" * 280, "a" * 280),
        ("\U0001f426" * 280, "\U0001f426" * 280),
        ("e\u0301" * 280, "\u00e9" * 280),
        ("two\nlines\tand\r\na tab", "two\nlines\tand\r\na tab"),
        (" spaces stay ", " spaces stay "),
        # NFC keeps what NFKC would change.
        ("\ufb01\u2460", "\ufb01\u2460"),
        ("\u212b", "\u00c5"),
    ],
)
def test_content_is_taken_in_nfc(content: str, stored: str):
    assert draft(content=content).content == stored


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("content", {"content": ""}),
        ("content", {"content": " "}),
        ("content", {"content": "\n\t\u00a0\u2003\u3000"}),
        ("content", {"content": "a" * 281}),
        ("content", {"content": "\U0001f426" * 281}),
        ("content", {"content": "e\u0301" * 281}),
        # U+0958 is longer in NFC than as it is written.
        ("content", {"content": "\u0958" * 141}),
        ("content", {"content": "a" * 1_000_000}),
        ("content", {"content": "a\x00"}),
        ("content", {"content": "a\x1b[31m"}),
        ("content", {"content": "a\x7f"}),
        ("content", {"content": "a\x9b"}),
        ("content", {"content": "a\ud800"}),
        ("mediaUrls", {"media_urls": [URL] * 5}),
        ("mediaUrls[0]", {"media_urls": [""]}),
        ("mediaUrls[1]", {"media_urls": [URL, "ftp://example.org/"]}),
        ("mediaUrls[3]", {"media_urls": [URL, URL, URL, "https://"]}),
        ("mediaUrls[0]", {"media_urls": [URL + "a" * (2_049 - len(URL))]}),
        ("mediaUrls[0]", {"media_urls": [URL + "\x00"]}),
        ("location", {"location": "US"}),
        ("location", {"location": "us-"}),
        ("location", {"location": "us\x00"}),
        ("replyTo", {"reply_to": -1}),
        ("quoteOf", {"quote_of": -(2**63)}),
        ("requestId", {"request_id": "a" * 65}),
        ("requestId", {"request_id": "with space"}),
        ("requestId", {"request_id": "nul\x00"}),
        ("requestId", {"request_id": "line\n"}),
        ("requestId", {"request_id": "\u00e9"}),
    ],
)
def test_wrong_field_is_named(field: str, changed: dict[str, Any]):
    with pytest.raises(InvalidArgument) as caught:
        draft(**changed)

    assert [violation.field for violation in caught.value.violations] == [field]


def test_values_at_the_limits_are_taken():
    url = URL + "a" * (2_048 - len(URL))

    largest = draft(media_urls=[url] * 4, request_id="~" * 64, reply_to=2**63 - 1)

    assert (len(largest.media_urls), len(largest.request_id)) == (4, 64)


@pytest.mark.parametrize(
    ("content", "tags"),
    [
        ("#one", ["one"]),
        ("a #one here", ["one"]),
        ("#one\n#two\n", ["one", "two"]),
        # Another one follows at once: neither is a tag.
        ("#one #two#three", ["one"]),
        ("#one\uff03two", []),
        ("#one/#two", ["one", "two"]),
        (":#a1 ;#b2 ,#c3 .#d4 !#e5 ?#f6", ["a1", "b2", "c3", "d4", "e5", "f6"]),
        ("#a1: #b2; #c3, #d4. #e5! #f6?", ["a1", "b2", "c3", "d4", "e5", "f6"]),
        ("(#a1 )#b2 [#c3 ]#d4 \u2019#e5\u2019#f6", ["a1", "b2", "c3", "d4", "e5", "f6"]),
        ("(#one), #two. \u201c#three\u201d", ["one", "two", "three"]),
        ("#One #ONE #one", ["one"]),
        ("#b #a #b", ["b", "a"]),
        ("\uff03wide", ["wide"]),
        ("#a_b #_x #x_", ["a_b", "_x", "x_"]),
        ("#_ #1_2 #122 #0 #\u3003 #\u0301", []),
        ("#2024 #1st #v2 #\u0661\u0662\u0663 #\u2460", ["1st", "v2"]),
        ("a#b \u00e9#b 1#b _#b", []),
        ("&#39; &#x27;", []),
        ("path/#top", ["top"]),
        ("# #! #- #", []),
        ("##double", ["double"]),
        ("#one-two #it's", ["one", "it"]),
        ("#\U0001f426bird", []),
        ("#bird\U0001f426", ["bird"]),
        # An emoji ends with a mark or a keycap, and no word goes on there.
        ("\u2764\ufe0f#love 1\ufe0f\u20e3#first", ["love", "first"]),
        ("#\ufe0f\u20e3 #\ufe0fa #love\ufe0f", ["love"]),
        (
            "#stra\u00dfe #STRASSE #\u017ftra\u00dfe",
            ["strasse"],
        ),
        ("#\uff34\uff4f\uff4b\uff59\uff4f #Tokyo", ["tokyo"]),
        ("#\ufb01n #fin", ["fin"]),
        ("#caf\u00e9 #cafe\u0301 #CAF\u00c9", ["caf\u00e9"]),
        ("#\u03a3\u03b1\u03c2 #\u03c3\u03b1\u03c3", ["\u03c3\u03b1\u03c3"]),
        ("#\u6771\u4eac \u6771#\u4eac", ["\u6771\u4eac"]),
        ("#\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        ("#\uff76\uff9e #\u30ac", ["\u30ac"]),
        # Signs that stand within words.
        ("#il\u00b7lusi\u00f3", ["il\u00b7lusi\u00f3"]),
        ("#\u0645\u06cc\u200c\u062e\u0648", ["\u0645\u06cc\u200c\u062e\u0648"]),
        ("#\u0dc1\u0dca\u200d\u0dbb\u0dd3", ["\u0dc1\u0dca\u200d\u0dbb\u0dd3"]),
        (
            "#\u05d5\u05db\u05d5\u05f3 #\u05de\u05f4\u05db",
            ["\u05d5\u05db\u05d5\u05f3", "\u05de\u05f4\u05db"],
        ),
        ("#\u0f56\u0f7c\u0f51\u0f0b\u0f66", ["\u0f56\u0f7c\u0f51\u0f0b\u0f66"]),
        ("#\u30e1\uff5e\u30c6 #\u30e1\u301c\u30c6", ["\u30e1\u301c\u30c6"]),
        ("#\u30b5\u30c3\u30ab\u30fc #\uff7b\uff6f\uff76\uff70", ["\u30b5\u30c3\u30ab\u30fc"]),
        (
            "#\u5404\u3003 #\u5b66\u554f\u306e\u3059\u309d\u3081",
            ["\u5404\u3003", "\u5b66\u554f\u306e\u3059\u309d\u3081"],
        ),
        # Scripts: Korean, Cyrillic, Arabic with its digits, Thai, Bengali, Amharic, Armenian.
        (
            "#\ud2b8\uc704\ud130 #\u0420\u0443\u0441\u0441\u043a\u0438\u0439",
            ["\ud2b8\uc704\ud130", "\u0440\u0443\u0441\u0441\u043a\u0438\u0439"],
        ),
        ("#\u0647\u0634\u062a\u06af\u06f6\u06f7", ["\u0647\u0634\u062a\u06af\u06f6\u06f7"]),
        (
            "#\u0e1c\u0e39\u0e49\u0e40\u0e23\u0e34\u0e48\u0e21",
            ["\u0e1c\u0e39\u0e49\u0e40\u0e23\u0e34\u0e48\u0e21"],
        ),
        ("#\u09ac\u09be\u0982\u09b2\u09be", ["\u09ac\u09be\u0982\u09b2\u09be"]),
        ("#\u12a2\u1275\u12ee #\u0544\u0561\u0570", ["\u12a2\u1275\u12ee", "\u0574\u0561\u0570"]),
        ("#\U00020021 #A\U000104a0", ["\U00020021", "a\U000104a0"]),
        ("#\u0130n #\u0131n", ["i\u0307n", "\u0131n"]),
        ("\u3067\u3057\u305f\uff01\uff03\u65e5\u672c\u3002", ["\u65e5\u672c"]),
        # URLs, and where they end.
        ("https://example.org/#frag http://e.org/a#b #real", ["real"]),
        ("HTTPS://EXAMPLE.ORG/#frag", []),
        ("https://example.org/ #after", ["after"]),
        ("#https://example.org/ #http://example.org/", []),
        ("#scheme://x", []),
        ("example.org/#frag www.example.org/?q=#frag #real", ["real"]),
        ("https://example.org/a,#frag;#frag", []),
        ("(https://example.org/a_(b))#real", ["real"]),
        ("https://example.org/\u3001#real \u300chttps://example.org/\u300d#too", ["real", "too"]),
        # What folds into more than letters, marks and digits is what one can write of it.
        ("#\u00bdlife", ["12life"]),
        ("#co\u0140legi", ["col\u00b7legi"]),
        (
            "#\ufdfa",
            [
                "\u0635\u0644\u0649\u0627\u0644\u0644\u0647\u0639\u0644\u064a\u0647\u0648"
                "\u0633\u0644\u0645"
            ],
        ),
    ],
)
def test_hashtags_are_found_and_folded(content: str, tags: list[str]):
    assert tweet.hashtags(content) == tags


@given(st.text(st.sampled_from("#&@:/_ aB1.\n"), max_size=16))
@example("#1a://")
@example("#aB#")
@example("#a#b #c")
@example("a#b _#c &#d .#e")
def test_tags_of_an_ascii_text_are_those_of_the_same_text_before_others(content: str):
    # Behind white space nothing changes for what stands before it.
    assert tweet.hashtags(content) == tweet.hashtags(f"{content}\u3000")


@pytest.mark.parametrize(("length", "count"), [(100, 1), (101, 0)])
def test_longer_tag_than_a_hundred_code_points_is_text(length: int, count: int):
    assert len(tweet.hashtags("#" + "a" * length)) == count
    # The length that counts is the folded one.
    assert len(tweet.hashtags("#" + "\u00df" * (length // 2) + "a" * (length % 2))) == count


@given(st.text(st.characters(categories=("L", "M", "N")), max_size=12))
def test_tag_that_was_found_is_found_again_under_the_same_name(text: str):
    for tag in tweet.hashtags(f"#{text}"):
        assert tweet.hashtags(f"#{tag}") == [tag]
        assert tweet.fold(tag) == tag
        assert unicodedata.is_normalized("NFKC", tag)


@given(st.text(st.characters(codec="ascii"), max_size=6))
@example("")
@example("_")
@example("_1")
@example("A_1")
@example("a b")
def test_an_ascii_text_is_a_tag_if_it_has_a_letter_and_else_only_digits(text: str):
    assert tweet.is_tag(text) == (re.fullmatch(r"\w*[a-zA-Z]\w*", text, re.ASCII) is not None)
    # A letter of another script beside it takes the way that is for all of them.
    if tweet.is_tag(text):
        assert tweet.fold(text) == tweet.fold(text + "\u00e9")[:-1] == text.lower()


def test_every_character_that_stands_in_a_tag_folds_into_a_tag():
    # Those that fold into something else; what stays as it is was in a tag to begin with.
    for character in map(chr, range(0x110000)):
        if unicodedata.normalize("NFKC", character.casefold()) != character:
            for tag in tweet.hashtags(f"#{character}a"):
                assert tweet.hashtags(f"#{tag}") == [tag], hex(ord(character))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("@ada", ["ada"]),
        ("@Ada @ADA @ada", ["ada"]),
        ("@bob, @ada. (@eve) \u201c@dan\u201d", ["bob", "ada", "eve", "dan"]),
        ("\uff20wide", ["wide"]),
        ("@ab", []),
        ("@abc", ["abc"]),
        ("@" + "a" * 50, ["a" * 50]),
        ("@" + "a" * 51, []),
        ("@a_1", ["a_1"]),
        ("@ada's @ada-eve", ["ada"]),
        ("mail@example.org", []),
        ("@ada@example.social", []),
        ("@@ada", []),
        ("@m\u00fcller @alice\u00ecn @ada\u0301", []),
        (".@ada", ["ada"]),
        ("/@ada -@bob +@eve :@dan", ["ada", "bob", "eve", "dan"]),
        ("!@ada #@ada $@ada %@ada &@ada *@ada a@ada 1@ada _@ada", []),
        ("RT@ada rt@bob RT:@eve xRT@dan", ["ada", "bob", "eve"]),
        ("@http://example.org @ftp://example.org", []),
        ("@ada\uff20bob", []),
        ("\u306e@ada\u306b", ["ada"]),
        ("https://example.org/@ada", []),
        ("example.org/@ada www.example.org/?u=@ada", []),
        ("https://example.org/\u3002@ada", ["ada"]),
        ("https://example.org @ada", ["ada"]),
        ("@ada\n@bob", ["ada", "bob"]),
        ("\u6771@ada", ["ada"]),
        ("@ada#tag", ["ada"]),
        ("RT @ada: hello", ["ada"]),
    ],
)
def test_mentions_are_found(content: str, names: list[str]):
    assert tweet.mentioned_names(content) == names


def test_mentions_are_bounded():
    content = " ".join(f"@n{number:02}" for number in range(56))

    assert len(content) <= 280
    assert tweet.mentioned_names(content) == [f"n{number:02}" for number in range(50)]


@given(st.text(max_size=300))
def test_any_text_is_either_taken_or_refused_with_the_field(text: str):
    fields: list[str] = []
    content = ""
    try:
        content = draft(content=text).content
    except InvalidArgument as error:
        fields = [violation.field for violation in error.violations]

    if fields:
        assert fields == ["content"]
    else:
        assert 1 <= len(content) <= 280
        assert unicodedata.is_normalized("NFC", content)
        assert draft(content=content).content == content
