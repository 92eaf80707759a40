"""Who counts as one address."""

import ipaddress

IPV6_PREFIX = 64
"""The network that one subscriber has: 2^64 addresses, any of which may be used for each call."""


def network(text: str) -> str | None:
    """Returns what calls from an address are counted under: an IPv4 address itself, of IPv6 its
    network. None where it is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))
