"""manage.py trace: what became of a mail or a connection, at whichever provider, from whatever is known of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from quarantine.look_ups import SEARCHED
from quarantine.management.finding import BAD_CALL, NOT_FOUND, read_time
from quarantine.management.locked import list_locked, short_wait
from quarantine.management.searching import Lines, find_lines, tell_trace
from quarantine.management.telling import describe_line, list_message_lines, list_unrouted_lines, show, show_time
from quarantine.outcomes import Outcome
from quarantine.wanted import CAUSES, NotUnderstoodError, Wanted, read_client, read_party, recognise

MAX_ROWS = 1000
MICROSECOND = timedelta(microseconds=1)
NEVER_SEEN = "Either we never saw such a mail, or it is longer ago than traces are kept."
BY_MESSAGE_ID = (
    "A Message-ID finds only mail whose content we took or refused: what was too big, put off or broken off has a "
    "sender and a recipient."
)
ASK = "Ask the sender for the error message that came back: it names the server that refused."
MISSED_ID = (
    "Either we never gave that trace id (is it typed right?), or it is longer ago than traces are kept, or its record "
    "is that of another: what reached no provider (such as mail announced as too big, or connections without mail) "
    "shares one when it is alike and comes together, under the trace id of the first. Look for the sender, the "
    "recipient or the address of the sending server instead."
)
NOT_YET = "A connection that brought no mail is on record after a minute or so: if it has just been, look again then."
ONLY_THERE = "Only one provider was searched: leave --provider out to search the others, and what reached none."
ENVELOPE = "A newsletter's envelope may have another sender than its line From: look for the recipient alone."


class Command(BaseCommand):
    help = "Find what became of mail: the whole history when there is one, else a line for each, newest first."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "text",
            nargs="?",
            default="",
            help="a trace id, <Message-ID>, address, two addresses in quotes (from whom and to whom, either way),"
            " @domain, IP address or network",
        )
        for name, metavar, text in (
            ("sender", "ADDRESS", "of the envelope; or @domain"),
            ("recipient", "ADDRESS", "or @domain"),
            ("message-id", "ID", "with or without < and >"),
            ("client", "IP", "of the sending server, or a network"),
            ("since", "TIME", "2026-11-24, 2026-11-24T09:30 (UTC), or 90m, 24h, 7d ago"),
            ("until", "TIME", "and before this"),
            ("provider", "SLUG", "only at this one"),
        ):
            parser.add_argument(f"--{name}", default="", metavar=metavar, help=text)
        for name, values in (
            ("outcome", Outcome.values),
            ("cause", [cause.value for cause in CAUSES]),
            ("reverse-dns", list(SEARCHED)),
        ):
            parser.add_argument(f"--{name}", default="", choices=values, metavar=name.upper(), help=", ".join(values))
        parser.add_argument("--unrouted", action="store_true", help="only what reached no provider")
        parser.add_argument("--limit", type=int, default=50, metavar="N", help=f"1 to {MAX_ROWS}, default 50")
        parser.add_argument(
            "--json", action="store_true", help="a line of JSON for each recipient, with all of its story"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["limit"] <= MAX_ROWS:
            raise CommandError(f"--limit must be from 1 to {MAX_ROWS}.", returncode=BAD_CALL)
        wanted = read_wanted(options)
        if wanted.is_anything and not options["unrouted"]:
            raise CommandError(say_what_to_add(options["provider"]), returncode=BAD_CALL)
        with short_wait():
            self.tell(wanted, options)

    def tell(self, wanted: Wanted, options: dict[str, Any]) -> None:
        locked = [] if options["provider"] or options["unrouted"] else list_locked()
        if locked:
            names = ", ".join(provider.slug for provider in locked)
            self.stderr.write(f"Not searched, as somebody holds tables of theirs locked: {names}.", str)
        left_out = [provider.schema_name for provider in locked]
        which = {"slug": options["provider"], "only_unrouted": options["unrouted"], "left_out": left_out}
        lines = find_lines(wanted, limit=options["limit"], whole=options["json"], **which)
        if not lines.items:
            raise CommandError(
                f"There is no trace: {lines.searched}. {say_reached(lines) or advise(wanted, options['provider'])}",
                returncode=NOT_FOUND,
            )
        if options["json"]:
            self.stdout.writelines(json.dumps(line) + "\n" for line in lines.items)
            self.stderr.write(summarise(lines), str)
            return
        traces = {line["trace_id"] for line in lines.items}
        is_one = len(traces) == 1 and not lines.more and not lines.reached
        for text in list_history(tell_trace(traces.pop(), **which)) if is_one else list_overview(lines):
            self.stdout.write(show(text))


def read_wanted(options: dict[str, Any]) -> Wanted:
    """What the arguments ask for. Raises CommandError."""
    try:
        wanted = recognise(options["text"]) if options["text"] else Wanted()
        given: dict[str, Any] = {
            "sender": options["sender"] and read_party(options["sender"]),
            "recipient": options["recipient"] and read_party(options["recipient"]),
            "message_id": options["message_id"] and f"<{options['message_id'].strip().strip('<>')}>",
            "client": options["client"] and read_client(options["client"]),
            "since": read_time(options["since"]),
            "until": read_time(options["until"]),
            "outcome": options["outcome"],
            "cause": options["cause"],
            "reverse_dns": options["reverse_dns"],
        }
    except NotUnderstoodError as error:
        raise CommandError(str(error), returncode=BAD_CALL) from error
    return wanted.also(**{name: value for name, value in given.items() if value})


def say_what_to_add(slug: str) -> str:
    """What to type where nothing says which mail is meant."""
    where = f" besides --provider {slug}" if slug else ""
    return f"Say what to look for{where}, such as an address, or --since 24h: see manage.py trace --help."


def advise(wanted: Wanted, slug: str) -> str:
    """What it can mean that nothing was found, and where else to look."""
    told = [MISSED_ID] if wanted.trace_id else [NEVER_SEEN, BY_MESSAGE_ID if wanted.message_id else "", ASK]
    told += [f"If it is an address, look for {wanted.maybe_address} without brackets." if wanted.maybe_address else ""]
    told += [ENVELOPE if wanted.pair else "", NOT_YET if wanted.client else "", ONLY_THERE if slug else ""]
    return " ".join(filter(None, told))


def list_history(told: dict[str, Any]) -> Iterator[str]:
    """All about one trace id."""
    yield f"trace {told['trace_id']}"
    for message in told["messages"]:
        yield from list_message_lines(message)
    for refusal in told["unrouted"]:
        yield from list_unrouted_lines(refusal)


def list_overview(lines: Lines) -> Iterator[str]:
    """A line for each of many, newest first."""
    yield from map(describe_line, lines.items)
    yield summarise(lines)


def summarise(lines: Lines) -> str:
    found, hint = ("found, and more", " Narrow the search, or raise --limit.") if lines.more else ("found", "")
    return " ".join(
        filter(None, [f"{len(lines.items)} {found}: {lines.searched}.{hint}", say_reached(lines), "Times are UTC."])
    )


def say_reached(lines: Lines) -> str:
    """How far back was looked, where not to the beginning, and how to go on from there."""
    if lines.reached is None:
        return ""
    until = (lines.reached + MICROSECOND).isoformat()  # recipients of one message share their time: none is left out
    return f"Looked through back to {show_time(lines.reached)}; look further back with --until {until}."
