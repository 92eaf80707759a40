import importlib.util
import subprocess
import sys

import pytest

from mesh import access
from mesh.access import SERVERS
from mesh.settings import Settings
from ops import gateway, processes
from ops.processes import KINDS, ProcessKind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_process_of_the_table_has_a_module(kind: ProcessKind) -> None:
    assert importlib.util.find_spec(kind.module) is not None


def test_every_environment_variable_of_the_table_is_a_setting() -> None:
    told = processes.process_environment(_addresses(), "127.0.0.1:50051", "127.0.0.1:9100")

    settings = Settings.model_fields
    assert all(name.removeprefix("CHIRP_").lower() in settings for name in told)


def test_callers_want_the_certificate_of_who_answers_a_service() -> None:
    told = {name: kind.name for kind in KINDS for name in kind.services}

    assert told.items() <= SERVERS.items()
    assert set(SERVERS) - set(told) == {"chirp.v1.TrendCountService"}  # while it has the lead
    assert SERVERS["chirp.v1.TrendCountService"] == "trend_worker"


def test_the_gateway_knows_a_cluster_for_every_process() -> None:
    fields = gateway.Gateway.__dataclass_fields__

    assert all(kind.name in fields for kind in KINDS)
    assert gateway.GRPC_PORT == processes.CONTAINER_PORT


def test_the_target_of_several_replicas_lists_them_all() -> None:
    ports = {kind.name: [21001, 21002] for kind in KINDS}

    targets = processes.targets(ports)

    assert targets["CHIRP_TWEET_TARGET"] == "ipv4:127.0.0.1:21001,127.0.0.1:21002"
    assert set(targets) == {kind.target for kind in KINDS if kind.target}


def _addresses() -> processes.Addresses:
    return processes.Addresses(
        keys=Settings().keys,
        certs=Settings().certs,
        database_url="postgresql://",
        valkey_url="redis://",
        eventlog_url="redis://",
        targets=processes.targets({kind.name: [1] for kind in KINDS}),
    )


def test_every_process_and_the_command_line_have_an_identity() -> None:
    assert set(access.SERVICES) == {*(kind.name for kind in KINDS), access.COMMAND_LINE}
    for callers in access.CALLERS.values():
        assert callers <= set(access.SERVICES)


def test_without_traces_no_process_imports_opentelemetry() -> None:
    modules = ", ".join(kind.module for kind in KINDS)
    program = (
        f"import sys, {modules}\n"
        "from mesh import settings, traces\n"
        "traces.begin(settings.load(), 'anybody')\n"
        "sys.exit(sorted(name for name in sys.modules if name.startswith('opentelemetry')) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
