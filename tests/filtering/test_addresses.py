"""Addresses as people paste them."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filtering.evidence.addresses import is_public, read_address


@pytest.mark.parametrize(
    ("pasted", "read"),
    [
        ("192.0.2.25", "192.0.2.25"),
        (" 192.0.2.25.\r\n", "192.0.2.25"),
        ("[192.0.2.25]", "192.0.2.25"),
        ("<192.0.2.25>,", "192.0.2.25"),
        ("([192.0.2.25])", "192.0.2.25"),
        ("2001:DB8::25", "2001:db8::25"),
        ("[2001:db8::25]", "2001:db8::25"),
        ("[IPv6:2001:db8::25]", "2001:db8::25"),
        ("2001:db8::", "2001:db8::"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0].", "fe80::1"),
        ("::ffff:192.0.2.25", "192.0.2.25"),
    ],
)
def test_an_address_is_read_as_it_was_pasted(pasted: str, read: str) -> None:
    assert str(read_address(pasted)) == read


@pytest.mark.parametrize(
    "pasted",
    [
        "",
        "mail.sender.test",
        "999.1.1.1",
        "192.0.2",
        "1.2.3.4.5",
        "192.0.2.0/24",
        "٣.0.2.25",
        "%eth0",
        "\0",
        "1" * 9999,
    ],
)
def test_what_is_no_address_is_none(pasted: str) -> None:
    assert read_address(pasted) is None


@given(st.ip_addresses())
def test_every_address_is_read_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert read_address(f"[{address}]") == (getattr(address, "ipv4_mapped", None) or address)


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    read_address(text)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("9.9.9.9", True),
        ("192.0.2.25", True),
        ("2001:db8::25", True),
        ("10.1.2.3", False),
        ("172.31.0.1", False),
        ("192.168.0.1", False),
        ("127.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fd00::1", False),
        ("fe80::1", False),
        ("ff02::1", False),
    ],
)
def test_only_public_addresses_are_asked_about(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public
