"""Reading octets of strangers: what is found, what is safe, and that nothing breaks it."""

from __future__ import annotations

import base64
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filtering.evidence import ContentEvidence, parts
from filtering.evidence import content as reading
from filtering.evidence.content import EICAR, GTUBE, read_content
from filtering.evidence.headers import decode_header, find_address
from filtering.evidence.parts import MAX_LOOKALIKES, MAX_PARTS, MAX_SOUGHT, MAX_TOTAL_BYTES, list_parts, walk
from tests.corpus import unpack

HEAD = b"From: Ann <ann@sender.test>\r\nSubject: hello\r\n"
MIXED = HEAD + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"


def part(body: bytes, *, kind: str = "text/plain", encoding: str = "", name: str = "") -> bytes:
    head = f"Content-Type: {kind}\r\n"
    head += f"Content-Transfer-Encoding: {encoding}\r\n" if encoding else ""
    head += f'Content-Disposition: attachment; filename="{name}"\r\n' if name else ""
    return b"--b\r\n" + head.encode() + b"\r\n" + body + b"\r\n"


def quote(data: bytes) -> bytes:
    return b"".join(b"=%02X" % octet for octet in data)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"plain", "plain"),
        (b"=?utf-8?B?w6R4?=", "äx"),
        (b"=?utf-8?Q?a_=C3=A4?=", "a ä"),
        (b"=?iso-8859-1?q?gr=FC=DFe?=", "grüße"),
        (b"=?utf-8?q?one?= =?utf-8?q?two?=", "onetwo"),
        (b"=?utf-8?q?one?= and =?utf-8?q?two?=", "one and two"),
        (b"Re: =?utf-8?b?w6Q=?= x", "Re: ä x"),
        (b"=?utf-8?q?=C3?= =?utf-8?q?=A4?=", "ä"),
        (b"=?utf-8*en?q?x?=", "x"),
        (b"=?x-no-such?q?a=C3=A4?=", "aä"),
        (b"=?zlib_codec?b?eA==?=", "x"),
        (b"=?utf-8?b?!!!?=", ""),
        (b"=?utf-8?q?unfinished", "=?utf-8?q?unfinished"),
        ("grüße".encode(), "grüße"),
        (b"gr\xfc\xdfe", "grüße"),
        (b"caf\xe9", "café"),
        ("grüße".encode()[:-2], "grü"),
        (b"a\x00b\x07c\x1b[31m", "abc[31m"),
        (b"=?utf-8?q?a=00=0D=0AX-Evil:_b?=", "a X-Evil: b"),
        ("safe \u202egnp.exe".encode(), "safe gnp.exe"),
        (b"=?utf-16-be?b?2AA=?=", "\ufffd"),
        (b"a\r\n  folded\r\n\tline", "a folded line"),
    ],
)
def test_header_is_decoded_safely(value: bytes, expected: str) -> None:
    assert decode_header(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"ann@sender.test", "ann@sender.test"),
        (b"Ann <Ann@Sender.TEST>", "ann@sender.test"),
        (b'"ceo@bank.test" <eve@evil.test>', "eve@evil.test"),
        (b'"<ceo@bank.test>" <eve@evil.test>', "eve@evil.test"),
        (b"(<ceo@bank.test>) eve@evil.test", "eve@evil.test"),
        (b'"a \\" <ceo@bank.test>" <eve@evil.test>', "eve@evil.test"),
        (b"=?utf-8?q?=3Cceo=40bank.test=3E?= <eve@evil.test>", "eve@evil.test"),
        (b"Ann <ann@a.test>, Bob <bob@b.test>", "ann@a.test"),
        ("Jörg <jörg@exämple.test>".encode(), "jörg@exämple.test"),
        (b"<@relay.test:ann@sender.test>", "ann@sender.test"),
        (b"undisclosed-recipients:;", ""),
        (b"<>", ""),
        (b"", ""),
        (b'"unfinished <ann@sender.test>', ""),
        (b"<" + b"a" * 400 + b"@sender.test>", ""),
    ],
)
def test_address_of_from_is_the_real_one(value: bytes, expected: str) -> None:
    assert find_address(value) == expected


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"\r\n" + GTUBE + b"\r\n",
        HEAD.replace(b"\r\n", b"\n") + b"\n" + GTUBE,
        HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(GTUBE),
        HEAD + b"Content-Transfer-Encoding: BASE64 \r\n\r\n" + base64.encodebytes(GTUBE),
        HEAD + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + quote(GTUBE),
        MIXED + part(b"hello") + part(GTUBE, kind="text/html") + b"--b--\r\n",
        MIXED + part(base64.encodebytes(GTUBE), encoding="base64") + b"--b--\r\n",
        MIXED + part(GTUBE),  # never closed
        MIXED.replace(b"=b\r\n", b'="b"\r\n') + part(GTUBE) + b"--b--\r\n",
        MIXED + b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + HEAD + b"\r\n" + GTUBE + b"\r\n--b--\r\n",
    ],
)
def test_gtube_is_found_in_text(raw: bytes) -> None:
    assert read_content(raw).gtube


def test_gtube_in_a_header_or_a_file_is_not_text() -> None:
    assert not read_content(HEAD + b"X-Note: " + GTUBE + b"\r\n\r\nhello\r\n").gtube
    assert not read_content(MIXED + part(GTUBE, kind="application/zip") + b"--b--\r\n").gtube


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (HEAD + b"\r\n" + EICAR + b"\r\n", "body"),
        (MIXED + part(EICAR, kind="application/octet-stream", name="eicar.com") + b"--b--\r\n", "eicar.com"),
        (MIXED + part(base64.encodebytes(EICAR), encoding="base64", name="a.com") + b"--b--\r\n", "a.com"),
        (MIXED + part(base64.encodebytes(EICAR), encoding="base64", kind="image/png") + b"--b--\r\n", "image/png"),
        (MIXED + b"preamble " + EICAR + b"\r\n" + part(b"x") + b"--b--\r\n", "body"),
        (MIXED + part(b"x") * (MAX_PARTS + 5) + part(EICAR, name="late.com") + b"--b--\r\n", "body"),
        (MIXED + part(b"harmless", name="a.com") + b"--b--\r\n", ""),
    ],
)
def test_eicar_is_found_in_parts_and_around_them(raw: bytes, where: str) -> None:
    assert read_content(raw).eicar == where


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b'Content-Disposition: attachment; filename="a b.txt"', "a b.txt"),
        (b"Content-Disposition: attachment; filename=a.txt", "a.txt"),
        (b"Content-Disposition: attachment; filename*=utf-8''gr%C3%BC%C3%9Fe.txt", "grüße.txt"),
        (b"Content-Disposition: attachment; filename*1=b.txt; filename*0=a", "ab.txt"),
        (b"Content-Disposition: attachment; filename*0*=utf-8''%C3; filename*1*=%A4.txt", "ä.txt"),
        (b'Content-Disposition: attachment; filename="=?utf-8?q?=C3=A4=2Etxt?="', "ä.txt"),
        (b'Content-Disposition: attachment; filename="a\x00<b>\r\n .txt"', "a<b> .txt"),
        (b"Content-Disposition: attachment", ""),
    ],
)
def test_file_name_is_read_safely(header: bytes, expected: str) -> None:
    (found,) = list_parts(HEAD + header + b"\r\n\r\nx")

    assert (found.filename, found.is_attachment) == (expected, True)


def test_parts_are_decoded_in_their_order() -> None:
    raw = (
        MIXED
        + b"preamble\r\n"
        + b"--b\r\nContent-Type: multipart/alternative; boundary=bb\r\n\r\n"
        + b"--bb\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\ngr\xfc\xdfe\r\n"
        + b"--bb\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<b>=41</b>\r\n"
        + b"--bb--\r\n"
        + part(base64.encodebytes(b"data"), encoding="base64", kind="application/pdf", name="a.pdf")
        + b"--b--\r\nepilogue\r\n"
    )
    found = walk(raw)

    assert [(one.content_type, one.text, one.is_attachment) for one in found.parts] == [
        ("text/plain", "grüße", False),
        ("text/html", "<b>A</b>", False),
        ("application/pdf", "data", True),
    ]
    assert found.problems == []


def test_every_boundary_that_is_named_is_heeded() -> None:
    raw = (
        HEAD
        + b"Content-Type: multipart/mixed; boundary=a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        + part(base64.encodebytes(EICAR), encoding="base64", name="hidden.com")
        + b"--b--\r\n"
    )
    found = read_content(raw)

    assert found.eicar == "hidden.com"
    assert "several Content-Type fields" in found.problems


def nest(depth: int, *, leaf: bytes, encode: bool = False) -> bytes:
    """A message in a message, so many times."""
    if not encode:
        return b"Content-Type: message/rfc822\r\n\r\n" * depth + leaf
    for _ in range(depth):
        head = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        leaf = head + base64.encodebytes(leaf)
    return leaf


NESTED = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(2000))
HOSTILE = {  # D25, D26: depth 2000, 20,000 fields, one folded field of 5 MB
    "nested": HEAD + NESTED + b"\r\nleaf\r\n",
    "nested in one": HEAD + b"Content-Type: message/rfc822\r\n\r\n" * 100_000,
    "empty parts": MIXED + b"--b\r\n\r\n" * 100_000 + b"--b--\r\n",
    "parts without header": MIXED + b"--b\r\n" * 100_000,
    "parts that open parts": MIXED
    + b"".join(b"--b\r\nContent-Type: multipart/mixed; boundary=c%d\r\n\r\n" % n for n in range(50_000)),
    "near delimiters": MIXED + b"--bc\r\n" * 500_000,
    "dashes": MIXED + b"--c\r\n" * 500_000,
    "commas": b"From: " + b"," * 20_000 + b"\r\n\r\n",
    "addresses": b"From: " + b"a@b.test," * 20_000 + b"\r\n\r\n",
    "quotes": b"From: " + b'"\\' * 20_000 + b"\r\n\r\n",
    "brackets": b"From: " + b"(" * 20_000 + b"<" * 20_000 + b"\r\n\r\n",
    "no at": b"From: " + b"a" * 200_000 + b"\r\n\r\n",
    "headers": HEAD + b"X-A: b\r\n" * 20_000 + b"\r\nbody",
    "froms": b"From: a@b.test\r\n" * 20_000 + b"\r\nbody",
    "folded": b"Subject: a\r\n" + b" b\r\n" * 1_250_000 + HEAD + b"\r\n",
    "one line": b"Subject: " + b"=?" * 2_500_000 + b"\r\n\r\n",
    "words": b"Subject: " + b"=?a?b?x?=" * 500_000 + b"\r\n\r\n",
    "parameters": HEAD + b"Content-Type: multipart/mixed" + b';a="\\' * 100_000 + b"\r\n\r\n",
    "no end": MIXED[:-4] + b"\r\nX: y" * 100_000,
    "base64": HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n" + b"A=!" * 5_000_000,
    "quoted": HEAD + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=" * 10_000_000,
    "parameters of many parts": MIXED
    + (b"--b\r\nContent-Type: text/plain" + b'; name="a(b).txt"' * 64 + b"\r\n\r\nx\r\n") * 900,
    "paddings": MIXED + (b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b"A=" * 1_500_000 + b"\r\n") * 5,
    "encoded messages": HEAD + nest(30, leaf=b"\r\nleaf", encode=True),
    "line ends of two kinds": MIXED + b"--b\nContent-Type: message/rfc822\n\n" * 40_000,
    "no boundary": HEAD + b'Content-Type: multipart/mixed; boundary=""\r\n\r\n' + b"--\r\n\r\n" * 500_000,
    "line ends": b"\n" * 5_000_000,
    "returns": b"\r" * 5_000_000,
    "zeros": bytes(5_000_000),
    "empty": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_are_read_in_bounded_memory(name: str) -> None:
    raw = HOSTILE[name]
    tracemalloc.start()
    found = read_content(raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert found.parts <= MAX_PARTS
    assert "the message could not be read" not in found.problems
    assert peak < 4 * MAX_TOTAL_BYTES + 2 * len(raw)
    assert_is_safe(found)


@pytest.mark.parametrize(
    ("name", "step"), [("nested", "_find_next"), ("empty parts", "_enter"), ("dashes", "_find_next")]
)
def test_work_is_bounded_whatever_the_message(name: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are counted, because a clock would tell of the machine."""
    walker = reading.walk.__globals__["_Walker"]
    original, steps = getattr(walker, step), []

    def counted(self: object, *args: object, **kwargs: object) -> object:
        steps.append(step)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(walker, step, counted)
    read_content(HOSTILE[name])

    assert 0 < len(steps) <= 2 * MAX_PARTS + MAX_LOOKALIKES


def test_octets_are_gone_over_so_often_however_many_boundaries_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    seek, sought = parts._Sought.seek, []

    def counted(self: parts._Sought, *args: object) -> int:
        sought.append(seek(self, *args))
        return sought[-1]

    monkeypatch.setattr(parts._Sought, "seek", counted)
    opened = b"".join(
        b"".join(b"Content-Type: multipart/mixed; boundary=n%d-%d\r\n" % (n, m) for m in range(8))
        + b"\r\n--n%d-0\r\n" % n
        for n in range(45)
    )
    raw = HEAD + opened + b"\r\n" + b"x" * 8_000_000
    found = walk(raw)

    assert "too many boundaries in so long a message" in found.problems
    assert sum(sought) <= (MAX_SOUGHT + 1) * len(raw)


def test_a_long_message_with_some_nested_multiparts_is_read_to_its_end() -> None:
    opened = b"".join(b"Content-Type: multipart/mixed; boundary=n%d\r\n\r\n--n%d\r\n" % (n, n) for n in range(5))
    body = b"\r\n" + b"x" * 9_000_000
    found = walk(HEAD + opened + body + b"".join(b"\r\n--n%d\r\n\r\nlast" % n for n in reversed(range(5))))

    assert [one.data for one in found.parts[1:]] == [b"last"] * 5


def assert_is_safe(found: ContentEvidence) -> None:
    strings = [found.header_from, found.from_address, found.subject, found.message_id, found.eicar, *found.problems]
    for string, limit in zip(strings, [500, 320, 500, 998, 255] + [100] * len(found.problems), strict=True):
        assert len(string) <= limit
        assert "\0" not in string
        assert string.isprintable() or all(character.isprintable() or ord(character) > 0x9F for character in string)
        string.encode("utf-8")
        json.dumps(string)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000))
@example(b"From: \xff\xfe\x00<a\x00@b>\n\n")
@example(b"Subject: =?utf-16-le?b?ANg=?=\n\n")
@example(b"Subject: =?utf-7?q?+2AA-?=\n\n")
def test_any_octets_are_read(raw: bytes) -> None:
    assert_is_safe(read_content(raw))
    for one in list_parts(raw):
        one.text.encode("utf-8")


PIECES = st.sampled_from(
    [b"--b", b"--b--", b"--bb", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Content-Type: multipart/mixed; boundary=b\r\n"]
    + [
        b'Content-Type: multipart/mixed; boundary="bb"\r\n',
        b"Content-Type: message/rfc822\r\n",
        b"x",
        b" ",
        b"\t",
        b"From ",
    ]
    + [
        b"Content-Transfer-Encoding: base64\r\n",
        b"QUJD",
        b"=",
        b"From: a@b.test\r\n",
        b"Subject: =?utf-8?b?",
        b"?=",
        b"\x00",
    ]
)


@settings(max_examples=250, deadline=None)
@given(st.lists(PIECES, max_size=60))
def test_any_structure_is_read(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)

    assert_is_safe(read_content(raw))
    assert read_content(MIXED + raw).problems != ("the message could not be read",)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=600), st.sampled_from(["utf-8", "utf-16", "iso-8859-1", "koi8-r", "nonsense"]))
def test_any_text_survives_as_a_word(text: str, charset: str) -> None:
    word = b"=?" + charset.encode() + b"?B?" + base64.b64encode(text.encode("utf-8", "replace")) + b"?="

    assert decode_header(word).isascii() or decode_header(word).encode("utf-8")
    if charset == "utf-8" and text.isascii() and text.isalnum():
        assert decode_header(word) == text[:500]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"base64", b"quoted-printable", b"8bit"]))
def test_what_is_encoded_is_decoded(data: bytes, encoding: bytes) -> None:
    encode = {b"base64": base64.encodebytes, b"quoted-printable": quote, b"8bit": lambda raw: raw}[encoding]
    if encoding == b"8bit" and (b"\n--" in data or data.startswith(b"--") or data[-1:] in {b"\r", b"\n"}):
        return
    raw = MIXED + part(encode(data), encoding=encoding.decode(), kind="application/x") + b"--b--\r\n"
    (found,) = list_parts(raw)

    assert found.data == data


@pytest.mark.corpora
def test_every_message_of_other_parsers_suites_is_read(corpora: Path, tmp_path: Path) -> None:
    folder = unpack(corpora, "mime", tmp_path)
    read = {path: read_content(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    for found in read.values():
        assert_is_safe(found)

    assert len(read) > 2000
    assert [path.name for path, found in read.items() if "the message could not be read" in found.problems] == []
