"""What strangers wrote, made fit to be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.wording import clean, read_sender, read_subject


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("Order 1.2 of 3.4, e.g. this", "Order 1.2 of 3.4, e.g. this"),
        ("http://evil.test/x.html now", "hxxp[:]//evil[.]test/x[.]html now"),
        ("HTTPS://EVIL.TEST", "hxxpS[:]//EVIL[.]TEST"),
        ("see evil\u3002test and www.evil.test", "see evil[.]test and www[.]evil[.]test"),
        ("ftp://evil.test", "ftp[:]//evil[.]test"),
        ("a\r\nb\x00c\u202ed", "a b c d"),
        ("", ""),
    ],
)
def test_subject(subject, shown):
    assert read_subject(subject) == shown


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("Anna <a@b.test>", ("Anna", "a@b.test")),
        ("M\u00fcller, Anna <a@b.test>", ("M\u00fcller, Anna", "a@b.test")),
        ("a@b.test", ("", "a@b.test")),
        ("boss@bank.test <thief@evil.test>", ("boss@bank[.]test", "thief@evil.test")),
        ('"PayPal.com" <x@evil.test>', ("PayPal[.]com", "x@evil.test")),
        ("no address", ("no address", "env@x.test")),
        ("", ("", "env@x.test")),
        ('<"http://evil.test/"@x.test>', ('<"hxxp[:]//evil[.]test/"@x[.]test>', "env@x.test")),
        ("<>", ("", "env@x.test")),
    ],
)
def test_sender(header, shown):
    assert read_sender(header, "env@x.test") == shown


@given(st.text(max_size=2000), st.text(max_size=400))
def test_whatever_is_written_is_one_short_line_without_links(header, envelope):
    for text in (read_subject(header), *read_sender(header, envelope)):
        assert text.splitlines() in ([], [text])
        assert text.isprintable() or not text.isascii()
        assert "://" not in text
        assert len(clean(header, 160)) <= 160


@given(st.text("<>,\"'@()\\ ab.:/", max_size=500))
def test_broken_addresses_are_read_without_harm(header):
    name, address = read_sender(header, "")
    assert "://" not in name + address
