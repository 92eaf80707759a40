import pytest

from domain import address


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("192.0.2.1:80", None),
        ("", None),
        ("somewhere", None),
    ],
)
def test_an_address_is_counted_as_what_one_subscriber_has(text: str, counted: str | None) -> None:
    assert address.network(text) == counted
