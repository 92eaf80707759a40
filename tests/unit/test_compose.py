import importlib.resources
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mesh import tls
from ops import embedded, embedded_postgres, gateway, gatewayfiles, processes
from ops.processes import CONTAINER_METRICS_PORT, CONTAINER_PORT, KINDS, Addresses, ProcessKind

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def test_it_follows_the_compose_specification() -> None:
    schema = importlib.resources.files("check_jsonschema.builtin_schemas.vendor")
    specification = json.loads((schema / "compose-spec.json").read_text())

    jsonschema.Draft202012Validator(specification).validate(DOCUMENT)


def test_it_has_every_process_and_nothing_unknown() -> None:
    backing = {"postgres", "cache", "eventlog", "migrate", "gateway-config", "gateway"}

    assert set(SERVICES) == backing | {kind.container for kind in KINDS}


@each_kind
def test_a_process_runs_the_command_of_chirp_up(kind: ProcessKind) -> None:
    assert SERVICES[kind.container]["command"] == processes.process_command(kind, "python")


@each_kind
def test_a_process_is_told_what_chirp_up_tells_it(kind: ProcessKind) -> None:
    given = SERVICES[kind.container]["environment"]

    told = processes.process_environment(
        _addresses(), f"0.0.0.0:{CONTAINER_PORT}", f"0.0.0.0:{CONTAINER_METRICS_PORT}"
    )
    assert set(given) == {*told, "CHIRP_TLS", "CHIRP_TRACES"}  # which `chirp up` hands on
    for listen in ("CHIRP_LISTEN", "CHIRP_METRICS_LISTEN"):
        assert given[listen] == told[listen]
    for target in _addresses().targets:
        assert given[target] == told[target]


@each_kind
def test_a_process_is_healthy_where_it_listens(kind: ProcessKind) -> None:
    service = SERVICES[kind.container]

    address = f"127.0.0.1:{CONTAINER_PORT}"
    assert service["expose"] == [str(CONTAINER_PORT)]
    assert service["healthcheck"]["test"] == [
        *("CMD", "chirp", "health", address),
        *("--name", kind.name),
    ]


@each_kind
def test_a_process_starts_after_what_it_needs_and_before_the_gateway(kind: ProcessKind) -> None:
    needed = _conditions(SERVICES[kind.container])

    assert needed == {
        "migrate": "service_completed_successfully",
        "cache": "service_healthy",
        "eventlog": "service_healthy",
    }
    assert _conditions(SERVICES["gateway"])[kind.container] == "service_healthy"
    assert _conditions(SERVICES["migrate"]) == {"postgres": "service_healthy"}


def test_the_gateway_mounts_what_its_configuration_names() -> None:
    mounted = Path("/etc/chirp")
    defaults = gateway.Gateway()

    certs = "/var/lib/chirp/certs"
    assert SERVICES["gateway"]["volumes"] == [f"gateway:{mounted}:ro", f"certs:{certs}:ro"]
    assert Path(certs) / tls.GATEWAY == gatewayfiles.CERTS
    assert SERVICES["tweet-server"]["environment"]["CHIRP_CERTS"] == certs
    assert defaults.secrets == mounted
    assert SERVICES["gateway"]["command"][:2] == ["--config-path", f"{mounted}/envoy.yaml"]
    assert defaults.descriptor == mounted / "descriptor.binpb"


def test_the_gateway_is_published_where_chirp_up_listens() -> None:
    port = gateway.Gateway().listen.port

    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:${{CHIRP_PORT:-8080}}:{port}"]


def test_postgresql_is_tuned_as_by_chirp_up() -> None:
    flags = [f"-c{name}={value}" for name, value in embedded_postgres.SETTINGS.items()]

    assert SERVICES["postgres"]["command"] == ["postgres", *flags]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("cache", embedded.CACHE_SETTINGS), ("eventlog", embedded.EVENTLOG_SETTINGS)],
)
def test_a_valkey_is_tuned_as_by_chirp_up(name: str, settings: Mapping[str, str]) -> None:
    every = {**embedded.VALKEY_SETTINGS, **settings}
    flags = [word for key, value in every.items() for word in (f"--{key}", value)]

    assert SERVICES[name]["command"][3:] == flags


def test_the_event_log_and_the_truth_are_kept_and_the_cache_is_not() -> None:
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert SERVICES["eventlog"]["volumes"] == ["eventlog:/data"]
    assert "volumes" not in SERVICES["cache"]


def test_every_password_can_be_set_from_outside() -> None:
    text = (ROOT / "docker-compose.yml").read_text()

    passwords = re.findall(r"(?:PASSWORD:|requirepass\n\s+-|://(?:chirp)?:) ?\"?([^@\s\"]+)", text)
    assert len(passwords) == 8
    assert all(re.fullmatch(r"\$\{CHIRP_\w+_PASSWORD:-chirp\}\}?", word) for word in passwords)


def test_only_the_jobs_and_the_processes_see_the_keys() -> None:
    mounted = {
        name: volume
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if volume.startswith("keys:")
    }

    writers = {name for name, volume in mounted.items() if not volume.endswith(":ro")}
    assert writers == {"migrate"}
    assert set(mounted) == {"migrate", "gateway-config", *(kind.container for kind in KINDS)}


def test_one_job_makes_certificates_and_all_others_read_them() -> None:
    mounted = {
        name: volume
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if volume.startswith("certs:")
    }

    writers = {name for name, volume in mounted.items() if not volume.endswith(":ro")}
    assert writers == {"migrate"}
    assert set(mounted) == {"migrate", "gateway", *(kind.container for kind in KINDS)}


def _conditions(service: Mapping[str, Any]) -> dict[str, str]:
    return {name: need["condition"] for name, need in service["depends_on"].items()}


def _addresses() -> Addresses:
    return Addresses(
        keys=Path("/var/lib/chirp/keys"),
        certs=Path("/var/lib/chirp/certs"),
        database_url="",
        valkey_url="",
        eventlog_url="",
        targets={
            kind.target: f"dns:///{kind.container}:{CONTAINER_PORT}"
            for kind in KINDS
            if kind.target
        },
    )
