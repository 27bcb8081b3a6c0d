"""Mail bent at random: nothing breaks its readers, takes a second of processor time, or fills the memory.

`LAZARET_FUZZ=200000 ./test tests/filtering/test_reading_fuzz.py` tries so many messages instead of a few hundred. The
messages of other parsers' test suites are bent as well where they lie beside the project.
"""

from __future__ import annotations

import base64
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filtering.evidence.content import read_content
from filtering.evidence.headers import decode_header, find_address, parse_value
from filtering.evidence.text import decode
from tests.corpus import unpack
from tests.filtering.test_ambiguity import AMBIGUOUS
from tests.filtering.test_content import HEAD, HOSTILE, MIXED, assert_is_safe, part

EXAMPLES = int(os.environ.get("LAZARET_FUZZ", "300"))
MAX_SECONDS = 1.0  # of processor time, for one message
MAX_OCTETS = 4_000_000
SPARE_BYTES = 268_435_456  # that the readers may take beside what the interpreter and the message have
UNREADABLE = "the message could not be read"
PROJECT = Path(__file__).resolve().parent.parent.parent

MARKS = [
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    "\n\n",
    "\r\n ",
    "\r\n \r\n",
    "\0",
    "\t",
    '"',
    "\\",
    "(",
    ")",
    "<",
    ">",
    ";",
    "--",
]
MARKS += [
    "--b\r\n",
    "--b--\r\n",
    "=",
    "=?",
    "?=",
    "=?utf-8?q?=C3?=",
    "=?utf-8?b?w6Q",
    "''",
    "%",
    "*0=",
    "*1*=",
    ":",
    ",",
]
FIELDS = [
    "Content-Type: multipart/mixed; boundary=b\r\n",
    "Content-Type: message/rfc822\r\n",
    "boundary=",
    'boundary=""',
]
FIELDS += [
    "Content-Transfer-Encoding: base64\r\n",
    "Content-Transfer-Encoding: quoted-printable\r\n",
    "From: ",
    "Subject: ",
]
FIELDS += ["charset=utf-16", "charset=iso-2022-jp", "charset=hz", "filename*0*=utf-8''%00"]
TOKENS = [text.encode() for text in (*MARKS, *FIELDS)] + [b"\xff\xfe", b"\xc3", b"\xed\xa0\x80"]
OWN = [
    MIXED + part(base64.encodebytes(b"data" * 99), encoding="base64", kind="image/png", name="ä.png") + b"--b--\r\n",
    MIXED + b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + MIXED + part(b"x") + b"--b--\r\n--b--\r\n",
    HEAD + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=C3=A4 =\r\n" * 99,
    HEAD + b"Subject: =?utf-8?q?a=C3=A4?= =?iso-2022-jp?b?GyRCJCIbKEI=?=\r\n\r\nx",
    *(raw for raw, _ in AMBIGUOUS.values()),
    *(raw[:20_000] for raw in HOSTILE.values()),
]


def cut(raw: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(raw) + 1) for _ in "ab")
    return raw[:start] + raw[end:]


def insert(raw: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(raw) + 1)
    return raw[:at] + chance.choice(TOKENS) * chance.choice([1, 1, 2, 50, 3000]) + raw[at:]


def flip(raw: bytes, chance: random.Random) -> bytes:
    bent = bytearray(raw)
    for _ in range(chance.randrange(20) if bent else 0):
        bent[chance.randrange(len(bent))] = chance.randrange(256)
    return bytes(bent)


def repeat(raw: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(raw) + 1)
    piece = raw[start : start + chance.choice([1, 10, 100, 2000])]
    return raw[:start] + piece * chance.choice([2, 10, 1000, 20_000]) + raw[start:]


def change_line_ends(raw: bytes, chance: random.Random) -> bytes:
    return raw.replace(b"\r\n", b"\n").replace(b"\n", chance.choice([b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\n"]))


def splice(raw: bytes, chance: random.Random) -> bytes:
    other = chance.choice(OWN)
    at = chance.randrange(len(raw) + 1)
    return raw[:at] + other[chance.randrange(len(other) + 1) :]


WAYS: list[Callable[[bytes, random.Random], bytes]] = [cut, insert, flip, repeat, change_line_ends, splice]


def bend(raw: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randrange(1, 6)):
        raw = chance.choice(WAYS)(raw, chance)[:MAX_OCTETS]
    return raw


def check(raw: bytes) -> None:
    started = time.thread_time()
    found = read_content(raw)
    seconds = time.thread_time() - started
    assert UNREADABLE not in found.problems
    assert seconds < MAX_SECONDS
    assert_is_safe(found)


@cache
def list_suites(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def suites(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list_suites(unpack(corpora, "mime", tmp_path_factory.mktemp("suites")))


FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


# D25 D26
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_take_no_second_of_processor_time(name: str) -> None:
    check(HOSTILE[name])


@FUZZ
@given(st.sampled_from(OWN), st.integers(0, 2**64))
def test_bent_messages_are_read(raw: bytes, seed: int) -> None:
    check(bend(raw, random.Random(seed)))


@pytest.mark.corpora
def test_bent_messages_of_other_suites_are_read(suites: list[Path]) -> None:
    @FUZZ
    @given(st.sampled_from(suites), st.integers(0, 2**64))
    def try_one(path: Path, seed: int) -> None:
        check(bend(path.read_bytes(), random.Random(seed)))

    try_one()


@FUZZ
@given(st.lists(st.sampled_from([*TOKENS, b"a", b"@b.test", b"utf-8", b"name"]) | st.binary(max_size=9), max_size=80))
def test_any_header_is_decoded(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    for text in (decode_header(raw), find_address(raw), decode(raw, "iso-2022-jp"), *parse_value(raw).parameters):
        text.encode("utf-8")
    assert len(decode_header(raw)) <= 500


def read_within_limits(folder: str, examples: int) -> None:
    """In a process of its own: read all files of the folder and bent ones, and say of how many messages that was."""
    seeds = [path.read_bytes() for path in list_suites(Path(folder))] or OWN
    chance = random.Random(1)
    bent = (bend(chance.choice(seeds), chance) for _ in range(examples))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MAX_OCTETS + SPARE_BYTES,) * 2)
    number = 0
    for messages in (seeds, HOSTILE.values(), bent):
        for raw in messages:
            assert UNREADABLE not in read_content(raw).problems
            number += 1
    sys.stdout.write(f"{number}\n")


def run_within_limits(folder: Path) -> int:
    program = f"from tests.filtering.test_reading_fuzz import *; read_within_limits({str(folder)!r}, {EXAMPLES})"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much memory is taken")
def test_bent_messages_are_read_in_bounded_memory(tmp_path: Path) -> None:
    assert run_within_limits(tmp_path) == len(OWN) + len(HOSTILE) + EXAMPLES


@pytest.mark.corpora
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much memory is taken")
def test_messages_of_other_suites_are_read_in_bounded_memory(suites: list[Path]) -> None:
    folder = suites[0]
    while folder.name != "mime":
        folder = folder.parent

    assert run_within_limits(folder) == len(suites) + len(HOSTILE) + EXAMPLES
