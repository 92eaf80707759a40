import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import text
from domain.errors import InvalidArgument


def refused(call: object) -> str:
    assert callable(call)
    with pytest.raises(InvalidArgument) as caught:
        call()
    (violation,) = caught.value.violations
    assert violation.field == "mediaUrls[1]"
    return violation.description


def test_length_is_counted_in_code_points_after_normalising() -> None:
    assert text.clean("bio", "e\u0301" * 5, maximum=5) == "\u00e9" * 5
    assert text.clean("bio", "\U0001f426" * 5, maximum=5) == "\U0001f426" * 5
    assert text.clean("bio", "\u1f02\u0345" * 5, maximum=5) == "\u1f82" * 5
    assert "at most 5" in refused(lambda: text.clean("mediaUrls[1]", "a" * 6, maximum=5))
    # Composition exclusions grow when they are normalised.
    assert "at most 5" in refused(lambda: text.clean("mediaUrls[1]", "\u0958" * 3, maximum=5))


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30))
def test_what_passes_is_nfc_and_passes_unchanged_again(value: str) -> None:
    normal = text.clean("bio", value, maximum=200)

    assert normal == unicodedata.normalize("NFC", value)
    assert text.clean("bio", normal, maximum=200) == normal


def test_whatever_is_short_enough_in_nfc_passes_in_its_longest_form() -> None:
    value = unicodedata.normalize("NFD", "\u1f82") * 100
    assert len(value) == 400

    assert len(text.clean("displayName", value, maximum=100)) == 100


def test_megabytes_of_combining_marks_are_refused_at_once() -> None:
    started = time.process_time()

    refused(lambda: text.clean("mediaUrls[1]", "\u0301\u0323" * 2_000_000, maximum=280))

    assert time.process_time() - started < 1


@pytest.mark.parametrize("several_lines", [True, False])
@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x0b", "\x7f", "\x85", "\ud800"])
def test_control_characters_and_lone_surrogates_are_refused(
    character: str, several_lines: bool
) -> None:
    refused(
        lambda: text.clean(
            "mediaUrls[1]", f"a{character}b", maximum=10, several_lines=several_lines
        )
    )


@pytest.mark.parametrize("character", ["\n", "\r", "\t"])
def test_line_ends_pass_only_where_there_may_be_several_lines(character: str) -> None:
    value = f"a{character}b"

    assert text.clean("bio", value, maximum=10, several_lines=True) == value
    refused(lambda: text.clean("mediaUrls[1]", value, maximum=10))


def test_empty_and_too_short_are_told_apart() -> None:
    assert "empty" in refused(lambda: text.clean("mediaUrls[1]", "", minimum=3, maximum=5))
    assert "at least 3" in refused(lambda: text.clean("mediaUrls[1]", "ab", minimum=3, maximum=5))


@pytest.mark.parametrize(
    "value",
    [
        "http://a",
        "https://example.org/a/b.png?x=1&y=%20#z",
        "HTTPS://EXAMPLE.ORG",
        "https://example.org:8443/",
        "https://[::1]/",
        "https://b\u00fccher.example/\u00fc",
        "https://example.org/" + "a" * (text.URL_BYTES_MAX - 20),
        "https://example.org/" + "\u00fc" * ((text.URL_BYTES_MAX - 20) // 2),
    ],
)
def test_urls_pass_as_they_are(value: str) -> None:
    assert text.url("avatarUrl", value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "example.org",
        "//example.org",
        "ftp://example.org",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "https://:80/",
        "https://user@example.org/",
        "https://example.org:port/",
        "https://example.org:99999/",
        "https://[::1/",
        "https://example.org/a b",
        "https://example.org/\n",
        " https://example.org/",
        'https://example.org/"x"',
        "https://example.org\\@evil.example/",
        "https://example.org/\u2028",
        "https://example.org/\x00",
        "https://example.org/" + "a" * (text.URL_BYTES_MAX - 19),
        "https://example.org/" + "\u00fc" * ((text.URL_BYTES_MAX - 20) // 2 + 1),
    ],
)
def test_what_is_no_url_is_refused(value: str) -> None:
    refused(lambda: text.url("mediaUrls[1]", value))


@pytest.mark.parametrize("value", ["", "us", "us-ny", "gb-eng", "fr-75", "at-9"])
def test_places_pass_as_they_are(value: str) -> None:
    assert text.location("location", value) == value


@pytest.mark.parametrize(
    "value",
    [
        "u",
        "US",
        "us-NY",
        "usa",
        "us-",
        "-ny",
        "us-newy",
        "us_ny",
        "us-ny-x",
        "us\n",
        "\u0446\u0446",
    ],
)
def test_what_is_no_place_is_refused(value: str) -> None:
    refused(lambda: text.location("mediaUrls[1]", value))


def test_parent_of_a_place_stands_before_the_dash() -> None:
    assert text.parent_location("us-ny") == "us"
    assert text.parent_location("us") is None
    assert text.parent_location("") is None


@pytest.mark.parametrize(
    "value",
    [
        " ",
        "\u200b",
        "\u200d\u200d",
        "\u3164",
        "\u2800\u00a0",
        "\ufe0f",
        "\u115f \u034f",
        "\U000e0041",
    ],
)
def test_text_of_which_nothing_is_to_be_seen_is_refused(value: str) -> None:
    assert "invisible" in refused(lambda: text.visible("mediaUrls[1]", value))
    text.visible("mediaUrls[1]", f"{value}a{value}")


@pytest.mark.parametrize("character", [*"\u202a\u202b\u202c\u202d\u202e\u2066\u2069\u2028\u2029"])
def test_in_one_line_nothing_turns_what_stands_beside_it(character: str) -> None:
    value = f"a{character}b"

    assert "bidirectional" in refused(lambda: text.one_line("mediaUrls[1]", value, maximum=10))
    assert text.clean("bio", value, maximum=10) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u200fabc",
        "\U0001f468\u200d\U0001f4bb",
    ],
)
def test_names_of_all_scripts_pass(value: str) -> None:
    assert text.one_line("displayName", value, maximum=10) == value
