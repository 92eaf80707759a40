"""What Envoy Gateway 1.9 makes of the files in gateway/envoy-gateway, for Envoy's static
configuration: as much of its translation as those files need.

Written after its API types, its translator and the results that it tests itself against, with the
runtime flag XDSNameSchemeV2. Read there: the names of listeners, routes and clusters, the order of
filters and of routes, and that JSONPath finds elements and `path` is appended to each.
"""

import copy
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import yaml

from ops import gateway
from tests import envoy_gateway_parts as parts

FOLDER = Path(__file__).resolve().parent.parent / "gateway" / "envoy-gateway"
SECRET = "gateway-secret"  # of Secret gateway-secret

Documents = dict[tuple[str, str], dict[str, Any]]
HTTPS_PORT, KEYS_PORT = 443, 8081


def documents() -> Documents:
    """Returns what the kustomization names, by kind and name."""
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    found: Documents = {}
    for name in kustomization["resources"]:
        for each in yaml.safe_load_all((FOLDER / name).read_text()):
            found[each["kind"], each["metadata"]["name"]] = each
    return found


def translate(found: Documents) -> dict[str, Any]:
    """Returns the xDS resources by type, each by name, the policy's operations applied."""
    listeners = {
        "tcp-443": _https(found),
        "tcp-8081": parts.listener("http-8081", "http-8081", [parts.ROUTER]),
    }
    routes = {"chirp/gateway/https": _routes(found, "https"), "http-8081": _routes(found, "keys")}
    resources = {
        "listener.v3.Listener": listeners,
        "route.v3.RouteConfiguration": routes,
        "cluster.v3.Cluster": dict(_clusters(found)),
    }
    for each in found["EnvoyPatchPolicy", "chirp"]["spec"]["jsonPatches"]:
        kind = each["type"].removeprefix("type.googleapis.com/envoy.config.")
        apply(resources[kind][each["name"]], each["operation"])
    return resources


def render(described: gateway.Gateway) -> str:
    """Returns an Envoy's configuration that serves where `described` says, as gateway.render."""
    resources = translate(documents())
    keys_port = described.admin_port + 1
    ports = {"tcp-443": described.listen.port, "tcp-8081": keys_port}
    for name, each in resources["listener.v3.Listener"].items():
        address = {"address": "127.0.0.1", "port_value": ports[name]}
        each["name"], each["address"] = name, {"socket_address": address}
        manager = parts.manager(each)
        manager["route_config"] = resources["route.v3.RouteConfiguration"][manager.pop("rds")]
    for name, cluster in resources["cluster.v3.Cluster"].items():
        server = cluster.pop("server")
        where = [(gateway.Endpoint("127.0.0.1", keys_port))]
        if server != "keys":
            where = getattr(described, server.replace("-", "_"))
        cluster["name"] = name
        cluster["load_assignment"] = parts.assignment(name, where)
    secret = {"secret": {"inline_string": described.gateway_secret}}
    document = {
        "admin": {
            "address": {
                "socket_address": {"address": "127.0.0.1", "port_value": described.admin_port}
            }
        },
        "static_resources": {
            "listeners": list(resources["listener.v3.Listener"].values()),
            "clusters": list(resources["cluster.v3.Cluster"].values()),
            "secrets": [{"name": SECRET, "generic_secret": secret}],
        },
    }
    text = json.dumps(document)
    text = text.replace("/etc/chirp/descriptor.binpb", str(described.descriptor))
    return text.replace("/dev/stdout", str(described.access_log))


def _https(found: Documents) -> dict[str, Any]:
    policy = found["ClientTrafficPolicy", "clients"]["spec"]
    filters = [
        parts.health_check(policy["healthCheck"]["path"]),
        parts.jwt_authn(found["SecurityPolicy", "tokens"]["spec"]["jwt"]),
        # The largest of the policies; each route's own limit stands there.
        parts.buffer("64Ki"),
        parts.credential_injector(found["HTTPRouteFilter", SECRET]["spec"], SECRET),
        parts.ROUTER,
    ]
    made = parts.listener("https-443", "chirp/gateway/https", filters)
    parts.follow_clients(made, policy)
    return made


def _routes(found: Documents, section: str) -> dict[str, Any]:
    made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for kind, name in found:
        route = found[kind, name]
        if kind == "HTTPRoute" and route["spec"]["parentRefs"][0]["sectionName"] == section:
            made += _routes_of(found, route, verified=section == "https")
    # Exact, then regular expressions, then prefixes; longer ones, those with more headers, with
    # more query parameters first.
    ordered = [each for _, each in sorted(made, key=lambda pair: pair[0], reverse=True)]
    host = {"name": f"chirp/gateway/{section}/*", "domains": ["*"], "routes": ordered}
    return {"name": section, "ignore_port_in_host_matching": True, "virtual_hosts": [host]}


def _routes_of(
    found: Documents, route: dict[str, Any], *, verified: bool
) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
    name = route["metadata"]["name"]
    for number, rule in enumerate(route["spec"]["rules"]):
        cluster = f"httproute/chirp/{name}/rule/{number}"
        for place, match in enumerate(rule["matches"]):
            made: dict[str, Any] = {
                "name": f"{cluster}/match/{place}/*",
                "match": parts.match(match),
                "typed_per_filter_config": {},
            }
            if "backendRefs" in rule:
                made["route"] = {"cluster": cluster, **parts.action(_policy(found, route))}
            parts.follow_filters(made, rule.get("filters", ()), found, FOLDER)
            if verified:
                made["typed_per_filter_config"].update(parts.JWT_ON_ROUTE)
            yield parts.precedence(match), made


def _policy(found: Documents, route: dict[str, Any]) -> dict[str, Any]:
    """The BackendTrafficPolicy that a route's labels choose."""
    labels = route["metadata"]["labels"].items()
    (chosen,) = (
        each["spec"]
        for (kind, _), each in found.items()
        if kind == "BackendTrafficPolicy"
        and each["spec"]["targetSelectors"][0]["matchLabels"].items() <= labels
    )
    return chosen


def _clusters(found: Documents) -> Iterable[tuple[str, dict[str, Any]]]:
    for (kind, name), route in found.items():
        if kind != "HTTPRoute":
            continue
        for number, rule in enumerate(route["spec"]["rules"]):
            for reference in rule.get("backendRefs", ()):
                made = parts.cluster(_policy(found, route))
                made["server"] = reference["name"]
                yield f"httproute/chirp/{name}/rule/{number}", made
    yield parts.JWKS_CLUSTER, {"connect_timeout": "10s", "type": "STATIC", "server": "keys"}


def apply(resource: dict[str, Any], operation: dict[str, Any]) -> None:
    """Applies one operation to a resource, at every place that it finds. Raises where it finds
    none, as Envoy Gateway says of such a policy that it is invalid."""
    assert operation["op"] == "add"
    pointers: list[list[Any]] = (
        [[]] if "jsonPath" not in operation else find(resource, operation["jsonPath"])
    )
    assert pointers, f"nothing is at {operation['jsonPath']}"
    for pointer in pointers:
        *way, last = [*pointer, *operation.get("path", "").split("/")[1:]]
        target: Any = resource
        for step in way:
            if step not in _steps(target):
                target[step] = {}
            target = target[step]
        value = copy.deepcopy(operation["value"])
        if isinstance(target, list):
            cast(list[Any], target).insert(int(last), value)
        else:
            target[last] = value


def find(resource: Any, path: str) -> list[list[Any]]:
    """Returns the places that a JSONPath names, as lists of steps."""
    places: list[list[Any]] = [[]]
    for deep, name, key, operator, value in STEP.findall(path):
        if deep:
            places = [[*p, *more] for p in places for more in _below(_at(resource, p), name)]
        else:
            places = [
                [*p, each]
                for p in places
                for each in (_at(resource, p) if name == "*" else [name])
                if each in _at(resource, p)
            ]
        if key:
            pattern = re.compile(value if operator == "=~" else f"^{re.escape(value)}$")
            places = [
                [*p, number]
                for p in places
                for number, each in enumerate(_at(resource, p))
                if pattern.search(each.get(key, ""))
            ]
    return places


STEP = re.compile(r"(\.?)\.(\w+|\*)(?:\[\?\(@\.(\w+)(==|=~)'([^']*)'\)\])?")


def _at(resource: Any, place: list[Any]) -> Any:
    for step in place:
        resource = resource[step]
    return resource


def _below(resource: Any, name: str) -> Iterable[list[Any]]:
    for step in _steps(resource):
        if step == name:
            yield [step]
        yield from ([step, *more] for more in _below(resource[step], name))


def _steps(resource: Any) -> list[Any]:
    if isinstance(resource, dict):
        return list(cast(dict[str, Any], resource))
    return list(range(len(cast(list[Any], resource)))) if isinstance(resource, list) else []
