"""What `chirp secrets` makes is what the pods of deploy/ want and all that their processes need."""

import base64
import time
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509

from domain.ids import UserId
from mesh import keys, tls, tokens
from mesh.access import SERVICES
from mesh.client_address import ClientAddresses
from mesh.settings import Settings
from ops import certificates, secrets
from ops.processes import KINDS, ProcessKind
from tests import kustomized

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = kustomized.build(ROOT / "deploy" / "overlays" / "production")
# The operators' own: where the stores are, and the certificate that clients see.
FOREIGN = {"chirp-stores", "gateway-tls"}
REFERENCES = {
    "secretKeyRef",
    "secret",
    "certificateRefs",
    "caCertificateRefs",
    "clientCertificateRef",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, dict[str, bytes]]]:
    folder = tmp_path_factory.mktemp("secrets")
    settings = Settings(keys=folder / "keys", certs=folder / "certs", tls=True)
    keys.ensure_keys(settings)
    certificates.ensure(settings)
    found = {
        each["metadata"]["name"]: {
            name: base64.b64decode(value) if each["kind"] == "Secret" else value.encode()
            for name, value in each["data"].items()
        }
        for each in kustomized.read(secrets.manifests(settings))
    }
    return settings, found


def test_every_secret_that_is_named_is_made(made: tuple[Settings, Any]) -> None:
    _, found = made

    named = set(_named(DOCUMENTS))
    assert named - FOREIGN <= found.keys()
    # Those of the command line are for pods in which somebody runs it.
    assert found.keys() - named == {"command-line-key", "command-line-certs"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_pod_has_what_its_process_signs_with_and_believes(
    made: tuple[Settings, dict[str, dict[str, bytes]]], kind: ProcessKind, tmp_path: Path
) -> None:
    settings, found = made
    _mount(kind, found, tmp_path)
    inside = Settings(keys=tmp_path / "keys", certs=tmp_path / "certs", tls=True)

    ((_, header),) = tokens.ServiceIdentity(inside, kind.name).metadata
    told = tokens.TokenVerifier(settings).verify(header.removeprefix("Bearer "))
    assert told.service == kind.name
    of_user = tokens.TokenSigner(settings).sign_user(UserId(1), 1, lifetime_s=60, now=time.time())
    assert tokens.TokenVerifier(inside).verify(of_user).user_id == UserId(1)
    for other in (*SERVICES, keys.USERS):
        if other != kind.name and (other, kind.name) != (keys.USERS, "graph_server"):
            with pytest.raises(FileNotFoundError):
                tokens.TokenSigner(inside, other)
    assert tls.server_credentials(inside, kind.name)
    assert tls.client_credentials(tls.Files(inside, kind.name))


def test_graph_servers_pod_signs_users_tokens_and_knows_the_gateway(
    made: tuple[Settings, dict[str, dict[str, bytes]]], tmp_path: Path
) -> None:
    _, found = made
    (kind,) = (each for each in KINDS if each.name == "graph_server")
    _mount(kind, found, tmp_path)
    inside = Settings(keys=tmp_path / "keys")

    assert tokens.TokenSigner(inside).sign_user(UserId(1), 1, lifetime_s=60, now=time.time())
    secret = found["gateway-secret"]["credential"].decode()
    headers = (("x-chirp-gateway", secret), ("x-chirp-client-address", "192.0.2.7"))
    assert ClientAddresses(inside).of(headers) is not None


def test_the_gateway_has_a_key_with_its_certificate(
    made: tuple[Settings, dict[str, dict[str, bytes]]],
) -> None:
    _, found = made
    pair = found["gateway-certs"]

    certificate = x509.load_pem_x509_certificate(pair["tls.crt"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [tls.dns_name(tls.GATEWAY)]
    assert pair["tls.key"].endswith(keys.PEM_END)
    assert found["authority"]["ca.crt"].startswith(b"-----BEGIN CERTIFICATE-----")


def _mount(kind: ProcessKind, found: dict[str, dict[str, bytes]], folder: Path) -> None:
    """Puts files where the pod's volumes put them."""
    (pod,) = (
        each["spec"]["template"]["spec"]
        for each in DOCUMENTS
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", kind.container)
    )
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", ()):
            files = found[source["secret"]["name"]]
            items = source["secret"].get("items") or [{"key": key, "path": key} for key in files]
            for item in items:
                path = folder / volume["name"] / item["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[item["key"]])


def _named(value: Any, key: str = "") -> list[str]:
    """The names of all Secrets and ConfigMaps of authorities that documents refer to."""
    if isinstance(value, list):
        return [name for each in cast(list[Any], value) for name in _named(each, key)]
    if not isinstance(value, dict):
        return []
    known = cast(dict[str, Any], value)
    refers = key in REFERENCES or (key == "valueRef" and "kind" not in known)
    within = [name for inner, each in known.items() for name in _named(each, inner)]
    return [known["name"], *within] if refers else within
