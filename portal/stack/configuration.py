"""What `./run` was told: the environment and its options, checked before anything starts."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from portal.settings import choose
from portal.settings.environment import Address, get_home
from portal.stack.process import StackError

# What only the supervisor says to its children.
OWN = ("LAZARET_EMBEDDED", "LAZARET_SUPERVISED", "LAZARET_DEMO", "LAZARET_DEMO_UPSTREAM")


@dataclass(frozen=True)
class Configuration:
    """The settings that the supervisor needs, and the environment as it was found."""

    home: Path
    environment: dict[str, str]
    embedded: bool
    empty: bool
    smtp: Address
    web: Address
    gateways: int

    @property
    def demo(self) -> bool:
        return self.embedded and not self.empty


def read_configuration(*, empty: bool) -> Configuration:
    """Read and check every setting. Raises StackError with one sentence that names the wrong one."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    embedded = not environment.get("DATABASE_URL")
    if embedded and environment.get("BROKER_URL"):
        raise StackError("BROKER_URL is set and DATABASE_URL is not; set both, or neither for the embedded servers.")
    for name in OWN:
        os.environ.pop(name, None)
    read = _load_settings()
    return Configuration(
        home=get_home(),
        environment=environment | {"LAZARET_HOME": str(get_home())},
        embedded=embedded,
        empty=empty,
        smtp=read.SMTP_ADDRESS,
        web=read.WEB_ADDRESS,
        gateways=read.GATEWAY_PROCESSES,
    )


def _load_settings() -> Any:
    """Django's settings, read now; a certificate that the gateway could not load is found here too."""
    choose()
    try:
        certificate = settings.SMTP_TLS_CERTIFICATE
    except ImproperlyConfigured as error:
        raise StackError(str(error)) from None
    if certificate:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, settings.SMTP_TLS_KEY)
        except (ssl.SSLError, OSError) as error:
            raise StackError(f"LAZARET_TLS_CERT and LAZARET_TLS_KEY are no pair of use: {error}.") from None
    return settings
