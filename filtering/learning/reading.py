"""What of a message the classifier reads: the same few kilobytes when it learns and when it judges.

Headers that tell what somebody else thought of the message, how it travelled, or which mailing list carried it
are left out: they give a label away in training and are worth nothing, or are forged, where mail is judged.
"""

from __future__ import annotations

import re
from functools import lru_cache

WINDOW_BYTES = 3500  # Goodman & Yih 2006, Sculley & Wachman 2007: more adds cost, not accuracy
MAX_KEPT_HEADER_BYTES = 1500  # of the window, so that no heap of header lines pushes the text out of it
MAX_NAME_BYTES = 80
MAX_HEADER_BYTES = 65_536  # beyond this a header block is not looked at

# Verdicts and stamps of other filters.
_FILTERS = rb"""
    x-(?:[a-z0-9]+-)*(?:scanned|scanner|quarantine|filter|filtered
    |greylist|abuse|dcc|razor2?|pyzor|bogosity|crm114)[-a-z0-9]*
    |x-[-a-z0-9]*(?:spam|virus|score|mailscanner)[-a-z0-9]*
    |x-(?:rspamd|spamd|dspam|barracuda|asg|bitdefender|brightmail|ironport|proofpoint|mimecast|forefront|amavis
    |policyd|microsoft-antispam|ms-exchange|ms-office365|cloudmark|cm-|vr-|rc-|perlmx|nai|kaspersky|imss|gmx|unb|uva|uwash
    |dumb|postfilter|content-filter|whitelist|auditid|cmae|ovh|me-|sg-|eopattributed|exchange)[-a-z0-9]*
    |x-miltered|x-uuid|x-uid|x-uidl|x-status|x-keywords|x-rav[-a-z0-9]*|xstatus|xlevel|xchecker-version
    |authentication-results[-a-z]*|arc-[-a-z0-9]+|received-spf|dkim-[a-z]+|domainkey-[a-z]+|dkim-filter|spamdiagnostic[a-z]*
    |lazaret-[-a-z]+|x-lazaret[-a-z]*|x-sid-[-a-z]+|x-message-(?:delivery|info|flag|status)|x-incoming[a-z]+|x-eop[a-z]+
    |x-ms-(?:traffic|public|user|oob|delayed)[-a-z]*|x-tm-[-a-z]+|x-amp-[-a-z]+|x-authority-analysis|x-ymail-osg|x-extloop[0-9]*
    |x-mc-[-a-z]+|x-tmn|x-entity-id|x-provags-id|x-eric-[-a-z]+
"""
# How it travelled, and what a mail server or a mail program noted at delivery.
_TRANSPORT = rb"""
    received|x-received|return-path|delivered-to|x-original-to|x-envelope-[a-z]+|envelope-to|delivery-date|x-delivered-to
    |status|lines|content-length|x-originating-[-a-z]+|x-mozilla-[-a-z0-9]+|x-evolution[-a-z]*|x-gmail-[-a-z]+|x-gm-[-a-z]+
    |x-google-[-a-z]+|x-authentication-warning|x-original-date|x-forwarded-[-a-z]+|x-auto-response-suppress
    |x-originalarrivaltime|x-originatororg|x-sender-ip|x-source[-a-z]*|x-antiabuse|x-get-message-sender-via|x-authenticated-sender
    |x-clientproxiedby|x-mime-autoconverted|x-microsoft-original-[-a-z]+|x-ses-[-a-z]+|feedback-id|x-email-type-id
    |x-folder|x-origin|x-filename|x-from|x-to|x-cc|x-bcc
"""
# Mailing lists.
_LISTS = rb"""
    list-[-a-z]+|precedence|errors-to|x-beenthere|x-mailman-[-a-z]+|mailing-list|x-mailing-list[-a-z]*|x-list[-a-z]*|sender
    |x-loop|x-sequence|x-no-archive|x-ml-[a-z]+|x-yahoo-[-a-z]+|x-egroups-[-a-z]+|x-listserver|x-list-[-a-z]+|list-id|x-archived-at
    |archived-at|old-return-path|resent-[-a-z]+|x-resent-[-a-z]+|x-rcpt-to|x-apparently-to|x-content-filtered-by|x-topics|x-original-[-a-z]+
    |approved|x-subscribed-[-a-z]+|x-message-id-hash|message-id-hash|x-mailfrom|x-reply-to|x-precedence-ref
    |x-gmane-[-a-z]+|x-injected-via-gmane|x-complaints-to|x-cnfs-analysis|cancel-lock|old-subject|broadcast[a-z]+
"""
_LEFT_OUT = re.compile(rb"(?ix)^(?:" + _FILTERS + b"|" + _TRANSPORT + b"|" + _LISTS + rb")$")
_MBOX_LINE = re.compile(rb"\A>?From [^\n]*\n")


@lru_cache(maxsize=2048)
def is_left_out(name: bytes) -> bool:
    """Whether a header of this name is never learned from nor judged by."""
    return _LEFT_OUT.match(name.strip().replace(b"_", b"-")) is not None


def read_window(raw: bytes) -> bytes:
    """The first 3,500 octets of the message without the headers above, at most 1,500 of them header.

    Line ends are LF, so that a stored message and one off the wire read alike. Never raises.
    """
    head, body = _split(raw)
    kept: list[bytes] = []
    size, keep = 0, False
    for line in head.split(b"\n"):
        if not line.startswith((b" ", b"\t")):
            keep = not is_left_out(line.partition(b":")[0][:MAX_NAME_BYTES])
        if keep:
            kept.append(line)
            size += len(line) + 1
            if size >= MAX_KEPT_HEADER_BYTES:
                break
    window = b"\n".join(kept)[:MAX_KEPT_HEADER_BYTES] + b"\n\n" + body
    return window[:WINDOW_BYTES]


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Header block (bounded, LF) and as much of the body as a window can need."""
    start = raw[:MAX_HEADER_BYTES].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if start.startswith((b"From ", b">From ")):
        start = _MBOX_LINE.sub(b"", start, count=1)
    if start.startswith(b"\n"):
        return b"", start[1 : 2 * WINDOW_BYTES]
    head, _, body = start.partition(b"\n\n")
    return head, body[: 2 * WINDOW_BYTES]
