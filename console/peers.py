"""Where a request comes from."""

import ipaddress
from collections.abc import Sequence

from flask import request

from console.settings import Network


def peer_is_listed(networks: Sequence[Network]) -> bool:
    """Whether the connection comes from one of these networks."""
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def client_address(proxies: Sequence[Network]) -> str:
    """Return the client's address: as the proxy gives it if the connection comes from one, otherwise the peer's."""
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return (forwarded if forwarded and peer_is_listed(proxies) else request.remote_addr or "")[:64]
