"""gateway/envoy-gateway/ says the same as gateway/envoy.yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.settings import Settings
from ops import envoypatch, gateway
from tests import envoy_gateway, kubernetes_schemas
from tests import envoy_gateway_parts as parts

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL: dict[str, Any] = yaml.safe_load(gateway.render(gateway.Gateway()))
LISTENER = LOCAL["static_resources"]["listeners"][0]
MANAGER = parts.manager(LISTENER)
CLUSTERS = {each["name"]: each for each in LOCAL["static_resources"]["clusters"]}

DOCUMENTS = envoy_gateway.documents()
XDS = envoy_gateway.translate(DOCUMENTS)
THEIRS = XDS["listener.v3.Listener"]["tcp-443"]
THEIR_MANAGER = parts.manager(THEIRS)
(THEIR_HOST,) = XDS["route.v3.RouteConfiguration"]["chirp/gateway/https"]["virtual_hosts"]
THEIR_CLUSTERS = XDS["cluster.v3.Cluster"]

# What cannot be the same: where the routes are, names in statistics, and what is Envoy's default.
OWN_FIELDS = {"route_config", "http_filters", "stat_prefix", "codec_type", "xff_num_trusted_hops"}

Route = dict[str, Any]


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=lambda each: each["metadata"]["name"])
def test_a_file_follows_the_schemas_of_envoy_gateway_and_the_gateway_api(
    document: dict[str, Any],
) -> None:
    kubernetes_schemas.validate(document)


def test_every_file_says_why_it_is_there_and_is_named_by_the_kustomization() -> None:
    kustomization = yaml.safe_load((envoy_gateway.FOLDER / "kustomization.yaml").read_text())
    files = {path.name for path in envoy_gateway.FOLDER.glob("*.yaml")}

    assert files - {"kustomization.yaml", "values.yaml"} == set(kustomization["resources"])
    for path in (*envoy_gateway.FOLDER.glob("*.yaml"), *envoy_gateway.FOLDER.glob("tls/*.yaml")):
        head = path.read_text().split("apiVersion:")[0]
        known = path.name in {"kustomization.yaml", "values.yaml"}
        assert head.startswith("#"), path.name
        assert "Why:" in head or known, path.name


def test_what_is_generated_is_not_stale() -> None:
    assert envoypatch.main(["check"]) == 0


@pytest.mark.parametrize("name", sorted(MANAGER.keys() - OWN_FIELDS))
def test_a_field_of_the_connection_manager_is_the_same(name: str) -> None:
    assert THEIR_MANAGER[name] == MANAGER[name]


def test_the_limits_of_a_listener_are_the_same() -> None:
    for name in ("per_connection_buffer_limit_bytes", "socket_options"):
        assert THEIRS[name] == LISTENER[name]
    (monitor,) = LOCAL["overload_manager"]["resource_monitors"]
    connections = THEIRS["filter_chains"][0]["filters"][0]["typed_config"]["max_connections"]
    assert connections == monitor["typed_config"]["max_active_downstream_connections"]


def test_filters_are_the_same_and_run_in_the_same_order() -> None:
    ours = {each["name"]: each["typed_config"] for each in MANAGER["http_filters"]}
    theirs = {each["name"]: each["typed_config"] for each in THEIR_MANAGER["http_filters"]}

    injector = f"{parts.INJECTOR}/httproutefilter/chirp/{envoy_gateway.SECRET}"
    assert [name for name in theirs if name != injector] == list(ours)
    for name in ours.keys() - {parts.JWT, "envoy.filters.http.health_check"}:
        assert theirs[name] == ours[name], name


def test_tokens_are_verified_alike() -> None:
    ours = _config(MANAGER, parts.JWT)
    theirs = _config(THEIR_MANAGER, parts.JWT)
    (our_provider,), (their_provider,) = (each["providers"].values() for each in (ours, theirs))

    assert theirs["strip_failure_response"] == ours["strip_failure_response"]
    for name in our_provider.keys() - {"remote_jwks"}:
        assert their_provider[name] == our_provider[name], name
    for name in our_provider["remote_jwks"].keys() - {"http_uri"}:
        assert their_provider["remote_jwks"][name] == our_provider["remote_jwks"][name], name
    (rule,) = ours["rules"]
    (requirement,) = theirs["requirement_map"].values()
    assert _kinds(requirement) == _kinds(rule["requires"]) == [{"provider_name"}, {"allow_missing"}]
    # Everywhere, as by the one rule of gateway/envoy.yaml.
    assert rule["match"] == {"prefix": "/"}
    for route in THEIR_HOST["routes"]:
        assert parts.JWT in route["typed_per_filter_config"], route["name"]


def test_a_gateway_learns_of_a_key_before_it_signs() -> None:
    cache = _config(THEIR_MANAGER, parts.JWT)["providers"]["chirp_5f2a"]["remote_jwks"]

    cache_s = int(cache["cache_duration"].removesuffix("s"))
    assert 2 * cache_s < Settings().key_lead_s


@pytest.mark.parametrize(
    "ours", MANAGER["route_config"]["virtual_hosts"][0]["routes"],
    ids=lambda each: str(next(iter(each["match"].values()))),
)  # fmt: skip
def test_a_route_is_the_same(ours: Route) -> None:
    theirs = [each for each in THEIR_HOST["routes"] if _sample(each) == _sample(ours)]

    assert theirs, "there is no such route"
    for each in theirs:
        if "route" in ours:
            _same_action(each, ours)
        special = {parts.JWT} | {name for name in each["typed_per_filter_config"] if "/" in name}
        filters = {
            name: value
            for name, value in each["typed_per_filter_config"].items()
            if name not in special
        }
        assert filters == ours.get("typed_per_filter_config", {})


def test_there_are_no_other_routes() -> None:
    ours = {_sample(each) for each in MANAGER["route_config"]["virtual_hosts"][0]["routes"]}

    assert {_sample(each) for each in THEIR_HOST["routes"]} == ours


def test_only_public_keys_are_served_to_envoys_themselves() -> None:
    (host,) = XDS["route.v3.RouteConfiguration"]["http-8081"]["virtual_hosts"]
    keys = LOCAL["static_resources"]["listeners"][1]
    manager = parts.manager(keys)
    (our_host,) = manager["route_config"]["virtual_hosts"]

    paths = [each["match"] for each in our_host["routes"]]
    assert sorted(each["match"]["path"] for each in host["routes"]) == sorted(
        each["path"] for each in paths
    )
    theirs = parts.manager(XDS["listener.v3.Listener"]["tcp-8081"])
    name = envoypatch.TRANSCODER
    assert _config(theirs, name) == _config(manager, name) == _config(MANAGER, name)


def test_a_patch_that_finds_nothing_fails() -> None:
    operation = {"op": "add", "jsonPath": "..filters[?(@.name=='nobody')]", "value": 1}

    with pytest.raises(AssertionError, match="nothing is at"):
        envoy_gateway.apply({"filters": [{"name": "somebody"}]}, operation)


def _same_action(theirs: Route, ours: Route) -> None:
    action, our_action = theirs["route"], ours["route"]
    assert action["timeout"] == our_action["timeout"]
    retry, our_retry = action["retry_policy"], our_action["retry_policy"]
    assert set(retry["retry_on"].split(",")) == set(our_retry["retry_on"].split(","))
    for name in ("num_retries", "retry_back_off", "retry_host_predicate"):
        assert retry[name] == our_retry[name]
    if "idle_timeout" in our_action:
        assert our_action["idle_timeout"] == THEIR_MANAGER["stream_idle_timeout"]
    cluster, our_cluster = THEIR_CLUSTERS[action["cluster"]], CLUSTERS[our_action["cluster"]]
    (endpoints,) = our_cluster["load_assignment"]["endpoints"]
    address = endpoints["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"]
    assert cluster["server"] == address
    for name in ("connect_timeout", "lb_policy", "circuit_breakers"):
        assert cluster[name] == our_cluster[name], name
    panic = "healthy_panic_threshold"
    assert cluster["common_lb_config"][panic] == our_cluster["common_lb_config"][panic]
    ejection = our_cluster["outlier_detection"]
    for name, value in cluster["outlier_detection"].items():
        # There what is counted is not enforced, here so many in a row never come.
        assert ejection.get(name, ejection.get(f"enforcing_{name}")) == value, name
    protocol, our_protocol = (_http2(each) for each in (cluster, our_cluster))
    our_protocol.pop("connection_keepalive")  # Envoy Gateway has no field for it
    assert protocol == our_protocol
    added = ours.get("request_headers_to_add", [])
    assert theirs.get("request_headers_to_add", []) == added[1:]
    if added:
        secret = parts.credential_injector(
            DOCUMENTS["HTTPRouteFilter", envoy_gateway.SECRET]["spec"], envoy_gateway.SECRET
        )
        assert secret["name"] in theirs["typed_per_filter_config"]
        assert added[0]["header"]["key"] == _header(secret)


def _sample(route: Route) -> tuple[str, bool, bool]:
    """What tells a route from the others, in both ways of writing it: its path, and whether it
    wants events, and a token in the URL alone."""
    match = route["match"]
    path = next(
        (match[key] for key in ("path", "prefix", "path_separated_prefix") if key in match), ""
    )
    path = (path or match["safe_regex"]["regex"]).rstrip("/")
    # Some prefixes of REST have a route of their own there, for the secret's sake.
    if path in {"/api/users", "/api/sessions", "/api/me"}:
        path = "/api"
    events = any(each["name"] == "accept" for each in match.get("headers", ()))
    return path, events, "query_parameters" in match


def _config(manager: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (each["typed_config"] for each in manager["http_filters"] if each["name"] == name)
    return found


def _kinds(requirement: dict[str, Any]) -> list[set[str]]:
    return [set(each) for each in requirement["requires_any"]["requirements"]]


def _http2(cluster: dict[str, Any]) -> dict[str, Any]:
    (options,) = cluster["typed_extension_protocol_options"].values()
    return dict(options["explicit_http_config"]["http2_protocol_options"])


def _header(injector: dict[str, Any]) -> str:
    return injector["typed_config"]["credential"]["typed_config"]["header"]
