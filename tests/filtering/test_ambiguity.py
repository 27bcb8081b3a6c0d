"""Messages that one reader reads otherwise than another: read in every way, and never clean silently."""

from __future__ import annotations

import base64
import io
import tracemalloc
import zipfile

import pytest

from filtering.evidence.content import EICAR, read_content
from filtering.evidence.parts import MAX_TOTAL_BYTES
from tests.filtering.test_content import HEAD, MIXED, nest, part

HIDDEN = base64.encodebytes(EICAR)
HIDDEN_PART = b"--%b\r\nContent-Transfer-Encoding: base64\r\n\r\n" + HIDDEN + b"--%b--\r\n"
IN_B = HIDDEN_PART % (b"b", b"b")
ENCODED = HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n"


def mixed(boundary: bytes, *, opened: bytes = b"b", field: bytes = b"Content-Type") -> bytes:
    return HEAD + field + b": multipart/mixed" + boundary + b"\r\n\r\n" + HIDDEN_PART % (opened, opened)


BASE64_LEAF = b"Content-Transfer-Encoding: base64\r\n\r\n" + HIDDEN
AMBIGUOUS = {  # what it is: (message, what is noted); in each the test string is found, whichever reader is right
    "two boundaries": (mixed(b"; boundary=a; boundary=b"), "several boundaries"),
    "two boundaries, turned round": (mixed(b"; boundary=b; boundary=a"), "several boundaries"),
    "boundary and boundary*": (mixed(b"; boundary*=utf-8''a; boundary=b"), "several boundaries"),
    "boundary in pieces": (mixed(b"; boundary=a; boundary*1=c; boundary*0=b", opened=b"bc"), "several boundaries"),
    "boundary after a comment": (mixed(b"; (x) boundary=b"), ""),
    "boundary with a comment": (mixed(b"; boundary=b(x)", opened=b"b(x)"), "several boundaries"),
    "boundary without a comment": (mixed(b"; boundary=b(x)"), "several boundaries"),
    "comment in front": (HEAD + b"Content-Type: (x) multipart/mixed; boundary=b\r\n\r\n" + IN_B, ""),
    "empty boundary": (mixed(b'; boundary=""', opened=b""), "a multipart without boundary"),
    "two types": (mixed(b"; boundary=a\r\nContent-Type: multipart/mixed; boundary=b"), "several Content-Type fields"),
    "two types, text first": (
        HEAD + b"Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + IN_B,
        "several Content-Type fields",
    ),
    "never closed": (MIXED + b"--b\r\n" + BASE64_LEAF, "a multipart is not closed"),
    "space before the colon": (mixed(b"; boundary=b", field=b"Content-Type "), ""),
    "two encodings": (
        HEAD + b"Content-Transfer-Encoding: 7bit\r\n" + BASE64_LEAF,
        "several Content-Transfer-Encoding fields",
    ),
    "odd encoding": (
        HEAD + b'Content-Transfer-Encoding: "base64"\r\n\r\n' + HIDDEN,
        "unknown Content-Transfer-Encoding",
    ),
    "junk in base64": (ENCODED + b"!!" + HIDDEN, "other characters in base64"),
    "base64 after its end": (
        ENCODED + base64.b64encode(b"x") + b"\r\n" + HIDDEN,
        "base64 goes on after its end",
    ),
    "padding in the middle": (
        ENCODED + b"Q=" + base64.b64encode(b"   ABC" + EICAR)[1:] + b"\r\n",
        "base64 goes on after its end",
    ),
    "a message 40 deep": (HEAD + nest(40, leaf=BASE64_LEAF), ""),
    "encoded message": (HEAD + nest(3, leaf=BASE64_LEAF, encode=True), "an encoded message within"),
    "a blank line that is none": (
        HEAD + b"X: y\r\n \r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + IN_B,
        "a blank line within a header",
    ),
}


# N14
@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_ambiguous_is_read_in_every_way_and_noted(name: str) -> None:
    raw, problem = AMBIGUOUS[name]
    found = read_content(raw)

    assert found.eicar
    assert not problem or problem in found.problems


# N14
@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (HEAD + nest(100, leaf=BASE64_LEAF), "nested too deeply"),
        (HEAD + nest(20, leaf=BASE64_LEAF, encode=True), "too many encoded messages within"),
        (HEAD + b"Content-Type: multipart/mixed\r\n\r\n--b\r\n", "a multipart without boundary"),
        (HEAD + b"Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: base64\r\n\r\n" + HIDDEN,
         "an encoded multipart"),
        (MIXED + b"--b junk\r\n\r\nx\r\n--b--\r\n", "a line like a delimiter"),
        (MIXED + b"--b\r\nContent-Type: text/plain; name=a.exe\r\nContent-Disposition: inline; filename=a.txt\r\n\r\n",
         "a part with several names"),
        (MIXED + b"--b\r\nContent-Disposition: attachment; filename=a.txt; filename*0=a.e; filename*1=xe\r\n\r\n",
         "a part with several names"),
        (MIXED + b"--b\r\nContent-Disposition: inline\r\nContent-Disposition: attachment\r\n\r\nx",
         "several Content-Disposition fields"),
        (HEAD + b"X: a\rContent-Type: text/html\r\n\r\nx", "a bare CR in a header"),
        (HEAD + b"Content-Type: text/\0html\r\n\r\nx", "NUL in a header"),
        (HEAD + b"Content-Type: text/plain" + b"; a=b" * 70 + b"; charset=x\r\n\r\nx", "too many parameters"),
        (HEAD + HEAD + b"\r\nx", "several From fields"),
        (HEAD + HEAD + b"\r\nx", "several Subject fields"),
        (HEAD + b"\r\nx", "no Date field"),
        (HEAD + b"\r\nx", "no Message-ID field"),
        (b"Subject: x\r\n\r\nx", "no From field"),
    ],
)  # fmt: skip
def test_what_is_out_of_the_ordinary_is_noted(raw: bytes, problem: str) -> None:
    assert problem in read_content(raw).problems


def test_ordinary_mail_has_no_problems() -> None:
    raw = (
        b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@sender.test>\r\n"
        + HEAD
        + b'Content-Type: multipart/mixed; boundary="=_(b)"; charset=utf-8\r\n\r\nThis is MIME.\r\n--=_(b)\r\n'
        + b"Content-Type: application/pdf; name*=utf-8''gr%C3%BCn.pdf\r\nContent-Transfer-Encoding: BASE64\r\n"
        + b"Content-Disposition: attachment; filename=grun.pdf; filename*=utf-8''gr%C3%BCn.pdf\r\n\r\n"
        + base64.encodebytes(b"data")
        + b"--=_(b)--\r\n"
    )

    assert read_content(raw).problems == ()


# N15
@pytest.mark.parametrize("level", [9, 0])
def test_archives_are_bounded_because_they_are_never_opened(level: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        archive.writestr("../../etc/passwd", b"slip")
        archive.writestr("zeros", bytes(20_000_000 if level else 2_000_000))
        for number in range(2000):
            archive.writestr(f"{number}.txt", b"")
    raw = MIXED + part(base64.encodebytes(packed.getvalue()), encoding="base64", kind="application/zip", name="42.zip")
    tracemalloc.start()
    found = read_content(raw + b"--b--\r\n")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert found.parts == 1
    assert peak < 4 * len(raw) + MAX_TOTAL_BYTES


# N16
@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (b"x" * 100_000, "x" * 500),
        (b"=?utf-8?b?w6TDpMOkw6TDpMOk?=\r\n " * 3000, "ä" * 500),
        ("invoice\u202efdp.exe".encode(), "invoicefdp.exe"),
        ("\u2066a\u2069\u200b\u200db".encode(), "a\u200b\u200db"),
        ("p\u0430ypal".encode(), "p\u0430ypal"),
    ],
)
def test_subject_is_bounded_and_reorders_nothing(subject: bytes, expected: str) -> None:
    assert read_content(b"Subject: " + subject + b"\r\n\r\nx").subject == expected
