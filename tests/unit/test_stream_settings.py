"""A stream lives for hours: what gRPC and Envoy do to silent connections must agree, and open
streams must not use up what is for calls."""

import re
from typing import Any, cast

import pytest
import yaml
from chirp.v1 import notification_pb2, timeline_pb2, trend_pb2

from mesh import clients, server
from mesh.settings import Settings
from ops import gateway

HEARTBEAT_MAX_S = 15
STREAMING = [
    f"{service.full_name}/{method.name}"
    for module in (timeline_pb2, trend_pb2, notification_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.server_streaming
]

CONFIGURATION: dict[str, Any] = yaml.safe_load(gateway.render(gateway.Gateway()))
RESOURCES = CONFIGURATION["static_resources"]
CLUSTERS = {cluster["name"]: cluster for cluster in RESOURCES["clusters"]}


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def route_of(path: str) -> dict[str, Any]:
    """The first route that Envoy matches a gRPC path with."""
    manager = RESOURCES["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            match = cast("dict[str, Any]", route["match"])
            regex = match.get("safe_regex", {}).get("regex")
            prefix = match.get("prefix", "" if match.keys() & {"path"} else None)
            if (regex and re.fullmatch(regex, path)) or (prefix and path.startswith(prefix)):
                return route["route"]
    raise AssertionError(f"no route for {path}")


@pytest.mark.parametrize("path", STREAMING)
def test_a_stream_has_no_end_and_a_cluster_of_its_own(path: str) -> None:
    route = route_of(f"/{path}")

    assert seconds(route["timeout"]) == 0
    assert seconds(route["idle_timeout"]) > 2 * HEARTBEAT_MAX_S
    assert route["cluster"].endswith("_streams")
    (limits,) = CLUSTERS[route["cluster"]]["circuit_breakers"]["thresholds"]
    assert limits["max_requests"] >= Settings().streams_max
    unary = route_of(f"/{path.rpartition('/')[0]}/Get")["cluster"]
    assert not unary.endswith("_streams")


def test_nobody_pings_more_often_than_servers_allow() -> None:
    options = dict(server.SERVER_OPTIONS)
    least_ms = options["grpc.http2.min_ping_interval_without_data_ms"]

    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert least_ms < clients.KEEPALIVE_MS
    pinging = 0
    for cluster in CLUSTERS.values():
        for protocol in cluster.get("typed_extension_protocol_options", {}).values():
            http2 = protocol["explicit_http_config"]["http2_protocol_options"]
            assert seconds(http2["connection_keepalive"]["interval"]) * 1_000 > least_ms
            pinging += 1
    assert pinging > len(STREAMING)


def test_a_silent_stream_beats_before_clients_give_it_up() -> None:
    assert Settings().heartbeat_s <= HEARTBEAT_MAX_S
    with pytest.raises(ValueError, match="heartbeat_s"):
        Settings(heartbeat_s=HEARTBEAT_MAX_S + 1)
