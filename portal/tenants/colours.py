"""Colours, and how well one can be read on another (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

Colour = tuple[int, int, int]
CONTRAST = 4.5  # of text against its background


def parse_colour(text: str) -> Colour:
    """`#rrggbb` as numbers. Raises ValueError for anything else."""
    if len(text) != 7 or not text.startswith("#"):
        raise ValueError(text)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def format_colour(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def get_luminance(colour: Colour) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = (part / 255 for part in colour)
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def get_contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((get_luminance(one), get_luminance(other)))
    return (high + 0.05) / (low + 0.05)


def choose_text(background: Colour) -> Colour:
    """White or black, whichever reads better on the colour; one of them always reaches 4.5."""
    white, black = (255, 255, 255), (0, 0, 0)
    return white if get_contrast(white, background) >= get_contrast(black, background) else black


def make_readable(colour: Colour, background: Colour) -> Colour:
    """The colour, moved towards black or white until it can be read as text on the background."""
    target = choose_text(background)
    for step in range(21):
        mixed = tuple(round(part + (end - part) * step / 20) for part, end in zip(colour, target, strict=True))
        red, green, blue = mixed
        if get_contrast((red, green, blue), background) >= CONTRAST:
            return red, green, blue
    return target
