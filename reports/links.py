"""The links and codes printed in a report, and the browsers that showed a code once.

A link opens a page and changes nothing. Whoever holds the link and the code (that is, the report itself) may release
the one item; a browser that did so once may release that mailbox's items by one click. Only hashes are stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.crypto import salted_hmac

from portal.tenants.database import get_schema
from portal.tenants.people.models import Mailbox
from quarantine.models import Category, Recipient
from quarantine.release import release
from reports.models import Digest, DigestLink, RememberedBrowser

TOKEN_BYTES = 20  # 160 bits; base32 survives clients that change the case of an address
CODE_DIGITS = 6
MAX_WRONG_CODES = 5  # then only signing in helps: a guesser's chance is 5 in a million
REMEMBERED_FOR = timedelta(days=180)
# A link that ended stays known: what reopens old reports (people, scanners of a whole office) is no guesser.
KNOWN_AFTERWARDS = timedelta(weeks=8)


@dataclass(frozen=True)
class Secret:
    """What is printed in the report and stored nowhere."""

    token: str
    code: str


class CodeAnswer(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    SPENT = "spent"  # too many wrong ones


def make_secret() -> Secret:
    token = base64.b32encode(secrets.token_bytes(TOKEN_BYTES)).decode().lower()
    return Secret(token, f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}")


def make_link(secret: Secret, digest: Digest, recipient: Recipient, *, days: int) -> DigestLink:
    """An unsaved link for one item of one digest, to be saved with the digest; it ends with the item, after `days`."""
    token_hash = _hash_token(secret.token)
    return DigestLink(
        digest=digest,
        recipient=recipient,
        token_hash=token_hash,
        code_hash=_hash_code(token_hash, secret.code),
        expires_at=recipient.received_at + timedelta(days=days),
    )


def find_link(token: str) -> DigestLink | None:
    """The link of this provider with that token, expired or not, with its item and mailbox."""
    found = DigestLink.objects.select_related("digest__mailbox", "recipient__message")
    return found.filter(token_hash=_hash_token(token.lower())).first()


def is_releasable(recipient: Recipient) -> bool:
    """A virus is released by nobody's link; people who may are found in the portal."""
    return recipient.category != Category.VIRUS


def check_code(link: DigestLink, code: str) -> CodeAnswer:
    """Compare the code, counting first, so that tries at the same moment are each counted."""
    tries = DigestLink.objects.filter(pk=link.pk)
    if not tries.filter(failed_codes__lt=MAX_WRONG_CODES).update(failed_codes=F("failed_codes") + 1):
        return CodeAnswer.SPENT
    digits = "".join(character for character in code if character.isdecimal())
    if not hmac.compare_digest(_hash_code(bytes(link.token_hash), digits), link.code_hash):
        link.refresh_from_db(fields=["failed_codes"])
        return CodeAnswer.SPENT if link.failed_codes >= MAX_WRONG_CODES else CodeAnswer.WRONG
    tries.update(failed_codes=F("failed_codes") - 1)
    return CodeAnswer.RIGHT


@transaction.atomic
def release_linked(link: DigestLink, *, by: str) -> bool:
    """Release the link's item; False where it was not in quarantine any more. Twice does no harm."""
    DigestLink.objects.filter(pk=link.pk, used_at=None).update(used_at=timezone.now())
    return release(Recipient.objects.filter(pk=link.recipient_id), by=by) == 1


def remember_browser(mailbox: Mailbox) -> str:
    """Remember a browser for the mailbox; the answer is what the browser is to keep."""
    secret = secrets.token_urlsafe(32)
    RememberedBrowser.objects.create(
        mailbox=mailbox, secret_hash=_hash_token(secret), expires_at=timezone.now() + REMEMBERED_FOR
    )
    return secret


def find_browser(secret: str, *, mailbox: Mailbox | None = None) -> RememberedBrowser | None:
    """The browser that was given that secret, for that mailbox (None: for any), while it holds."""
    found = RememberedBrowser.objects.filter(secret_hash=_hash_token(secret), expires_at__gt=timezone.now())
    return (found.filter(mailbox=mailbox) if mailbox else found).first()


def list_browsers(mailboxes: QuerySet[Mailbox]) -> QuerySet[RememberedBrowser]:
    """The browsers that are remembered for any of the mailboxes. They go by themselves when a mailbox gets another
    owner, or its owner another password or no access any more (a trigger of the database).
    """
    return RememberedBrowser.objects.filter(mailbox__in=mailboxes, expires_at__gt=timezone.now())


def expire_links() -> int:
    """Remove remembered browsers whose time is over, and links some weeks later; how many links there were."""
    now = timezone.now()
    RememberedBrowser.objects.filter(expires_at__lte=now).delete()
    return DigestLink.objects.filter(expires_at__lte=now - KNOWN_AFTERWARDS).delete()[0]


def _hash_token(token: str) -> bytes:
    """SHA-256 of the token, bound to the provider whose schema this is."""
    return hashlib.sha256(f"{get_schema()}:{token}".encode()).digest()


def _hash_code(token_hash: bytes, code: str) -> str:
    """Keyed with the installation's secret, so that a stolen table does not give its codes away."""
    return salted_hmac("reports.links.code", token_hash + code.encode(), algorithm="sha256").hexdigest()
