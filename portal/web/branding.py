"""The provider's brand: name, logo, and a colour that stays readable on light and on dark."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from django.http import HttpRequest

from portal.tenants.colours import choose_text, format_colour, make_readable, parse_colour
from portal.tenants.models import ServiceProvider

LIGHT, DARK = (241, 243, 246), (38, 45, 54)  # the surfaces of static/lazaret.css on which a colour reads worst
NEUTRAL = "#1f4e79"


@dataclass(frozen=True, slots=True)
class Brand:
    """What templates show of the provider. At no provider's hostname: the platform's neutral one, `name` empty."""

    name: str = ""
    support: str = ""
    colour: str = NEUTRAL
    has_logo: bool = False

    @property
    def initial(self) -> str:
        return self.name[:1].upper()

    @property
    def version(self) -> str:
        """Changes with the theme, so that the stylesheet may be kept by browsers."""
        return sha256(self.colour.encode()).hexdigest()[:8]


def get_brand(request: HttpRequest) -> Brand:
    provider = getattr(request, "tenant", None)
    if not isinstance(provider, ServiceProvider) or provider.schema_name == "public":
        return Brand()
    return Brand(provider.name, provider.support, provider.colour, bool(provider.logo_type))


def brand(request: HttpRequest) -> dict[str, Any]:
    """The context processor."""
    return {"brand": get_brand(request)}


def make_theme(colour: str) -> str:
    """The stylesheet of a brand: custom properties only, made of parsed numbers and nothing that was typed."""
    base = parse_colour(colour)
    values = {
        "brand": (base, base),
        "on-brand": (choose_text(base), choose_text(base)),
        "accent": (make_readable(base, LIGHT), make_readable(base, DARK)),
    }
    values["on-accent"] = (choose_text(values["accent"][0]), choose_text(values["accent"][1]))
    light = "".join(f"--{name}:{format_colour(pair[0])};" for name, pair in values.items())
    dark = "".join(f"--{name}:{format_colour(pair[1])};" for name, pair in values.items())
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"
