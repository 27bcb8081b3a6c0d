"""What can be read of a message: who it says it is from, its subject, and test strings in its parts."""

from __future__ import annotations

import logging

from filtering.evidence import ContentEvidence
from filtering.evidence.headers import decode_header, find_address
from filtering.evidence.parts import Part, Walk, walk

log = logging.getLogger(__name__)

# Written in two halves, so that these files are no test mail themselves.
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}" + b"$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
MAX_MESSAGE_ID_CHARACTERS = 998  # RFC 5322 2.1.1


def read_content(raw: bytes) -> ContentEvidence:
    """Read the message within bounds of time and memory; never raises. Meant for a thread, not for an event loop."""
    try:
        return _read(raw)
    except Exception as error:  # noqa: BLE001 a message that cannot be read is judged on the rest, and never lost
        log.error("content_unreadable error=%s bytes=%d", type(error).__name__, len(raw))
        return ContentEvidence(problems=("the message could not be read",))


def _read(raw: bytes) -> ContentEvidence:
    found = walk(raw)
    senders = found.fields.get(b"from", [])
    for name in ("From", "Date", "Message-ID", "Subject"):
        given = len(found.fields.get(name.lower().encode(), []))
        if given > 1 or (given == 0 and name != "Subject"):
            found.note(f"several {name} fields" if given else f"no {name} field")
    sender = senders[0] if senders else b""
    return ContentEvidence(
        header_from=decode_header(sender),
        from_address=find_address(sender),
        subject=decode_header(_get_first(found, b"subject")),
        message_id=decode_header(_get_first(found, b"message-id"), MAX_MESSAGE_ID_CHARACTERS),
        gtube=any(_is_text(part) and GTUBE in part.data for part in found.parts),
        eicar=_find_eicar(raw, found.parts),
        parts=len(found.parts),
        problems=tuple(found.problems),
    )


def _get_first(found: Walk, name: bytes) -> bytes:
    return (found.fields.get(name) or [b""])[0]


def _is_text(part: Part) -> bool:
    return part.content_type.startswith("text/")


def _find_eicar(raw: bytes, parts: list[Part]) -> str:
    """The name of the part with the string: its file name or its type; `body` where it is outside of all parts."""
    for part in parts:
        if EICAR in part.data:
            return part.filename or ("body" if _is_text(part) else part.content_type)
    return "body" if EICAR in raw else ""
