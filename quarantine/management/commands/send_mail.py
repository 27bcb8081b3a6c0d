"""manage.py send_mail: send files of mail by SMTP and report every reply."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.settings.environment import Address, parse_address
from quarantine.management.mailfiles import find_sender, list_files, make_wire_octets
from quarantine.management.sender import MAX_CONCURRENCY, Answer, Letter, send_all


class Command(BaseCommand):
    help = "Send every file of a folder by SMTP, to our own gateway unless told otherwise; print every reply."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", metavar="DIR", type=Path, help="a folder (read with those below it) or one file")
        parser.add_argument("--to", action="append", required=True, metavar="ADDRESS", help="may be repeated")
        parser.add_argument(
            "--server", default="", metavar="HOST:PORT", help="default: our own gateway on this machine"
        )
        parser.add_argument("--from", dest="sender", help="envelope sender, '' for none; default: each file's own")
        parser.add_argument(
            "--client-ip", default="", metavar="IP", help="say by XCLIENT that the mail comes from there"
        )
        parser.add_argument("--helo", default="localhost", metavar="NAME")
        parser.add_argument("--concurrency", type=int, default=10, metavar="N", help=f"1 to {MAX_CONCURRENCY}")
        parser.add_argument("--limit", type=int, default=0, metavar="N", help="send the first N files only")
        parser.add_argument("--as-is", action="store_true", help="leave line ends and mbox lines as they are")
        parser.add_argument("--expect", default="250", help="code or its first digits that every message must get")
        parser.add_argument("--json", action="store_true", help="print one JSON document at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        server = choose_server(options["server"])
        files = check_options(options)
        answers: list[Answer] = []

        def report(answer: Answer) -> None:
            answers.append(answer)
            if not options["json"]:
                self.stdout.write(describe(answer))

        started = time.monotonic()
        letters = read_letters(files, options)
        asyncio.run(send_all(letters, server=server, concurrency=options["concurrency"], report=report))
        self.print_totals(answers, time.monotonic() - started, as_json=options["json"])
        failed = [answer for answer in answers if not str(answer.reply.code).startswith(options["expect"])]
        if failed:
            raise CommandError(f"{len(failed)} of {len(answers)} messages did not get {options['expect']}.")

    def print_totals(self, answers: list[Answer], seconds: float, *, as_json: bool) -> None:
        totals = Counter(name_class(answer.reply.code) for answer in answers)
        if as_json:
            self.stdout.write(json.dumps({"messages": [as_row(answer) for answer in answers], "totals": totals}))
            return
        counts = ", ".join(f"{name} {number}" for name, number in sorted(totals.items()))
        self.stdout.write(f"{len(answers)} messages in {seconds:.1f} s: {counts or 'none'}")


def choose_server(given: str) -> Address:
    """The server given, or our own gateway where it listens on this machine's loopback."""
    if given:
        try:
            return parse_address("--server", given)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
    host, port = settings.SMTP_ADDRESS.host, settings.SMTP_ADDRESS.port
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - it listens everywhere, so on loopback too
        return Address("127.0.0.1" if host == "0.0.0.0" else "::1", port)  # noqa: S104
    if not is_loopback(host):
        raise CommandError(f"The gateway listens on {settings.SMTP_ADDRESS}; name it with --server to send there.")
    return Address(host, port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_options(options: dict[str, Any]) -> list[Path]:
    """The files to send; CommandError where an option makes no sense."""
    if not 1 <= options["concurrency"] <= MAX_CONCURRENCY:
        raise CommandError(f"--concurrency must be from 1 to {MAX_CONCURRENCY}.")
    try:
        options["client_ip"] = options["client_ip"] and str(ipaddress.ip_address(options["client_ip"]))
    except ValueError:
        raise CommandError(f"--client-ip {options['client_ip']!r} is no IP address.") from None
    files = list_files(options["folder"])
    if not files:
        raise CommandError(f"There is no file in {options['folder']}.")
    return files[: options["limit"] or None]


def read_letters(files: list[Path], options: dict[str, Any]) -> Iterator[Letter]:
    base = options["folder"] if options["folder"].is_dir() else options["folder"].parent
    for path in files:
        raw = path.read_bytes()
        yield Letter(
            name=str(path.relative_to(base)),
            raw=raw if options["as_is"] else make_wire_octets(raw),
            sender=find_sender(raw) if options["sender"] is None else options["sender"].strip("<> "),
            recipients=tuple(options["to"]),
            client_ip=options["client_ip"],
            helo=options["helo"],
        )


def describe(answer: Answer) -> str:
    lines = [f"{answer.reply.code or '---'} {answer.trace_id or '-':<20} {answer.name}"]
    lines += [f"    {address}: {reply}" for address, reply in answer.refused]
    if answer.reply.code != 250 and answer.reply not in {reply for _, reply in answer.refused}:
        lines.append(f"    {answer.reply}")
    return "\n".join(lines)


def as_row(answer: Answer) -> dict[str, Any]:
    return {
        "file": answer.name,
        "code": answer.reply.code,
        "reply": answer.reply.text,
        "trace_id": answer.trace_id,
        "refused": [{"recipient": address, "reply": str(reply)} for address, reply in answer.refused],
    }


def name_class(code: int) -> str:
    return f"{code // 100}xx" if code else "no answer"
