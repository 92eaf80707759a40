"""People who sign up to the `chirp up --replicas 2` that tests share."""

import itertools
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.e2e import people
from tests.e2e.chirp_up import ChirpUp
from tests.e2e.people import Person
from tests.e2e.streaming import WITHIN_S


@pytest.fixture(scope="module")
def client(shared: ChirpUp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url, timeout=WITHIN_S) as opened:
        yield opened


SignUp = Callable[[], Person]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def person(client: httpx.Client) -> SignUp:
    """Signs somebody up."""

    def sign_up() -> Person:
        return people.sign_up(client, f"live_{next(_numbers)}")

    return sign_up
