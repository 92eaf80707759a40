"""The gateway's side of mutual TLS, added to what gateway/envoy.yaml says where CHIRP_TLS is 1.

Every cluster of servers and workers shows the gateway's certificate and wants the name of the very
process that it leads to; health checks go the same way. Envoy watches the gateway's folder of
CHIRP_CERTS (mesh/tls.py) and takes up what is put into it, without a restart.
"""

import json
from pathlib import Path
from typing import Any

from mesh import tls

TYPES = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
IDENTITY, AUTHORITY = "identity", "authority"


def add(document: dict[str, Any], secrets: Path, certs: Path) -> None:
    """Puts every cluster that leaves Envoy behind TLS. `secrets` is where Envoy sees the files of
    `secret_files`, `certs` the gateway's own folder of certificates."""
    # Without a name of its own, Envoy reads no secrets, from files neither.
    document["node"] = {"id": tls.GATEWAY, "cluster": tls.GATEWAY}
    for cluster in document["static_resources"]["clusters"]:
        server = cluster["name"].replace("_streams", "_server")
        if server in tls.NAMES:
            cluster["transport_socket"] = _socket(tls.dns_name(server), secrets, certs)


def secret_files(certs: Path) -> dict[str, str]:
    """Returns the files by which Envoy finds its secrets, by their names, given the gateway's own
    folder of certificates as Envoy sees it."""
    identity = {"filename": str(certs / tls.IDENTITY_FILE)}
    authority = {"filename": str(certs / tls.AUTHORITY_FILE)}
    watched = {"watched_directory": {"path": str(certs)}}
    # Key and certificate are one file: a reader never sees one without the other.
    certificate = {"certificate_chain": identity, "private_key": identity, **watched}
    return {
        f"{IDENTITY}.json": _secret(IDENTITY, {"tls_certificate": certificate}),
        f"{AUTHORITY}.json": _secret(
            AUTHORITY, {"validation_context": {"trusted_ca": authority, **watched}}
        ),
    }


def _socket(dns_name: str, secrets: Path, certs: Path) -> dict[str, Any]:
    def source(name: str) -> dict[str, Any]:
        watched = {"path": str(secrets / f"{name}.json"), "watched_directory": {"path": str(certs)}}
        return {
            "name": name,
            "sds_config": {"path_config_source": watched, "resource_api_version": "V3"},
        }

    wanted = {"san_type": "DNS", "matcher": {"exact": dns_name}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPES}.UpstreamTlsContext",
            "sni": dns_name,
            # A session that goes on would skip the certificate.
            "max_session_keys": 0,
            "common_tls_context": {
                # A client's highest is else TLS 1.2.
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "alpn_protocols": ["h2"],
                "tls_certificate_sds_secret_configs": [source(IDENTITY)],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": [wanted]},
                    "validation_context_sds_secret_config": source(AUTHORITY),
                },
            },
        },
    }


def _secret(name: str, content: dict[str, Any]) -> str:
    secret = {"@type": f"{TYPES}.Secret", "name": name, **content}
    return json.dumps({"resources": [secret]}, indent=1)
