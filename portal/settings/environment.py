"""The environment, read once: every variable, its default, and what is wrong with a wrong value."""

from __future__ import annotations

import ipaddress
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

PROJECT = Path(__file__).resolve().parent.parent.parent


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
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
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


def parse_number(name: str, value: str, *, low: int, high: int) -> int:
    if not value.strip().isdigit() or not low <= int(value) <= high:
        raise ImproperlyConfigured(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")
    return int(value)


def parse_flag(name: str, value: str) -> bool:
    if value.strip().lower() not in {"0", "1", "false", "true", "no", "yes"}:
        raise ImproperlyConfigured(f"{name} is {value!r}; it must be 1 or 0.")
    return value.strip().lower() in {"1", "true", "yes"}


def parse_url(name: str, value: str, schemes: tuple[str, ...]) -> str:
    if value and value.partition("://")[0] not in schemes:
        raise ImproperlyConfigured(f"{name} must begin with one of: {', '.join(s + '://' for s in schemes)}.")
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
