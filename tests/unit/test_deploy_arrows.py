"""The NetworkPolicies allow the arrows of ARCHITECTURE.md and no others."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mesh.access import CALLERS, COMMAND_LINE, RULES, SERVERS, Access
from ops.processes import CONTAINER_METRICS_PORT, CONTAINER_PORT, KINDS
from tests import kustomized

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = kustomized.build(ROOT / "deploy" / "overlays" / "production")
POLICIES = [each["spec"] for each in DOCUMENTS if each["kind"] == "NetworkPolicy"]

CHIRP = {"app.kubernetes.io/part-of": "chirp"}
PODS: dict[str, dict[str, str]] = {
    **{kind.name: {"app.kubernetes.io/name": kind.container, **CHIRP} for kind in KINDS},
    COMMAND_LINE: {"app.kubernetes.io/name": COMMAND_LINE, **CHIRP},
    "gateway": {"gateway.envoyproxy.io/owning-gateway-name": "gateway"},
}
"""Who is there, with the labels by which policies know them; all in one namespace."""

STORES = {"postgres": 5432, "cache": 6379, "eventlog": 6379}
SETTINGS = {
    "postgres": "CHIRP_DATABASE_URL",
    "cache": "CHIRP_VALKEY_URL",
    "eventlog": "CHIRP_EVENTLOG_URL",
}

Spec = dict[str, Any]


def test_services_call_whom_the_table_of_access_names_and_nobody_else() -> None:
    public = {
        SERVERS[path.split("/")[1]] for path, rule in RULES.items() if rule is not Access.SERVICE
    }
    expected = {("gateway", server) for server in public}
    for path, callers in CALLERS.items():
        expected |= {(caller, SERVERS[path.split("/")[1]]) for caller in callers}
    # What the command line reads and loads as a user would.
    expected |= {(COMMAND_LINE, server) for server in _targets_of_commands()}

    allowed = {
        (caller, server)
        for caller in PODS
        for server in PODS
        if caller != server and _is_open(caller, server, CONTAINER_PORT)
    }

    assert allowed == expected


def test_services_open_the_channels_that_the_table_of_access_names() -> None:
    by_target = {kind.target.removeprefix("CHIRP_").lower(): kind.name for kind in KINDS}
    for kind in KINDS:
        source = (ROOT / f"{kind.module.replace('.', '/')}.py").read_text()
        opened = {by_target[name] for name in re.findall(r"settings\.(\w+_target)", source)}

        assert opened == {
            SERVERS[path.split("/")[1]] for path, who in CALLERS.items() if kind.name in who
        }


def test_processes_reach_the_stores_whose_addresses_they_are_told() -> None:
    told = {
        kind.name: {each["name"] for each in _container(kind.container)["env"]} for kind in KINDS
    }
    told[COMMAND_LINE] = set(SETTINGS.values())
    told["gateway"] = set()

    for name, settings in told.items():
        for store, port in STORES.items():
            labels = {"chirp.internal/store": store}
            reached = any(
                _names(peer, labels, namespace={"any": "where"})
                for policy in _of_pod(name)
                for rule in policy.get("egress", ())
                if port in _ports(rule)
                for peer in rule["to"]
            )
            assert reached == (SETTINGS[store] in settings), (name, store)


def test_numbers_are_read_by_those_who_watch_alone() -> None:
    for name in PODS.keys() - {"gateway"}:
        for caller in PODS:
            assert not _is_open(caller, name, CONTAINER_METRICS_PORT)
        watchers = {"chirp.internal/watches": "true"}
        assert _lets_in(name, CONTAINER_METRICS_PORT, {}, namespace=watchers)
        assert not _lets_in(name, CONTAINER_METRICS_PORT, {}, namespace={"any": "where"})


def test_who_is_not_named_is_alone() -> None:
    PODS["stranger"] = {"app.kubernetes.io/name": "stranger"}
    try:
        for other in PODS.keys() - {"stranger"}:
            for port in (CONTAINER_PORT, CONTAINER_METRICS_PORT):
                assert not _is_open(other, "stranger", port)
                assert not _is_open("stranger", other, port)
    finally:
        del PODS["stranger"]


def _targets_of_commands() -> set[str]:
    sources = (path.read_text() for path in (ROOT / "ops").rglob("*.py"))
    by_target = {kind.target.removeprefix("CHIRP_").lower(): kind.name for kind in KINDS}
    return {
        by_target[name]
        for source in sources
        for name in re.findall(r"settings\.(\w+_target)", source)
    }


def _container(name: str) -> Spec:
    (found,) = (
        each["spec"]["template"]["spec"]["containers"]
        for each in DOCUMENTS
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", name)
    )
    return found[0]


def _is_open(caller: str, server: str, port: int) -> bool:
    """Whether both ends let a connection be."""
    out = any(
        _names(peer, PODS[server])
        for policy in _of_pod(caller)
        for rule in policy.get("egress", ())
        if port in _ports(rule)
        for peer in rule["to"]
    )
    return out and _lets_in(server, port, PODS[caller])


def _lets_in(
    server: str, port: int, labels: dict[str, str], namespace: dict[str, str] | None = None
) -> bool:
    return any(
        "from" not in rule or any(_names(peer, labels, namespace) for peer in rule["from"])
        for policy in _of_pod(server)
        for rule in policy.get("ingress", ())
        if port in _ports(rule)
    )


def _of_pod(name: str) -> Iterable[Spec]:
    found = [each for each in POLICIES if _selects(each["podSelector"], PODS[name])]
    # Where no policy chose a pod, everything would be open.
    assert {kind for each in found for kind in each["policyTypes"]} == {"Ingress", "Egress"}
    return found


def _ports(rule: Spec) -> set[int]:
    return {each["port"] for each in rule["ports"]}


def _names(peer: Spec, labels: dict[str, str], namespace: dict[str, str] | None = None) -> bool:
    """Whether a peer of a rule is a pod with these labels, in Chirp's namespace or another."""
    if "namespaceSelector" in peer:
        there = namespace if namespace is not None else {"kubernetes.io/metadata.name": "chirp"}
        if not _selects(peer["namespaceSelector"], there):
            return False
    elif namespace is not None:
        return False
    return _selects(peer.get("podSelector", {}), labels)


def _selects(selector: Spec, labels: dict[str, str]) -> bool:
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ())
    )
