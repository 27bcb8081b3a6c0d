"""What can be shown of a message's content. Read here, with bounds, and shown nowhere but in the preview."""

from __future__ import annotations

from dataclasses import dataclass

from filtering.evidence.parts import Part, list_parts
from portal.web.sanitise import MAX_HTML_CHARACTERS, extract_text, sanitise_html
from quarantine.content import ContentDamagedError, ContentGoneError
from quarantine.models import Message
from quarantine.queries import read_raw

MAX_TEXT_CHARACTERS = 200_000
MAX_HEADER_BYTES = 65_536
MAX_FILES = 100


@dataclass(frozen=True)
class Preview:
    text: str = ""
    is_cut: bool = False
    has_html: bool = False
    headers: str = ""
    files: tuple[Part, ...] = ()
    more_files: int = 0
    is_gone: bool = False


def make_preview(message: Message) -> Preview:
    """Text, headers and names of attachments. The content may be gone: a delivered message is not kept."""
    raw = find_raw(message)
    if raw is None:
        return Preview(is_gone=True)
    parts = list_parts(raw)
    text, html = _find_text(parts, "text/plain"), _find_text(parts, "text/html")
    shown = text if text.strip() else extract_text(html)
    files = tuple(part for part in parts if part.is_attachment)
    return Preview(
        text=make_visible(shown[:MAX_TEXT_CHARACTERS]),
        is_cut=len(shown) > MAX_TEXT_CHARACTERS,
        has_html=bool(html.strip()),
        headers=make_visible(read_headers(raw)),
        files=files[:MAX_FILES],
        more_files=max(0, len(files) - MAX_FILES),
    )


def find_html(message: Message) -> str | None:
    """The HTML of the message, sanitised; None where it has none or its content is gone."""
    raw = find_raw(message)
    html = _find_text(list_parts(raw), "text/html") if raw is not None else ""
    return sanitise_html(html[:MAX_HTML_CHARACTERS]) if html.strip() else None


def find_raw(message: Message) -> bytes | None:
    try:
        return read_raw(message)
    except (ContentGoneError, ContentDamagedError):
        return None


def read_headers(raw: bytes) -> str:
    """The header block as it came."""
    ends = [at for mark in (b"\r\n\r\n", b"\n\n") if (at := raw.find(mark)) >= 0]
    block = raw[: min([*ends, MAX_HEADER_BYTES])]
    return block.decode("utf-8", "replace").replace("\r\n", "\n")


def make_visible(text: str) -> str:
    """Control characters, and those that turn the direction of text, as the picture of what they are."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_PICTURES)


_TURNING = (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)
_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_PICTURES |= dict.fromkeys([*range(0x7F, 0xA0), *_TURNING], "\N{REPLACEMENT CHARACTER}")


def _find_text(parts: list[Part], content_type: str) -> str:
    return next((part.text for part in parts if part.content_type == content_type and not part.is_attachment), "")
