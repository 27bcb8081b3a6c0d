"""DNS on loopback for benchmarks: every address has a name and every such name its address; all else is NXDOMAIN.

    .venv/bin/python benchmarks/name_server.py 127.0.0.1:5353

Answers are put together by hand, because the server must not be what is measured.
"""

from __future__ import annotations

import re
import socket
import sys

TTL = (300).to_bytes(4, "big")
PTR, A, SOA, IN = b"\0\x0c", b"\0\x01", b"\0\x06", b"\0\x01"
POINTER = b"\xc0\x0c"  # to the name in the question
REVERSE = re.compile(rb"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.in-addr\.arpa")
NAME = re.compile(rb"h(\d{1,3})-(\d{1,3})-(\d{1,3})-(\d{1,3})\.clients\.test")


def answer(query: bytes) -> bytes:
    """The reply to a question (RFC 1035 section 4); empty where it is none."""
    labels, at = [], 12
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += query[at] + 1
    question = query[12 : at + 5]
    if len(question) < 5 or query[2] & 0x80:
        return b""
    name = b".".join(labels).lower()
    data = _find(name, question[-4:-2])
    known = data or NAME.fullmatch(name) or REVERSE.fullmatch(name)
    flags = bytes([0x85, 0x80 if known else 0x83])  # an authoritative answer, recursion available
    head = query[:2] + flags + b"\0\1" + (b"\0\1" if data else b"\0\0") + b"\0\0\0\0"
    record = POINTER + question[-4:-2] + IN + TTL + len(data).to_bytes(2, "big") + data if data else b""
    return head + question + record


def _find(name: bytes, kind: bytes) -> bytes:
    if kind == PTR and (found := REVERSE.fullmatch(name)):
        host = b"h" + b"-".join(found.groups()[::-1])
        return bytes([len(host)]) + host + b"\x07clients\x04test\0"
    if kind == A and (found := NAME.fullmatch(name)):
        return bytes(int(part) & 255 for part in found.groups())
    if (name, kind) == (b"in-addr.arpa", SOA):  # by which a gateway knows that it is answered
        return bytes(2 + 5 * 4)
    return b""


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((host, int(port)))
        while True:
            query, client = server.recvfrom(4096)
            if reply := answer(query):
                server.sendto(reply, client)


if __name__ == "__main__":
    main()
