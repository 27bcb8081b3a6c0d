"""What is read straight from the wire is what dnspython reads there, or is left to dnspython."""

from __future__ import annotations

import ipaddress

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filtering.evidence.dns_client import MAX_RECORDS, make_question
from filtering.evidence.dns_wire import PlainAnswer, read_plain_answer, write_name

LABELS = st.from_regex(r"[A-Za-z0-9_-]{1,63}", fullmatch=True)
NAMES = (
    st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join(labels) + ".").filter(lambda n: len(n) < 255)
)
DATA = {
    "A": st.ip_addresses(v=4).map(str),
    "AAAA": st.ip_addresses(v=6).map(str),
    "PTR": NAMES,
}


def respond(name: str, kind: str, *records: str, ttl: int = 300) -> dns.message.QueryMessage:
    response = dns.message.make_response(dns.message.make_query(name, kind, use_edns=True))
    assert isinstance(response, dns.message.QueryMessage)
    if records:
        response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *records))
    return response


def read(name: str, kind: str, wire: bytes, *, limit: int = MAX_RECORDS) -> PlainAnswer | None:
    return read_plain_answer(wire, make_question(name, dns.rdatatype.RdataType[kind]), limit=limit)


def read_by_dnspython(wire: bytes) -> tuple[set[str], int]:
    found = dns.message.from_wire(wire, ignore_trailing=True).resolve_chaining()  # type: ignore[attr-defined]
    assert found.answer is not None
    return {unify(record.to_text()) for record in found.answer}, found.minimum_ttl


def unify(record: str) -> str:
    return str(ipaddress.ip_address(record)) if ":" in record else record.lower()


@given(st.data(), st.sampled_from(sorted(DATA)), NAMES, st.integers(0, 2**31 - 1))
def test_plain_answers_are_read_as_dnspython_reads_them(data: st.DataObject, kind: str, name: str, ttl: int) -> None:
    records = data.draw(st.lists(DATA[kind], min_size=1, max_size=MAX_RECORDS))
    wire = respond(name, kind, *records, ttl=ttl).to_wire()

    found = read(name, kind, wire)

    assert found is not None
    assert ({unify(record) for record in found.records}, found.ttl) == read_by_dnspython(wire)
    assert len(found.records) == len({unify(record) for record in records})


@given(st.data(), st.sampled_from(sorted(DATA)))
def test_bent_answers_are_read_as_dnspython_reads_them_or_left_to_it(data: st.DataObject, kind: str) -> None:
    """Never an exception, and never anything that dnspython would not have read."""
    wire = bytearray(respond("host.test.", kind, *data.draw(st.lists(DATA[kind], max_size=3))).to_wire())
    body = st.integers(2, len(wire) - 1).filter(lambda at: at < 12 or at >= 27)  # the question has been compared
    for at, octet in data.draw(st.lists(st.tuples(body, st.integers(0, 255)), max_size=6)):
        wire[at] = octet
    bent = bytes(wire[: data.draw(st.integers(27, len(wire)))])

    found = read("host.test.", kind, bent)

    if found:
        number = min(int.from_bytes(bent[6:8], "big"), MAX_RECORDS)
        alone = bent[:6] + number.to_bytes(2, "big") + bytes(4) + bent[12:]
        assert ({unify(record) for record in found.records}, found.ttl) == read_by_dnspython(alone)


def test_no_more_records_are_read_than_asked_for() -> None:
    wire = respond("host.test.", "A", *(f"192.0.2.{number}" for number in range(20))).to_wire()
    found = read("host.test.", "A", wire)
    assert found is not None
    assert len(found.records) == MAX_RECORDS


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("A", ()),  # an absence
        ("PTR", (r"two\032words.test.",)),
        ("PTR", (".",)),
        ("PTR", (r"b\252cher.test.",)),
        ("SOA", ("ns.test. root.test. 1 2 3 4 60",)),
    ],
)
def test_what_is_not_plain_is_left_to_dnspython(kind: str, records: tuple[str, ...]) -> None:
    assert read("host.test.", kind, respond("host.test.", kind, *records).to_wire()) is None


@pytest.mark.parametrize(
    "bend",
    [
        lambda response: response.set_rcode(dns.rcode.SERVFAIL),
        lambda response: response.set_rcode(dns.rcode.NXDOMAIN),
        lambda response: response.set_opcode(dns.opcode.NOTIFY),
        lambda response: setattr(response, "flags", response.flags | dns.flags.TC),
        lambda response: setattr(response, "flags", response.flags & ~dns.flags.QR),
        lambda response: response.answer.insert(0, dns.rrset.from_text("host.test.", 60, "IN", "CNAME", "other.test.")),
        lambda response: response.answer.append(dns.rrset.from_text("other.test.", 60, "IN", "A", "192.0.2.9")),
        lambda response: response.answer.append(dns.rrset.from_text("host.test.", 60, "CH", "TXT", "x")),
    ],
)
def test_nothing_but_a_whole_success_of_the_name_asked_for_is_plain(bend) -> None:
    response = respond("host.test.", "A", "192.0.2.1")
    bend(response)
    assert read("host.test.", "A", response.to_wire()) is None


def test_name_that_points_to_itself_ends() -> None:
    plain = respond("host.test.", "PTR", "mail.test.").to_wire()
    at = plain.index(b"\x04mail")
    assert read("host.test.", "PTR", plain[:at] + bytes((0xC0, at)) + plain[at + 2 :]) is None


@given(st.one_of(NAMES, st.text(max_size=80)))
def test_names_are_written_as_dnspython_writes_them(name: str) -> None:
    written = write_name(name)
    if written is not None:
        assert written == dns.name.from_text(name).to_wire()


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, ".".join(["x" * 63] * 4), "bücher.test", r"a\.b.test"])
def test_what_can_be_no_plain_name_is_not_written(name: str) -> None:
    assert write_name(name) is None
