"""The logos of the demo's providers, drawn."""

from __future__ import annotations

from collections.abc import Callable

from portal.stack.demo.letters.make import make_png

SIZE = 96
SAMPLES = (0.25, 0.75)  # twice a side: soft edges
Shape = Callable[[float, float], bool]


def draw_logo(slug: str, colour: str) -> bytes:
    """A white sign on a disc of the provider's colour, as PNG."""
    rgb = tuple(bytes.fromhex(colour.removeprefix("#")))
    sign = SIGNS[slug]
    pixels = bytearray()
    for y in range(SIZE):
        for x in range(SIZE):
            points = [((x + dx) / SIZE * 2 - 1, (y + dy) / SIZE * 2 - 1) for dx in SAMPLES for dy in SAMPLES]
            share = sum(is_disc(*point) and not sign(*point) for point in points) / len(points)
            pixels += bytes(round(255 + (part - 255) * share) for part in rgb)
    return make_png(SIZE, SIZE, bytes(pixels))


def is_disc(x: float, y: float) -> bool:
    return x * x + y * y < 0.96


def is_mountain(x: float, y: float) -> bool:
    """Two peaks."""
    high = y > -0.5 + 1.3 * abs(x + 0.15)
    low = y > -0.1 + 1.3 * abs(x - 0.4)
    return y < 0.45 and (high or low)


def is_orbit(x: float, y: float) -> bool:
    """A globe with a ring around it."""
    ring = 0.30 < (x * 0.9 + y * 0.35) ** 2 / 0.6 + (y - x * 0.35) ** 2 / 0.16 < 0.55
    return x * x + y * y < 0.1 or ring


SIGNS: dict[str, Shape] = {"acme": is_mountain, "globex": is_orbit}
