"""What somebody types of a mail is recognised as what it is."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from quarantine.wanted import NotUnderstoodError, Wanted, recognise

TRACE = "01JABCDEFGH1K0MNPQRS"


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (TRACE, Wanted(trace_id=TRACE)),
        (f"  {TRACE.lower().replace('1', 'l', 1)[:9]} {TRACE[9:].replace('0', 'o')} ", Wanted(trace_id=TRACE)),
        (f"554 5.7.1 Message refused by policy (trace {TRACE})", Wanted(trace_id=TRACE)),
        (f"<bob@alpha.test>: host mx said: 550 5.1.1 No such mailbox here (trace {TRACE})", Wanted(trace_id=TRACE)),
        ("<4711.abc>", Wanted(message_id="<4711.abc>")),
        ("<4711@Far.test>", Wanted(message_id="<4711@Far.test>")),
        ("Message-ID: <4711@far.test>", Wanted(message_id="<4711@far.test>")),
        ("Message-ID: 4711@far.test", Wanted(message_id="<4711@far.test>")),
        ("Ann@Far.test", Wanted(message_id="<Ann@Far.test>", party="ann@far.test")),
        ("Ann Smith <Ann@far.test>", Wanted(party="ann@far.test")),
        ("From: Ann <ann@far.test>", Wanted(party="ann@far.test")),
        ("Return-Path: <Ann@far.test>", Wanted(party="ann@far.test")),
        ("To: theo@alpha.test", Wanted(party="theo@alpha.test")),
        ("Ann@Far.test theo@alpha.test", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("ann@far.test, theo@alpha.test", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("From: ann@far.test To: theo@alpha.test.", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("<ann@far.test> to <theo@alpha.test>", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("<ann@far.test><theo@alpha.test>", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("@Far.Test.", Wanted(party="@far.test")),
        ("192.0.2.25", Wanted(client=ip_network("192.0.2.25"))),
        ("[192.0.2.25]", Wanted(client=ip_network("192.0.2.25"))),
        ("192.0.2.25/24", Wanted(client=ip_network("192.0.2.0/24"))),
        ("2001:DB8::1", Wanted(client=ip_network("2001:db8::1"))),
        ("[IPv6:2001:db8::1]", Wanted(client=ip_network("2001:db8::1"))),
        ("::ffff:192.0.2.25", Wanted(client=ip_network("192.0.2.25"))),
        ("2001:db8::/32", Wanted(client=ip_network("2001:db8::/32"))),
    ],
)
def test_what_was_typed_is_recognised(typed, wanted):
    assert recognise(typed) == wanted


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "invoice",
        "internationalization of mail",
        "@",
        "ann@",
        "300.1.1.1",
        "\0",
        "a@x.test b@y.test c@z.test",
        "a@x.test @y.test",
    ],
)
def test_what_is_nothing_of_that_is_said_to_be_nothing(typed):
    with pytest.raises(NotUnderstoodError, match=r"no (trace id|address)"):
        recognise(typed)
