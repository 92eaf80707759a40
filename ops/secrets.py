"""What Kubernetes' Secrets hold of the folders of keys and certificates: each process its own."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mesh import keys, tls
from mesh.access import COMMAND_LINE, SERVICES
from mesh.settings import Settings

NAMESPACE = "chirp"
PUBLIC, USERS, GATEWAY_SECRET = "chirp-public-keys", "users-key", "gateway-secret"
KEY_FILE, CREDENTIAL = "key.pem", "credential"


def manifests(settings: Settings) -> str:
    """Returns Secrets, and the ConfigMap of the authority, as YAML for `kubectl apply -f -`. Those
    of certificates only with CHIRP_TLS. Raises OSError where a file is not there."""
    found = _of_keys(settings.keys)
    if settings.tls:
        found |= _of_certificates(settings)
    documents = [_secret(name, files) for name, files in found.items()]
    if settings.tls:
        documents += _of_gateway(settings)
    return yaml.safe_dump_all(documents, sort_keys=False)


def _of_keys(folder: Path) -> dict[str, dict[str, bytes]]:
    public = (keys.JWKS_FILE, keys.SERVICES_FILE)
    services = folder / keys.SERVICES_FOLDER
    return {
        PUBLIC: {name: (folder / name).read_bytes() for name in public},
        USERS: {KEY_FILE: (folder / keys.PRIVATE_KEY_FILE).read_bytes()},
        GATEWAY_SECRET: {CREDENTIAL: keys.gateway_secret(folder).encode()},
        **{
            f"{_container(name)}-key": {KEY_FILE: (services / f"{name}.pem").read_bytes()}
            for name in SERVICES
        },
    }


def _of_certificates(settings: Settings) -> dict[str, dict[str, bytes]]:
    return {
        f"{_container(name)}-certs": {
            tls.IDENTITY_FILE: tls.identity_file(settings, name).read_bytes(),
            tls.AUTHORITY_FILE: tls.authority_file(settings, name).read_bytes(),
        }
        for name in SERVICES
    }


def _of_gateway(settings: Settings) -> list[dict[str, Any]]:
    # Envoy Gateway wants key and certificate apart.
    identity = tls.identity_file(settings, tls.GATEWAY).read_bytes()
    key, _, certificate = identity.partition(keys.PEM_END)
    authority = tls.authority_file(settings, tls.GATEWAY).read_text()
    pair = {"tls.key": key + keys.PEM_END, "tls.crt": certificate}
    return [
        _secret(f"{tls.GATEWAY}-certs", pair, "kubernetes.io/tls"),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "authority", "namespace": NAMESPACE},
            "data": {"ca.crt": authority},
        },
    ]


def _secret(name: str, files: Mapping[str, bytes], kind: str = "Opaque") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": kind,
        "data": {path: base64.b64encode(content).decode() for path, content in files.items()},
    }


def _container(name: str) -> str:
    # Two would be called chirp: the command line, and all of it.
    return "command-line" if name == COMMAND_LINE else name.replace("_", "-")
