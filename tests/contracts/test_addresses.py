"""Every special-purpose address is refused in every notation, and the public internet is not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.addresses import Address, forbidden, literal, parse_networks

INNER = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255"),
    *("127.0.0.1", "127.1.2.3", "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
    *("192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.1", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1"),
    *("64:ff9b::a9fe:a9fe", "100::1", "2001::1", "2001:0:7f00:1::", "2001:db8::1", "2002:7f00:1::1"),
    *("2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1"),
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "100.63.255.255",
    "100.128.0.1",
    "172.32.0.1",
    "223.255.255.255",
]
PUBLIC += ["2606:4700:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("text", INNER)
def test_what_is_not_public_is_refused(text: str) -> None:
    assert forbidden(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_what_is_public_is_not(text: str) -> None:
    assert not forbidden(ip_address(text))


def test_an_operator_allows_networks_in_every_notation_and_no_more() -> None:
    allowed = parse_networks("10.1.0.0/16, fd00:1::/32,127.0.0.1/32")
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00:1::5", "127.0.0.1"):
        assert not forbidden(ip_address(text), allowed)
    for text in ("10.2.0.1", "fd00:2::1", "127.0.0.2", "::1"):
        assert forbidden(ip_address(text), allowed)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "ten", "10.0.0.0/33", "10.0.0.0/8;"])
def test_a_network_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_networks(text)


def test_literals() -> None:
    assert literal("[::1]") == IPv6Address("::1")
    assert literal("fe80::1%eth0") == IPv6Address("fe80::1")
    assert literal("127.0.0.1") == IPv4Address("127.0.0.1")
    assert literal("127.1") is None
    assert literal("example.com") is None


@given(st.ip_addresses(v=4))
def test_whatever_the_standard_library_calls_private_is_refused_in_all_notations(
    address: IPv4Address,
) -> None:
    inner = int(address)
    notations: list[Address] = [
        address,
        IPv6Address((0xFFFF << 32) | inner),
        IPv6Address((0x64FF9B << 96) | inner),
    ]
    if not address.is_global or address.is_multicast:
        assert all(forbidden(each) for each in notations)
    assert len({forbidden(each) for each in notations}) == 1
