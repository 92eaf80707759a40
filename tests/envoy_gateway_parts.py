"""The single parts of what Envoy Gateway makes: see tests/envoy_gateway.py."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ops import gateway

FILTERS = "type.googleapis.com/envoy.extensions.filters"
JWT, BUFFER = "envoy.filters.http.jwt_authn", "envoy.filters.http.buffer"
INJECTOR = "envoy.filters.http.credential_injector"
MANAGER = "envoy.filters.network.http_connection_manager"
JWKS_CLUSTER = "gateway_chirp_svc_cluster_local_8081"
REQUIREMENT = "chirp/tokens"

ROUTER: dict[str, Any] = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router", "suppress_envoy_headers": True},
}
JWT_ON_ROUTE = {
    JWT: {
        "@type": f"{FILTERS}.http.jwt_authn.v3.PerRouteConfig",
        "requirement_name": REQUIREMENT,
    }
}
ESCAPED = {"RejectRequest": "REJECT_REQUEST"}
PRECEDENCE = {"Exact": 2, "RegularExpression": 1, "PathPrefix": 0}


def size(text: str) -> int:
    """Returns what a Kubernetes quantity of bytes says."""
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"Ki": 1024, "Mi": 1024 * 1024}[unit]


def seconds(text: str) -> str:
    """Returns a Gateway API duration as protobuf's JSON has it."""
    number, unit = re.fullmatch(r"(\d+)(ms|s)", text).groups()  # type: ignore[union-attr]
    return f"{int(number) / 1000:g}s" if unit == "ms" else f"{number}s"


def listener(prefix: str, routes: str, filters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A listener before any policy; `rds` names its routes."""
    config = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
        },
        "http_filters": list(filters),
        "rds": routes,
    }
    return {
        "per_connection_buffer_limit_bytes": 32768,
        "filter_chains": [{"filters": [{"name": MANAGER, "typed_config": config}]}],
    }


def manager(made: dict[str, Any]) -> dict[str, Any]:
    """The connection manager of a listener."""
    (found,) = (
        each["typed_config"]
        for each in made["filter_chains"][0]["filters"]
        if each["name"] == MANAGER
    )
    return found


def follow_clients(made: dict[str, Any], policy: Mapping[str, Any]) -> None:
    """Changes a listener as a ClientTrafficPolicy says."""
    config, http = manager(made), policy["timeout"]["http"]
    config["request_timeout"] = seconds(http["requestReceivedTimeout"])
    config["stream_idle_timeout"] = seconds(http["streamIdleTimeout"])
    common = config["common_http_protocol_options"]
    common["idle_timeout"] = seconds(http["idleTimeout"])
    assert policy["headers"]["withUnderscoresAction"] == "RejectRequest"
    config["http2_protocol_options"] = http2(policy["http2"])
    config["path_with_escaped_slashes_action"] = ESCAPED[policy["path"]["escapedSlashesAction"]]
    connection = policy["connection"]
    made["per_connection_buffer_limit_bytes"] = size(connection["bufferLimit"])
    limit = {
        "@type": f"{FILTERS}.network.connection_limit.v3.ConnectionLimit",
        "stat_prefix": "connection-limit",
        "max_connections": connection["connectionLimit"]["value"],
    }
    chain = made["filter_chains"][0]["filters"]
    chain.insert(0, {"name": "envoy.filters.network.connection_limit", "typed_config": limit})


def http2(said: Mapping[str, Any]) -> dict[str, Any]:
    """HTTP2Settings."""
    return {
        "max_concurrent_streams": said["maxConcurrentStreams"],
        "initial_stream_window_size": size(said["initialStreamWindowSize"]),
        "initial_connection_window_size": size(said["initialConnectionWindowSize"]),
    }


def health_check(path: str) -> dict[str, Any]:
    """What a ClientTrafficPolicy's healthCheck becomes."""
    config = {
        "@type": f"{FILTERS}.http.health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "headers": [{"name": ":path", "string_match": {"exact": path}}],
    }
    return {"name": "envoy.filters.http.health_check", "typed_config": config}


def jwt_authn(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a SecurityPolicy's jwt becomes: its names are of no account but to its routes."""
    (told,) = said["providers"]
    assert urlsplit(told["remoteJWKS"]["uri"]).port == 8081
    provider: dict[str, Any] = {
        "issuer": told["issuer"],
        "audiences": told["audiences"],
        "payload_in_metadata": told["name"],
        "forward": True,
        "from_headers": [
            {"name": each["name"], "value_prefix": each["valuePrefix"]}
            for each in told["extractFrom"]["headers"]
        ],
        "remote_jwks": {
            "http_uri": {
                "uri": told["remoteJWKS"]["uri"],
                "cluster": JWKS_CLUSTER,
                "timeout": "10s",
            },
            "cache_duration": seconds(told["remoteJWKS"]["cacheDuration"]),
            "async_fetch": {},
            "retry_policy": {},
        },
    }
    requirements: list[dict[str, Any]] = [{"provider_name": "chirp_5f2a"}]
    if said.get("optional"):
        requirements.append({"allow_missing": {}})
    config = {
        "@type": f"{FILTERS}.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"chirp_5f2a": provider},
        "requirement_map": {REQUIREMENT: {"requires_any": {"requirements": requirements}}},
    }
    return {"name": JWT, "typed_config": config}


def buffer(limit: str) -> dict[str, Any]:
    """What a BackendTrafficPolicy's requestBuffer becomes."""
    config = {"@type": f"{FILTERS}.http.buffer.v3.Buffer", "max_request_bytes": size(limit)}
    return {"name": BUFFER, "typed_config": config}


def credential_injector(said: Mapping[str, Any], secret: str) -> dict[str, Any]:
    """What an HTTPRouteFilter's credentialInjection becomes: off but on the routes that name it."""
    told = said["credentialInjection"]
    kind = "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic"
    config = {
        "@type": f"{FILTERS}.http.credential_injector.v3.CredentialInjector",
        "overwrite": told["overwrite"],
        "credential": {
            "name": "envoy.http.injected_credentials.generic",
            "typed_config": {
                "@type": kind,
                "credential": {"name": secret},
                "header": told["header"],
            },
        },
    }
    name = f"{INJECTOR}/httproutefilter/chirp/{secret}"
    return {"name": name, "disabled": True, "typed_config": config}


def match(said: Mapping[str, Any]) -> dict[str, Any]:
    """What one match of an HTTPRoute becomes."""
    value = said["path"]["value"]
    made: dict[str, Any] = {
        "Exact": {"path": value},
        "PathPrefix": {"path_separated_prefix": value},
        "RegularExpression": {"safe_regex": {"regex": value}},
    }[said["path"]["type"]]
    for field, word in (("headers", "headers"), ("queryParams", "query_parameters")):
        if said.get(field):
            made[word] = [
                {"name": each["name"], "string_match": {"safe_regex": {"regex": each["value"]}}}
                for each in said[field]
            ]
    return made


def precedence(said: Mapping[str, Any]) -> tuple[int, ...]:
    """By which routes are ordered, the greatest first."""
    path = said["path"]
    return (
        PRECEDENCE[path["type"]],
        len(path["value"]),
        len(said.get("headers", ())),
        len(said.get("queryParams", ())),
    )


def follow_filters(
    made: dict[str, Any],
    filters: Iterable[Mapping[str, Any]],
    found: Mapping[Any, Any],
    folder: Path,
) -> None:
    """Changes a route as the filters of its rule say."""
    for each in filters:
        if each["type"] == "ResponseHeaderModifier":
            for header in each["responseHeaderModifier"]["set"]:
                _set_header(made, header["name"], header["value"])
            continue
        name = each["extensionRef"]["name"]
        spec = found["HTTPRouteFilter", name]["spec"]
        if "credentialInjection" in spec:
            kind = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
            on: dict[str, Any] = {"@type": kind, "config": {}}
            key = f"{INJECTOR}/httproutefilter/chirp/{name}"
            made["typed_per_filter_config"][key] = on
            continue
        said = spec["directResponse"]
        body = _config_map(folder, said["body"]["valueRef"]["name"])
        made["direct_response"] = {"status": said["statusCode"], "body": {"inline_string": body}}
        _set_header(made, "content-type", said["contentType"])


def _set_header(made: dict[str, Any], name: str, value: str) -> None:
    made.setdefault("response_headers_to_add", []).append(
        {
            "header": {"key": name, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    )


def _config_map(folder: Path, name: str) -> str:
    """The one value of a ConfigMap of the kustomization."""
    generators = yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]
    (path,) = (path for each in generators if each["name"] == name for path in each["files"])
    return (folder / path).read_text()


def action(policy: Mapping[str, Any]) -> dict[str, Any]:
    """What a BackendTrafficPolicy says of a route."""
    retry = policy["retry"]
    back_off = retry["perRetry"]["backOff"]
    return {
        "timeout": seconds(policy["timeout"]["http"]["requestTimeout"]),
        "retry_policy": {
            "num_retries": retry["numRetries"],
            "retry_on": ",".join(retry["retryOn"]["triggers"]),
            "host_selection_retry_max_attempts": 5,
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3"
                        ".PreviousHostsPredicate"
                    },
                }
            ],
            "retry_back_off": {
                "base_interval": seconds(back_off["baseInterval"]),
                "max_interval": seconds(back_off["maxInterval"]),
            },
        },
    }


def cluster(policy: Mapping[str, Any]) -> dict[str, Any]:
    """What a BackendTrafficPolicy says of a cluster of a Service with appProtocol h2c."""
    breaker, health = policy["circuitBreaker"], policy["healthCheck"]
    active, passive = health["active"], health["passive"]
    protocol = http2(policy["http2"]) if "http2" in policy else {}
    budget = breaker["retryBudget"]
    return {
        "connect_timeout": seconds(policy["timeout"]["tcp"]["connectTimeout"]),
        "type": "STATIC",
        "lb_policy": {"LeastRequest": "LEAST_REQUEST"}[policy["loadBalancer"]["type"]],
        "ignore_health_on_host_removal": True,
        "common_lb_config": {"healthy_panic_threshold": {"value": health["panicThreshold"]}},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3"
                ".HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": protocol},
            }
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": breaker["maxConnections"],
                    "max_pending_requests": breaker["maxPendingRequests"],
                    "max_requests": breaker["maxParallelRequests"],
                    "retry_budget": {
                        "budget_percent": {"value": budget["percent"]["numerator"]},
                        "min_retry_concurrency": budget["minRetryConcurrency"],
                    },
                }
            ]
        },
        "health_checks": [
            {
                "timeout": seconds(active["timeout"]),
                "interval": seconds(active["interval"]),
                "unhealthy_threshold": active["unhealthyThreshold"],
                "healthy_threshold": active["healthyThreshold"],
                "grpc_health_check": {"service_name": active["grpc"].get("service", "")},
            }
        ],
        "outlier_detection": {
            "split_external_local_origin_errors": passive["splitExternalLocalOriginErrors"],
            "consecutive_local_origin_failure": passive["consecutiveLocalOriginFailures"],
            "consecutive_5xx": passive["consecutive5XxErrors"],
            "consecutive_gateway_failure": passive["consecutiveGatewayErrors"],
            "interval": seconds(passive["interval"]),
            "base_ejection_time": seconds(passive["baseEjectionTime"]),
            "max_ejection_percent": passive["maxEjectionPercent"],
        },
        "upstream_connection_options": {
            "tcp_keepalive": {
                "keepalive_probes": policy["tcpKeepalive"]["probes"],
                "keepalive_time": int(policy["tcpKeepalive"]["idleTime"][:-1]),
                "keepalive_interval": int(policy["tcpKeepalive"]["interval"][:-1]),
            }
        },
    }


def assignment(name: str, where: Sequence[gateway.Endpoint]) -> dict[str, Any]:
    """The endpoints of a cluster."""
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
        for host, port in where
    ]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
