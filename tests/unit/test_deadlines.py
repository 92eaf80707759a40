"""The table of deadlines: complete, and in order with what stands around the servers."""

from importlib import import_module

import pytest
from pydantic import ValidationError

from mesh import deadlines
from mesh.access import KINDS, RULES, SERVERS
from mesh.deadlines import Repeat
from mesh.settings import Settings
from ops.gateway import Gateway

MODULES = ("graph", "notification", "timeline", "trend", "tweet", "user")
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for name in MODULES
    for service in import_module(f"chirp.v1.{name}_pb2").DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


class Caller:
    def __init__(self, remaining_s: float | None) -> None:
        self._remaining_s = remaining_s

    def remaining_s(self) -> float | None:
        return self._remaining_s


def test_every_rpc_of_every_service_has_a_row_and_every_row_an_rpc() -> None:
    assert deadlines.RULES.keys() == METHODS.keys() == RULES.keys()
    assert {path.split("/")[1] for path in METHODS} == SERVERS.keys()


def test_streams_and_only_they_last() -> None:
    lasting = {path for path, rule in deadlines.RULES.items() if rule.deadline_s is None}

    assert lasting == {path for path, method in METHODS.items() if method.server_streaming}


def test_a_server_answers_before_the_gateway_gives_it_up() -> None:
    outside = [deadlines.RULES[path].deadline_s or 0.0 for path in KINDS]

    assert max(outside) < Gateway().call_timeout_s


def test_what_changes_something_is_repeated_with_a_request_id_or_not_at_all() -> None:
    reading = ("Get", "List", "BatchGet", "Count", "Explain", "Stream", "ResolveUsernames")
    for path, rule in deadlines.RULES.items():
        method = METHODS[path]
        reads = method.name.startswith(reading)
        assert (rule.repeat is Repeat.READ) == reads, path
        identified = "request_id" in method.input_type.fields_by_name
        assert (rule.repeat is Repeat.REQUEST_ID) == identified, path


@pytest.mark.parametrize(
    ("remaining_s", "left_s"),
    [(None, 2.0), (60.0, 2.0), (1.0, 1.0 - deadlines.MARGIN_S), (deadlines.MARGIN_S / 2, 0.0)],
)
def test_a_call_has_its_row_or_what_its_caller_leaves(
    remaining_s: float | None, left_s: float
) -> None:
    token = deadlines.CALLER.set(Caller(remaining_s))
    try:
        assert deadlines.left_s(2.0) == left_s
    finally:
        deadlines.CALLER.reset(token)


def test_a_target_names_all_replicas() -> None:
    for good in ("dns:///tweet-server:50051", "ipv4:127.0.0.1:1,127.0.0.1:2"):
        assert Settings(tweet_target=good).tweet_target == good
    for bad in ("tweet-server:50051", "dns:///tweet-server", "dns:tweet-server:50051", ""):
        with pytest.raises(ValidationError, match="tweet_target"):
            Settings(tweet_target=bad)
