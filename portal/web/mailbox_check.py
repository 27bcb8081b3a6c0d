"""Whether a mail server has a mailbox, asked now for the domain's admin, past all that the gateways remember."""

from __future__ import annotations

import asyncio
import logging
import threading

from django.conf import settings

from portal.tenants.models import MailDomain
from portal.web.limits import take_turn
from quarantine.delivery.callout import Answer, Callout, Word

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
MAX_OF_DOMAIN = 10  # in a minute
MAX_AT_ONCE = 2  # of a process: each holds a thread of the web server
NO_ANSWER = "It did not answer as a mail server does."
_slots = threading.BoundedSemaphore(MAX_AT_ONCE)


def check_mailbox(domain: MailDomain, address: str) -> Answer | None:
    """What the domain's mail server says now. None: not asked, because it was asked too often. Takes ten seconds at
    most.
    """
    with take_turn(_slots, "mailbox-check", domain.pk, times=MAX_OF_DOMAIN) as refusal:
        if refusal:
            return None
        answer = asyncio.run(_ask(domain.server_host, domain.server_port, address))
    if not answer.by_server:
        log.warning("mailbox_check_no_answer domain=%s reason=%r", domain.name, answer.text)
    return answer


async def _ask(host: str, port: int, address: str) -> Answer:
    callout = Callout(hostname=settings.SMTP_HOSTNAME, seconds=ANSWER_SECONDS)
    try:
        return await callout.ask(host, port, address, try_all=True)
    finally:
        await callout.close()


def tell(address: str, answer: Answer) -> str:
    """The answer in a sentence or two. Nothing of what is no mail server's: people name any host and port."""
    if answer.word is Word.NO:
        return f"The mail server has no mailbox {address}. It said: {answer.text}"
    if not answer.by_server:
        return f"The mail server did not say whether it has the mailbox {address}. {NO_ANSWER}"
    if answer.word is Word.UNCLEAR:
        return f"The mail server did not say whether it has the mailbox {address}: {answer.text}"
    if answer.takes_all:
        return (
            f"The mail server takes mail for {address}, and for addresses that nobody can have: asking it tells"
            " nothing, so every address of the domain is taken."
        )
    return f"The mail server takes mail for {address}. It said: {answer.text}"
