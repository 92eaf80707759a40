from collections.abc import Iterator

import pytest

from ops import embedded
from tests import ports


@pytest.fixture(autouse=True)
def own_ports() -> Iterator[None]:
    yield
    embedded.choose_ports(ports.OWN)


def test_a_port_is_given_once(monkeypatch: pytest.MonkeyPatch):
    # Ten ports drawn at random 200 times would repeat, were those given not remembered.
    embedded.choose_ports("31000-31009")
    monkeypatch.setattr(embedded, "PORT_TRIES", 200)
    given: list[int] = []

    def take_all() -> None:
        while True:
            given.append(embedded.free_port())

    with pytest.raises(OSError, match="no free port among 31000 to 31009"):
        take_all()
    assert given
    assert len(given) == len(set(given))


def test_a_reserved_port_is_never_given(monkeypatch: pytest.MonkeyPatch):
    embedded.choose_ports("31100-31100")
    monkeypatch.setattr(embedded, "PORT_TRIES", 50)

    embedded.reserve_port(31_100)

    with pytest.raises(OSError, match="no free port"):
        embedded.free_port()
