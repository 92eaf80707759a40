"""What tracing adds to Envoy's configuration, where CHIRP_TRACES names a collector."""

from typing import Any
from urllib.parse import urlsplit

CLUSTER = "traces"
EXPORT_TIMEOUT = "2s"


def add(document: Any, collector: str, sampled: float) -> None:
    """Lets the gateway begin a trace for so large a part of the requests, and send its spans."""
    (listener,) = [
        each for each in document["static_resources"]["listeners"] if each["name"] == "gateway"
    ]
    for chain in listener["filter_chains"]:
        for network_filter in chain["filters"]:
            network_filter["typed_config"]["tracing"] = _tracing(collector, sampled)
    document["static_resources"]["clusters"].append(_cluster(collector))


def _tracing(collector: str, sampled: float) -> dict[str, Any]:
    return {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "gateway",
                "http_service": {
                    "http_uri": {
                        "uri": f"{collector.rstrip('/')}/v1/traces",
                        "cluster": CLUSTER,
                        "timeout": EXPORT_TIMEOUT,
                    }
                },
            },
        },
        "random_sampling": {"value": 100 * sampled},
        # A client does not choose; `traceparent` of clients is taken off before this.
        "client_sampling": {"value": 0},
        # A path may hold somebody's name, and a query somebody's token.
        "max_path_tag_length": 0,
    }


def _cluster(collector: str) -> dict[str, Any]:
    url = urlsplit(collector)
    port = url.port or (443 if url.scheme == "https" else 80)
    cluster: dict[str, Any] = {
        "name": CLUSTER,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {
                                    "socket_address": {"address": url.hostname, "port_value": port}
                                }
                            }
                        }
                    ]
                }
            ],
        },
    }
    if url.scheme == "https":
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
                "UpstreamTlsContext",
                "sni": url.hostname,
                "common_tls_context": {
                    "validation_context": {
                        "trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"}
                    }
                },
            },
        }
    return cluster
