"""deploy/ is valid Kubernetes, and true about Chirp."""

import copy
import importlib
import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from mesh.access import COMMAND_LINE
from mesh.settings import Settings
from ops.processes import (
    CONTAINER_METRICS_PORT,
    CONTAINER_PORT,
    KINDS,
    Addresses,
    ProcessKind,
    process_command,
    process_environment,
)
from tests import kubernetes_schemas, kustomized

ROOT = Path(__file__).resolve().parent.parent.parent
OVERLAYS = ROOT / "deploy" / "overlays"
BUILT = {name: kustomized.build(OVERLAYS / name) for name in ("small", "production")}
BASE = kustomized.build(ROOT / "deploy" / "base")
UIDS = re.findall(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text())

Document = dict[str, Any]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
each_overlay = pytest.mark.parametrize("overlay", BUILT)


def _of(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = (
        each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def _pod(documents: list[Document], kind: ProcessKind) -> Document:
    return _of(documents, "Deployment", kind.container)["spec"]["template"]["spec"]


def _container(documents: list[Document], kind: ProcessKind) -> Document:
    (container,) = _pod(documents, kind)["containers"]
    return container


def _settings(documents: list[Document]) -> dict[str, str]:
    return _of(documents, "ConfigMap", "chirp-settings")["data"]


@each_overlay
def test_an_overlay_follows_the_schemas_of_kubernetes(overlay: str) -> None:
    for document in BUILT[overlay]:
        kubernetes_schemas.validate(document)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl to compare with")
@each_overlay
def test_kubectl_makes_the_same_of_an_overlay(overlay: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", OVERLAYS / overlay], capture_output=True, check=True
    )
    text = re.sub(r"chirp-settings-\w{10}\b", "chirp-settings", done.stdout.decode())

    def by_name(documents: list[Document]) -> dict[tuple[str, str], Document]:
        for each in documents:
            for field in ("data", "binaryData"):
                if each["metadata"]["name"] != "chirp-settings" and field in each:
                    each[field] = dict.fromkeys(each[field])
        return {(each["kind"], each["metadata"]["name"]): each for each in documents}

    theirs, ours = by_name(kustomized.read(text)), by_name(copy.deepcopy(BUILT[overlay]))
    assert theirs.keys() == ours.keys()
    for name, document in theirs.items():
        assert _ordered(document) == _ordered(ours[name]), name


def _ordered(value: Any, key: str = "") -> Any:
    """The same, with lists whose order says nothing in one."""
    if isinstance(value, dict):
        return {name: _ordered(each, name) for name, each in cast(Document, value).items()}
    if isinstance(value, list) and key in kustomized.MERGE_KEYS:
        by = kustomized.MERGE_KEYS[key]
        inside: list[Document] = [_ordered(each) for each in cast(list[Document], value)]
        return sorted(inside, key=lambda each: str(each.get(by)))
    return cast(Any, value)


def test_every_process_has_a_deployment_and_nothing_else_has() -> None:
    deployments = {each["metadata"]["name"] for each in BASE if each["kind"] == "Deployment"}

    assert deployments == {kind.container for kind in KINDS}


@each_kind
def test_a_process_has_what_it_needs_around_it(kind: ProcessKind) -> None:
    for each in ("ServiceAccount", "Service", "PodDisruptionBudget"):
        assert _of(BASE, each, kind.container)
    template = _of(BASE, "Deployment", kind.container)["spec"]["template"]
    labels = template["metadata"]["labels"]
    for selector in (
        _of(BASE, "Service", kind.container)["spec"]["selector"],
        _of(BASE, "Deployment", kind.container)["spec"]["selector"]["matchLabels"],
        _of(BASE, "PodDisruptionBudget", kind.container)["spec"]["selector"]["matchLabels"],
    ):
        assert selector == {"app.kubernetes.io/name": kind.container}
        assert selector.items() <= labels.items()
    assert template["spec"]["serviceAccountName"] == kind.container


@each_kind
def test_a_process_runs_the_command_of_chirp_up(kind: ProcessKind) -> None:
    assert _container(BASE, kind)["command"] == process_command(kind, "python")


@each_kind
@each_overlay
def test_a_process_is_told_what_chirp_up_tells_it(overlay: str, kind: ProcessKind) -> None:
    targets = {
        kind.target: f"dns:///{kind.container}:{CONTAINER_PORT}" for kind in KINDS if kind.target
    }
    addresses = Addresses(
        keys=Path("/var/lib/chirp/keys"),
        certs=Path("/var/lib/chirp/certs"),
        database_url="", valkey_url="", eventlog_url="", targets=targets,
    )  # fmt: skip
    listen, metrics = f"0.0.0.0:{CONTAINER_PORT}", f"0.0.0.0:{CONTAINER_METRICS_PORT}"
    told = process_environment(addresses, listen, metrics)

    given = _settings(BUILT[overlay])
    of_process = {each["name"] for each in _container(BUILT[overlay], kind)["env"]}
    assert {name: given[name] for name in told.keys() & given.keys()} == {
        name: value for name, value in told.items() if name in given
    }
    assert told.keys() - given.keys() == {
        "CHIRP_DATABASE_URL", "CHIRP_VALKEY_URL", "CHIRP_EVENTLOG_URL",
    }  # fmt: skip
    known = {f"CHIRP_{name.upper()}" for name in Settings.model_fields}
    assert given.keys() | of_process <= known


@each_kind
def test_a_process_is_given_the_stores_that_it_opens_and_no_others(kind: ProcessKind) -> None:
    source = inspect.getsource(importlib.import_module(kind.module))
    opened = {
        "CHIRP_DATABASE_URL": "database.open_pool(",
        "CHIRP_VALKEY_URL": "settings.valkey_url",
        "CHIRP_EVENTLOG_URL": "from eventlog",
    }

    given = {each["name"] for each in _container(BASE, kind)["env"]}
    expected = {name for name, word in opened.items() if word in source}
    assert given == expected


@each_kind
def test_ports_are_where_a_process_listens(kind: ProcessKind) -> None:
    ports = {each["name"]: each["containerPort"] for each in _container(BASE, kind)["ports"]}
    service = _of(BASE, "Service", kind.container)["spec"]

    assert ports == {"grpc": CONTAINER_PORT, "metrics": CONTAINER_METRICS_PORT}
    assert {each["name"]: each["port"] for each in service["ports"]} == ports
    # Clients go round the addresses of a name, and Envoy speaks HTTP/2.
    assert service["clusterIP"] == "None"
    assert service["ports"][0]["appProtocol"] == "kubernetes.io/h2c"


@each_kind
@each_overlay
def test_there_is_time_to_drain(overlay: str, kind: ProcessKind) -> None:
    told = _settings(BUILT[overlay])
    settings = Settings.model_validate(
        {name.removeprefix("CHIRP_").lower(): value for name, value in told.items()}
    )

    grace_s = _pod(BUILT[overlay], kind)["terminationGracePeriodSeconds"]
    assert grace_s >= settings.drain_delay_s + settings.drain_grace_s + 5
    for document in BUILT[overlay]:
        if document["kind"] == "BackendTrafficPolicy":
            active = document["spec"]["healthCheck"]["active"]
            noticed_s = int(active["interval"].removesuffix("s")) * active["unhealthyThreshold"]
            assert noticed_s < settings.drain_delay_s


@each_kind
def test_probes_ask_by_grpc_for_a_service_that_is_there(kind: ProcessKind) -> None:
    container = _container(BASE, kind)

    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[name]["grpc"]["port"] == CONTAINER_PORT
    assert "service" not in container["startupProbe"]["grpc"]
    assert "service" not in container["livenessProbe"]["grpc"]
    service = container["readinessProbe"]["grpc"].get("service")
    assert service in kind.services if kind.services else service is None


@each_kind
def test_with_tls_a_process_asks_itself_as_itself(kind: ProcessKind) -> None:
    container, pod = _container(BUILT["production"], kind), _pod(BUILT["production"], kind)

    address = f"127.0.0.1:{CONTAINER_PORT}"
    for name in ("startupProbe", "readinessProbe"):
        command = container[name]["exec"]["command"]
        assert command == ["chirp", "health", address, "--name", kind.name]
        assert "grpc" not in container[name]
    (certs,) = (each for each in pod["volumes"] if each["name"] == "certs")
    (source,) = certs["projected"]["sources"]
    paths = {each["path"] for each in source["secret"]["items"]}
    assert paths == {f"{kind.name}/identity.pem", f"{kind.name}/authority.pem"}
    assert _settings(BUILT["production"])["CHIRP_TLS"] == "1"


@each_kind
@each_overlay
def test_a_process_has_no_rights_and_nobody_elses_key(overlay: str, kind: ProcessKind) -> None:
    pod, container = _pod(BUILT[overlay], kind), _container(BUILT[overlay], kind)

    assert pod["securityContext"]["runAsNonRoot"]
    assert [str(pod["securityContext"]["runAsUser"])] == UIDS
    assert pod["automountServiceAccountToken"] is False
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"].keys() == {"requests", "limits"}
    (keys,) = (each for each in pod["volumes"] if each["name"] == "keys")
    secrets = {each["secret"]["name"] for each in keys["projected"]["sources"]}
    more = {"users-key", "gateway-secret"} if kind.name == "graph_server" else set[str]()
    assert secrets == {"chirp-public-keys", f"{kind.container}-key"} | more


def test_secrets_are_named_and_never_written() -> None:
    for overlay in BUILT.values():
        assert "Secret" not in {each["kind"] for each in overlay}


def test_the_schema_is_brought_up_to_date_by_a_job() -> None:
    job = _of(BASE, "Job", "migrate")["spec"]["template"]
    (container,) = job["spec"]["containers"]

    assert container["command"] == [COMMAND_LINE, "migrate", "--schema-only"]
    assert job["metadata"]["labels"]["app.kubernetes.io/name"] == COMMAND_LINE


def test_replicas_follow_metrics_that_there_are() -> None:
    declared = {
        name
        for path in (ROOT / "mesh").glob("*.py")
        for name in re.findall(r'"(chirp_\w+)"', path.read_text())
    }
    groups = {
        group
        for path in (ROOT / "workers").glob("*.py")
        for group in re.findall(r'^GROUP = "(\w+)"', path.read_text(), re.MULTILINE)
    }
    scalers = [each for each in BUILT["production"] if each["kind"] == "HorizontalPodAutoscaler"]

    assert scalers
    for each in scalers:
        name = each["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in _of(BUILT["production"], "Deployment", name)["spec"]
        assert each["spec"]["minReplicas"] >= 2
        for metric in each["spec"]["metrics"]:
            if metric["type"] == "Pods":
                told = metric["pods"]["metric"]
                assert told["name"] in declared
                group = told.get("selector", {}).get("matchLabels", {}).get("group")
                assert group is None or group in groups
                if group is not None:
                    assert each["spec"]["maxReplicas"] <= Settings().eventlog_partitions


def test_processes_without_an_autoscaler_have_a_number_in_production() -> None:
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]
        for each in BUILT["production"]
        if each["kind"] == "HorizontalPodAutoscaler"
    }

    for kind in KINDS:
        deployment = _of(BUILT["production"], "Deployment", kind.container)
        assert (kind.container in scaled) != ("replicas" in deployment["spec"])


@each_kind
def test_every_file_says_why_it_is_there(kind: ProcessKind) -> None:
    text = (ROOT / "deploy" / "base" / f"{kind.container}.yaml").read_text()

    assert text.startswith("# Why: ")
