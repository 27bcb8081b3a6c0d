"""Reads the arguments of MAIL and RCPT: `<path>` and parameters (RFC 5321 4.1.2, RFC 6531 3.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ADDRESS = 320  # characters; RFC 5321 4.5.3.1 asks for 64 + 1 + 255 at least

# A path in angle brackets, where a quoted local part may hold any of them but brackets.
PATH = re.compile(rb'<((?:"(?:[^"\\]|\\.)*"|[^"<>])*)>(.*)', re.DOTALL)
ROUTE = re.compile(r"^@[^:]*:")  # @a,@b: before the address, to be accepted and ignored (RFC 5321 appendix C)
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
ATOMS = re.compile(r'^[^\s"(),:;<>@\[\\\]]+$')
ESCAPE = re.compile(r"\\(.)")
QUOTED = re.compile(r'^"(?:[^"\\<>]|\\[^<>])*"$')
DOMAIN = re.compile(r"^[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$", re.IGNORECASE)
LITERAL = re.compile(r"^\[(?:IPv6:)?[0-9a-f:.]+\]$", re.IGNORECASE)


class AddressError(ValueError):
    """The path cannot be read as an address."""


class NeedsUtf8Error(AddressError):
    """The address has characters beyond ASCII and SMTPUTF8 was not declared."""


class SyntaxProblem(ValueError):
    """The argument is not `<path>` with parameters."""


@dataclass(frozen=True, slots=True)
class Path:
    """What stood between the brackets, and the parameters after it, by upper-case name."""

    text: str
    parameters: dict[str, str | None]


def read_path(argument: bytes, keyword: bytes) -> Path:
    """Read `FROM:<path> NAME=value ...`. Raises SyntaxProblem, or AddressError where the path is no UTF-8 text."""
    if argument[: len(keyword)].upper() != keyword:
        raise SyntaxProblem
    found = PATH.fullmatch(argument[len(keyword) :].strip(b" \t"))
    if not found:
        raise SyntaxProblem
    try:
        text = found[1].decode()
    except UnicodeDecodeError as error:
        raise AddressError from error
    if found[2][:1] not in (b"", b" ", b"\t") or not found[2].isascii():
        raise SyntaxProblem
    words = found[2].decode().split()
    parameters = dict(map(_read_parameter, words))
    if len(parameters) < len(words):  # which of the two would hold?
        raise SyntaxProblem
    return Path(text, parameters)


def _read_parameter(word: str) -> tuple[str, str | None]:
    name, equals, value = word.partition("=")
    if not name.replace("-", "").isalnum() or (equals and not value):
        raise SyntaxProblem
    return name.upper(), value if equals else None


def read_address(path: str, *, utf8: bool) -> str:
    """The address in a path, as it was written but for its domain: in ASCII form, without a trailing dot.

    A source route is dropped, quotes around what needs none are (RFC 5321 4.1.2: the two are the same), `postmaster`
    may stand alone, the empty path is the empty string. The last @ divides, so a quoted one never makes a second
    domain. Raises NeedsUtf8Error or AddressError.
    """
    if not path:
        return ""
    if not path.isascii() and not utf8:
        raise NeedsUtf8Error
    address = ROUTE.sub("", path)
    if len(address) > MAX_ADDRESS or CONTROL.search(address):
        raise AddressError
    if address.lower() == "postmaster":
        return address
    local, at, domain = address.rpartition("@")
    if not at or not (ATOMS.match(local) or QUOTED.match(local)):
        raise AddressError
    return f"{_unquote(local)}@{_read_domain(domain)}"


def _unquote(local: str) -> str:
    """`"bob"` -> `bob`; what is something else without its quotes is returned as it is."""
    if not local.startswith('"'):
        return local
    bare = ESCAPE.sub(r"\1", local[1:-1])
    return bare if ATOMS.match(bare) and all(bare.split(".")) else local


def _read_domain(domain: str) -> str:
    if LITERAL.match(domain):
        return domain
    try:
        ascii_form = domain.encode("idna").decode("ascii") if not domain.isascii() else domain
    except UnicodeError as error:
        raise AddressError from error
    ascii_form = ascii_form.removesuffix(".")
    if len(ascii_form) > 253 or not DOMAIN.match(ascii_form):
        raise AddressError
    return ascii_form
