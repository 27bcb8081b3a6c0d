"""What somebody knows of a mail: read from what was typed, and said in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parseaddr
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from quarantine.causes import Cause, name_cause
from quarantine.look_ups import SEARCHED
from quarantine.outcomes import Outcome
from quarantine.trace_id import ALPHABET, LENGTH, read_trace_id

CAUSES = tuple(cause for cause in Cause if cause is not Cause.SENT_AGAIN)  # what a row may have: that is an event
MAX_TEXT = 998  # of a line (RFC 5322 2.1.1): no Message-ID is longer
MAX_QUOTED = 60  # characters of what was typed that a sentence repeats
WORDS = re.compile(r"[\s,;]+|(?<=>)(?=<)")
BETWEEN = {"", "from", "to", "from:", "to:", "and", "->", "→"}
ADDRESS = re.compile(r"[^\s@<>]+@[^\s@<>]*[^\s@<>.]")
DOMAIN = re.compile(r"(?:[\w-]+\.)+[a-z][\w-]*", re.IGNORECASE)
FIELD = re.compile(r"^(message-id|from|to|sender|return-path)\s*:\s*", re.IGNORECASE)
IN_BRACKETS = re.compile(r"<[^\s<>]+>")
Network = IPv4Network | IPv6Network


class NotUnderstoodError(ValueError):
    """What was typed is nothing that can be looked for; the text says so in a sentence."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of a mail; empty: anything. Addresses are in lower case, one with @ first is a whole domain."""

    trace_id: str = ""
    message_id: str = ""
    party: str = ""  # the sender or the recipient
    sender: str = ""
    recipient: str = ""
    pair: tuple[str, ...] = ()  # two addresses: from one to the other, either way
    header_from: str = ""
    client: Network | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcome: str = ""
    cause: str = ""
    reverse_dns: str = ""  # a word of look_ups.SEARCHED

    @property
    def is_anything(self) -> bool:
        return self == Wanted()

    def also(self, **given: Any) -> Wanted:
        """What was recognised in the box, and what was said besides."""
        return replace(self, **given)

    @property
    def maybe_address(self) -> str:
        """The Message-ID, where somebody may have meant an address in brackets."""
        bare = self.message_id.strip("<>").lower()
        return bare if not self.party and ADDRESS.fullmatch(bare) else ""

    def in_header(self) -> Wanted:
        """The same, with the address looked for in the line From: not every sender puts it in the envelope."""
        return replace(self, party="", message_id="", header_from=self.party)


def recognise(text: str) -> Wanted:
    """What somebody typed or pasted into one box. Raises NotUnderstoodError."""
    text = text.replace("\0", "").strip()[:MAX_TEXT]
    name = found[1].lower() if (found := FIELD.match(text)) else ""
    text = FIELD.sub("", text)
    if trace_id := _find_trace_id(text):
        return Wanted(trace_id=trace_id)
    if client := _find_network(text):
        return Wanted(client=client)
    if text.startswith("<") and text.endswith(">") and "@" not in text[1:-1]:
        return Wanted(message_id=text)
    if "@" not in text:
        raise NotUnderstoodError(_say_what_can_be_typed(text))
    if len(pair := list(dict.fromkeys(_list_addresses(text)))) == 2:
        return Wanted(pair=tuple(pair))
    if text.startswith("@"):
        return Wanted(party=read_party(text))
    return _read_either(text, name)


def _read_either(text: str, name: str) -> Wanted:
    """An address or a Message-ID, which look alike: in brackets, or where it is called so, it is a Message-ID."""
    message_id = "" if " " in text else f"<{text.strip('<>')}>"
    if name == "message-id" and message_id or not name and IN_BRACKETS.fullmatch(text):
        return Wanted(message_id=message_id)
    return Wanted(message_id="" if name else message_id, party=read_party(text))


def _say_what_can_be_typed(text: str) -> str:
    typed = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
    if DOMAIN.fullmatch(text):
        return f"“{typed}” is no address. For everybody at a domain, type an @ before it: @{typed}."
    return (
        f"“{typed}” is no trace id, Message-ID, address, @domain, IP address or network. Type one of these, or two"
        " addresses: from whom and to whom."
    )


def _list_addresses(text: str) -> list[str]:
    """All addresses in what was typed, if there is hardly anything else: "ann@x.test theo@y.test", "<..> to <..>"."""
    words = [word.strip("<>,;.") for word in WORDS.split(text.lower())]
    words = [word for word in words if word not in BETWEEN]
    return words if all(ADDRESS.fullmatch(word) for word in words) else []


def _find_trace_id(text: str) -> str:
    """One of its own, or in a whole line of an error message: of this century, lest a long word be taken for one."""
    if is_trace_id(text):
        return read_trace_id(text)
    words = (word.strip(".,;:()[]<>\"'") for word in text.split() if "@" not in word)
    return next((read_trace_id(word) for word in words if is_trace_id(word) and read_trace_id(word)[0] == "0"), "")


def is_trace_id(text: str) -> bool:
    found = read_trace_id(text)
    return len(found) == LENGTH and set(found) <= set(ALPHABET)


def _find_network(text: str) -> Network | None:
    try:
        return read_client(text)
    except NotUnderstoodError:
        return None


def read_client(text: str) -> Network:
    """An address or a network. Raises NotUnderstoodError."""
    bare = text.strip().strip("[]").lower().removeprefix("ipv6:")
    try:
        network = ip_network(bare, strict=False)
    except ValueError:
        raise NotUnderstoodError(f"“{text.strip()}” is no IP address and no network such as 192.0.2.0/24.") from None
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped) and network.prefixlen > 95:
        return ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    return network


def read_party(text: str) -> str:
    """An address in lower case, as it may be written in mail, or @domain. Raises NotUnderstoodError."""
    typed = text.replace("\0", "").strip()
    address = parseaddr(typed)[1] if "<" in typed or " " in typed else typed
    local, at, domain = address.strip("<>").rpartition("@")
    if not at or not domain or any(letter.isspace() for letter in domain):
        raise NotUnderstoodError(
            f"“{typed}” is no address such as name@example.com, and no domain such as @example.com."
        )
    return f"{local}@{domain.rstrip('.')}".lower()


def describe(wanted: Wanted, show_time: Callable[[datetime], str]) -> str:
    """What was looked for, for people: "to bob@alpha.test, since ..."."""
    told = [
        (wanted.trace_id, f"trace id {wanted.trace_id}"),
        (wanted.message_id and not wanted.party, f"Message-ID {wanted.message_id}"),
        (wanted.party, f"from or to {wanted.party}"),
        (wanted.party and wanted.message_id, "or with that as Message-ID"),
        (wanted.pair, f"from {' to '.join(wanted.pair)}, or back"),
        (wanted.sender, f"from {wanted.sender}"),
        (wanted.header_from, f"{wanted.header_from} in the line From"),
        (wanted.recipient, f"to {wanted.recipient}"),
        (wanted.client, f"by the server {_show_network(wanted.client)}" if wanted.client else ""),
        (wanted.outcome, f"outcome “{Outcome(wanted.outcome).label}”" if wanted.outcome else ""),
        (wanted.cause, f"because {name_cause(wanted.cause)}"),
        (wanted.reverse_dns, f"reverse DNS “{SEARCHED.get(wanted.reverse_dns)}”"),
        (wanted.since, f"since {show_time(wanted.since)}" if wanted.since else ""),
        (wanted.until, f"before {show_time(wanted.until)}" if wanted.until else ""),
    ]
    return ", ".join(text for value, text in told if value)


def _show_network(network: Network) -> str:
    return str(network[0]) if network.num_addresses == 1 else str(network)
