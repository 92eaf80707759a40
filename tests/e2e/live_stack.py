"""A real `chirp up --replicas 2` for tests of what is live, and people who sign up to it."""

import itertools
from collections.abc import Callable, Iterator

import httpx
import pytest

from ops import embedded
from tests.e2e import people
from tests.e2e.chirp_up import ChirpUp, chirp_up, data_folder
from tests.e2e.people import Person
from tests.e2e.streaming import WITHIN_S


@pytest.fixture(scope="module")
def up() -> Iterator[ChirpUp]:
    with (
        data_folder() as data,
        chirp_up(
            data,
            embedded.free_port(),
            *("--replicas", "2"),
            CHIRP_HEARTBEAT_S="1",
            CHIRP_TREND_AUTHORS_MIN="1",
        ) as running,
    ):
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def client(up: ChirpUp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=up.url, timeout=WITHIN_S) as opened:
        yield opened


SignUp = Callable[[], Person]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def person(client: httpx.Client) -> SignUp:
    """Signs somebody up."""

    def sign_up() -> Person:
        return people.sign_up(client, f"live_{next(_numbers)}")

    return sign_up
