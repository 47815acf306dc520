"""Which network addresses the platform may call when a client asks for it. Pure.

The tables are IANA's special-purpose registries
(https://www.iana.org/assignments/iana-ipv4-special-registry,
https://www.iana.org/assignments/iana-ipv6-special-registry), plus public addresses that clouds use
for their own services. An IPv6 address that embeds an IPv4 address is judged by the IPv4 address.
Tunnel prefixes without a legitimate use here (6to4, Teredo) are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_FORBIDDEN_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocols, and a cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_FORBIDDEN_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")


def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks of a comma-separated list in CIDR notation.

    Raises `ValueError` for anything else, also for a network with host bits set.
    """
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def forbidden(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether a client may not make the platform call `address`.

    Forbidden is every address outside of the public internet, unless a network of `allowed` contains it.
    An embedded IPv4 address is extracted first, so an allowed network is allowed in every notation.
    """
    inner = _carried(address)
    if any(inner.version == network.version and inner in network for network in allowed):
        return False
    if isinstance(inner, IPv4Address):
        return any(inner in network for network in _FORBIDDEN_V4)
    return inner not in _GLOBAL_V6 or any(inner in network for network in _FORBIDDEN_V6)


def inside(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of `networks` contains `address`, in any notation of the address."""
    inner = _carried(address)
    return any(inner.version == network.version and inner in network for network in networks)


def literal(host: str) -> Address | None:
    """The address that `host` spells in plain notation; None for a name and for anything else."""
    try:
        return ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _carried(address: Address) -> Address:
    """The IPv4 address that `address` embeds (mapped or NAT64); without one, `address` itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
