"""manage.py send_digest: have the last 24 hours reported to a mailbox, now."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from reports.digests import ON_DEMAND_COVERS, send_requested
from reports.models import Digest


class Command(BaseCommand):
    help = "Send a mailbox the report of the last 24 hours. The daily report is not touched."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("mailbox", help="its address, or an alias")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, mailbox: str, json: bool, **options: Any) -> None:
        address = mailbox.strip().lower()
        domain = MailDomain.objects.select_related("provider").filter(name=address.rpartition("@")[2]).first()
        if domain is None:
            raise CommandError(f"No provider has the domain of {address}.")
        with schema_context(domain.provider.schema_name):
            self.report(send_now(find_mailbox(address)), as_json=json)

    def report(self, digest: Digest, *, as_json: bool) -> None:
        trace_id = digest.message.trace_id if digest.message else ""
        made = {"mailbox": digest.mailbox.address, "state": digest.state, "held": digest.held, "trace_id": trace_id}
        if as_json:
            self.stdout.write(json.dumps(made))
        else:
            self.stdout.write(f"Report for {made['mailbox']}: {made['held']} held, trace {trace_id or 'none'}.")


def find_mailbox(address: str) -> Mailbox:
    found = Mailbox.objects.filter(Q(address=address) | Q(aliases__address=address)).first()
    if found is None:
        raise CommandError(f"There is no mailbox {address}.")
    return found


def send_now(mailbox: Mailbox) -> Digest:
    now = timezone.now()
    digest = Digest.objects.create(
        mailbox=mailbox, kind=Digest.Kind.ON_DEMAND, slot_at=now, since=now - ON_DEMAND_COVERS, until=now
    )
    send_requested([digest.pk])
    digest.refresh_from_db()
    if digest.state == Digest.State.DUE:
        raise CommandError(f"The report for {mailbox.address} could not be made; the log says why.")
    return digest
