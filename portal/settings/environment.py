"""The environment, read once: every variable, its default, and what is wrong with a wrong value."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

PROJECT = Path(__file__).resolve().parent.parent.parent
LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOSTNAME = re.compile(rf"(?=.{{1,253}}$){LABEL}(\.{LABEL})*")
PORTAL_URL = re.compile(r"https?://\{hostname\}(:[0-9]{1,5})?/?")


@dataclass(frozen=True)
class Address:
    """A host and a port to listen on or to connect to."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(name: str, value: str, default_port: int | None = None) -> Address:
    """Read `host:port`, `[v6]:port`, or, where there is a default port, a bare host."""
    host, _, port = value.strip().rpartition(":")
    if default_port is not None and (not host or (value.count(":") > 1 and not value.startswith("["))):
        host, port = value.strip().rstrip(":"), str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not is_number(port, low=1, high=65535):
        raise ImproperlyConfigured(f"{name} is {value!r}; it must be host:port, such as 127.0.0.1:2525.")
    return Address(host, int(port))


def parse_resolvers(name: str, value: str) -> tuple[Address, ...]:
    """Read `ip[:port],...`; empty means the system's resolvers."""
    found = tuple(parse_address(name, part, default_port=53) for part in value.split(",") if part.strip())
    for address in found:
        try:
            ipaddress.ip_address(address.host)
        except ValueError:
            raise ImproperlyConfigured(f"{name} has {address.host!r}; a resolver is named by its IP address.") from None
    return found


def parse_networks(name: str, value: str) -> tuple[str, ...]:
    """Read a comma-separated list of addresses or networks."""
    networks = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return tuple(str(ipaddress.ip_network(part, strict=False)) for part in networks)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is {value!r}: {error}.") from None


def is_number(text: str, *, low: int, high: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high


def parse_number(name: str, value: str, *, low: int, high: int) -> int:
    if not is_number(value.strip(), low=low, high=high):
        raise ImproperlyConfigured(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")
    return int(value)


def parse_flag(name: str, value: str) -> bool:
    if value.strip().lower() not in {"0", "1", "false", "true", "no", "yes"}:
        raise ImproperlyConfigured(f"{name} is {value!r}; it must be 1 or 0.")
    return value.strip().lower() in {"1", "true", "yes"}


def parse_url(name: str, value: str, schemes: tuple[str, ...]) -> str:
    if value and value.partition("://")[0] not in schemes:
        raise ImproperlyConfigured(f"{name} must begin with one of: {', '.join(s + '://' for s in schemes)}.")
    try:
        urlsplit(value).port  # noqa: B018 - raises where it is no number
    except ValueError:  # the sentence leaves the value out: it may hold a password
        raise ImproperlyConfigured(
            f"{name} cannot be read: its port is no number; in a password, / is written %2F, # is %23, and ? is %3F."
        ) from None
    return value


def parse_hostname(name: str, value: str) -> str:
    """Read a name that is said in banners and header lines."""
    if not HOSTNAME.fullmatch(value):
        raise ImproperlyConfigured(f"{name} is {value!r}; it must be a hostname, such as mx1.example.net.")
    return value


def parse_portal_url(name: str, value: str) -> str:
    """Read the pattern of the portals' addresses: the hostname says whose portal it is, so it stands alone."""
    if not PORTAL_URL.fullmatch(value):
        raise ImproperlyConfigured(
            f"{name} is {value!r}; it must be https://{{hostname}} or https://{{hostname}}:port."
        )
    return value


def get_home() -> Path:
    """LAZARET_HOME as an absolute path; `./var` of the project by default."""
    value = os.environ.get("LAZARET_HOME") or str(PROJECT / "var")
    return Path(value).expanduser().resolve()


def load_home_file(home: Path) -> None:
    """Take what `./run` wrote about its embedded servers, where the environment does not say otherwise."""
    path = home / "lazaret.env"
    if path.is_file() and os.access(path, os.R_OK):
        environ.Env.read_env(str(path), overwrite=False)


def get_secret_key(home: Path, *, generate: bool) -> str:
    """LAZARET_SECRET_KEY, or (embedded only) one made at the first start and kept in LAZARET_HOME."""
    given = os.environ.get("LAZARET_SECRET_KEY", "")
    if given:
        if len(given) < 32:
            raise ImproperlyConfigured("LAZARET_SECRET_KEY must have at least 32 characters.")
        return given
    if not generate:
        raise ImproperlyConfigured("LAZARET_SECRET_KEY must be set where DATABASE_URL is set.")
    path = home / "secret_key"
    if not path.is_file():
        home.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_urlsafe(48))
    return path.read_text().strip()
