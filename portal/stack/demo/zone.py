"""What the demo's name server knows: the addresses that the demo's senders come from (RFC 5737, RFC 3849)."""

from __future__ import annotations

import ipaddress
from enum import StrEnum

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset

TTL_SECONDS = 60
SOA = f"ns.demo.localhost. hostmaster.demo.localhost. 1 3600 600 86400 {TTL_SECONDS}"
NETWORKS = [
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
REVERSE_ZONES = [
    dns.name.from_text(text)
    for text in (
        "2.0.192.in-addr.arpa.",
        "100.51.198.in-addr.arpa.",
        "113.0.203.in-addr.arpa.",
        "8.b.d.0.1.0.0.2.ip6.arpa.",
    )
]
REVERSE_ROOT = dns.name.from_text("in-addr.arpa.")  # by its SOA the gateway knows that it is answered
FORWARD_ZONES = [dns.name.from_text(text) for text in ("example.", "test.", "invalid.")]


class Reverse(StrEnum):
    """How an address's reverse DNS is."""

    OK = "ok"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"
    NONE = "none"


# address: the name that it claims (of Reverse.NONE and UNKNOWN the name is used in HELO only)
CLIENTS: dict[str, tuple[Reverse, str]] = {
    "192.0.2.10": (Reverse.OK, "mail.flourmill.example"),
    "192.0.2.25": (Reverse.OK, "smtp-out.courtmail.example"),
    "192.0.2.40": (Reverse.OK, "mta7.letterpress-hub.example"),
    "192.0.2.77": (Reverse.OK, "mx2.riverbank.example"),
    "198.51.100.12": (Reverse.OK, "mail.riverbank.example"),
    "198.51.100.33": (Reverse.OK, "out.cloudledger.example"),
    "198.51.100.60": (Reverse.OK, "mail.harbour-authority.example"),
    "198.51.100.81": (Reverse.OK, "smtp.webmail-house.example"),
    "203.0.113.5": (Reverse.OK, "vps5.cheap-hosting.example"),
    "203.0.113.9": (Reverse.OK, "vps9.cheap-hosting.example"),
    "2001:db8:25::10": (Reverse.OK, "mail6.lindgren-engineering.example"),
    "203.0.113.66": (Reverse.MISMATCH, "mail.riverbank.example"),
    "203.0.113.99": (Reverse.MISMATCH, "host-99.dsl.cheap-hosting.example"),
    "198.51.100.200": (Reverse.UNKNOWN, "relay.slow-names.example"),
    "203.0.113.150": (Reverse.NONE, "winner-notify.example"),
    "203.0.113.151": (Reverse.NONE, "smtp.small-office.example"),
    "203.0.113.152": (Reverse.NONE, "pharma-direct.example"),
}
FORWARD = {name: ip for ip, (kind, name) in CLIENTS.items() if kind is Reverse.OK}
REVERSE = {dns.reversename.from_address(ip): client for ip, client in CLIENTS.items()}


def is_ours(name: dns.name.Name) -> bool:
    return name == REVERSE_ROOT or any(name.is_subdomain(zone) for zone in REVERSE_ZONES + FORWARD_ZONES)


def answer(query: dns.message.Message) -> dns.message.Message:
    """The reply to a question about the demo's own zones: an answer, NXDOMAIN, no data, or SERVFAIL."""
    response = dns.message.make_response(query, recursion_available=True)
    question = query.question[0]
    kind, _ = REVERSE.get(question.name, (None, ""))
    if kind is Reverse.UNKNOWN:
        response.set_rcode(dns.rcode.SERVFAIL)
        return response
    response.flags |= dns.flags.AA
    found = find(question.name)
    if found is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif found[0] == question.rdtype:
        response.answer.append(dns.rrset.from_text(question.name, TTL_SECONDS, "IN", *found))
    if not response.answer:
        response.authority.append(make_soa(question.name))
    return response


def find(name: dns.name.Name) -> tuple[dns.rdatatype.RdataType, str] | None:
    """The one record that the name has."""
    if name == REVERSE_ROOT:
        return dns.rdatatype.SOA, SOA
    kind, target = REVERSE.get(name, (Reverse.NONE, ""))
    if kind in {Reverse.OK, Reverse.MISMATCH}:
        return dns.rdatatype.PTR, f"{target}."
    ip = FORWARD.get(name.to_text(omit_final_dot=True).lower())
    if ip is None:
        return None
    return (dns.rdatatype.AAAA if ":" in ip else dns.rdatatype.A), ip


def make_soa(name: dns.name.Name) -> dns.rrset.RRset:
    zone = next(zone for zone in [*REVERSE_ZONES, *FORWARD_ZONES, REVERSE_ROOT] if name.is_subdomain(zone))
    return dns.rrset.from_text(zone, TTL_SECONDS, "IN", "SOA", SOA)
