import pytest

from ops import embedded


def test_a_port_is_given_once(monkeypatch: pytest.MonkeyPatch):
    # Ten ports drawn at random 200 times would repeat, were those given not remembered.
    monkeypatch.setattr(embedded, "PORTS", range(31_000, 31_010))
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
    monkeypatch.setattr(embedded, "PORTS", range(31_100, 31_101))
    monkeypatch.setattr(embedded, "PORT_TRIES", 50)

    embedded.reserve_port(31_100)

    with pytest.raises(OSError, match="no free port"):
        embedded.free_port()
