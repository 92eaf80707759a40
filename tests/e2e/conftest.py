"""Stacks that tests of several files share: one start of each for a process of the test run."""

from collections.abc import Iterator

import pytest

from tests.e2e.chirp_up import ChirpUp, ready

FEW = {
    "CHIRP_HEARTBEAT_S": "1",
    "CHIRP_TREND_AUTHORS_MIN": "1",
    # Three followers make an author pulled, so that both ways are used.
    "CHIRP_INFLUENCER_FOLLOWERS": "3",
    "CHIRP_TIMELINE_LENGTH": "5",
    # Everybody signs up from one address.
    "CHIRP_SIGN_UP_ADDRESS": "1000/3600",
    "CHIRP_SIGN_IN_ADDRESS": "1000/600",
    "CHIRP_RATE_SIGN_IN": "1000/600",
}


@pytest.fixture(scope="session")
def started() -> Iterator[ChirpUp]:
    """Two replicas of each server, where little is much."""
    with ready("--replicas", "2", **FEW) as running:
        yield running


@pytest.fixture(scope="module")
def shared(started: ChirpUp) -> ChirpUp:
    """The same, whole again whatever the tests of another file did to it."""
    started.wait_until_whole()
    return started


@pytest.fixture(scope="session")
def unlimited() -> Iterator[ChirpUp]:
    """One replica of each server, without limits of rates."""
    with ready(CHIRP_RATE_LIMITS="0") as running:
        yield running
