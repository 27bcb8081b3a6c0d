"""Every answer the gateway ever gives. A reply is a value; one whose two classes disagree cannot exist."""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_REPLY_OCTETS = 512  # with CRLF (RFC 5321 4.5.3.1.5)


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply. `enhanced` is empty where RFC 2034 has none: greeting, HELO, 354.

    Raises ValueError when the class of the enhanced code is not that of the code (RFC 2034 section 4), when the
    text is not printable ASCII in one line, and when the line is longer than 512 octets.
    """

    code: int
    enhanced: str
    text: str
    more: tuple[str, ...] = ()  # further lines

    def __post_init__(self) -> None:
        if not 200 <= self.code < 600:
            raise ValueError(f"{self.code} is no SMTP code")
        if self.enhanced and not _agree(self.code, self.enhanced):
            raise ValueError(f"{self.code} and {self.enhanced} are of two classes")
        for line in (str(self), *self.more):
            if not (line.isascii() and line.isprintable()):
                raise ValueError("a line of a reply is printable ASCII")
            if len(line) + len("250-\r\n") > MAX_REPLY_OCTETS:
                raise ValueError("a line of a reply is at most 512 octets long")

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    @property
    def is_error(self) -> bool:
        return self.code >= 400

    @property
    def is_last(self) -> bool:
        """After this one the connection is closed."""
        return self.code in {221, 421}

    def encode(self) -> bytes:
        if not self.more:
            return f"{self}\r\n".encode("ascii")
        lines = [f"{self.code}-{line}\r\n" for line in (self.text, *self.more[:-1])]
        return "".join([*lines, f"{self.code} {self.more[-1]}\r\n"]).encode("ascii")


def _agree(code: int, enhanced: str) -> bool:
    parts = enhanced.split(".")
    return len(parts) == 3 and all(part.isdigit() and len(part) <= 3 for part in parts) and parts[0] == str(code)[0]


# 2xx and 3xx
BYE = Reply(221, "2.0.0", "Bye")
OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
CHUNK_OK = Reply(250, "2.0.0", "Chunk received")
CANNOT_VERIFY = Reply(252, "2.5.0", "Cannot verify, but will take the message and try")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
GO_AHEAD = Reply(354, "", "End data with <CR><LF>.<CR><LF>")

# 421: not now, and the connection ends
NOT_READY = Reply(421, "4.3.0", "Service not ready, try again later")
STOPPING = Reply(421, "4.3.2", "Service is being restarted, try again")
TOO_SLOW = Reply(421, "4.4.2", "Timeout, closing the connection")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing the connection")
TOO_MANY_COMMANDS = Reply(421, "4.7.0", "Too many commands without mail, closing the connection")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections from your address, try again later")
TOO_BUSY = Reply(421, "4.3.2", "Too many connections, try again later")
LAGGING = Reply(421, "4.3.2", "Too much to do at the moment, try again later")
NOT_SMTP = Reply(421, "4.7.0", "This is an SMTP server, closing the connection")
BAD_PROXY = Reply(421, "4.3.5", "The load balancer did not say for whom it speaks")
EARLY_TALKER = Reply(421, "4.7.0", "You spoke before you were greeted, closing the connection")
OUT_OF_STEP = Reply(421, "4.5.4", "Cannot tell content from commands, closing the connection")
TOO_MANY_MESSAGES = Reply(421, "4.7.0", "Many messages in one connection, please connect again")

# 4xx: try again later
UNVERIFIED = Reply(450, "4.1.1", "Mailbox cannot be verified at the moment, please try again later")
TEMPORARY = Reply(451, "4.3.0", "Temporary failure, please try again later")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients in one message, send the others in another")
CANNOT_STORE = Reply(451, "4.3.0", "Mail cannot be stored at the moment, please try again later")
OVERLOADED = Reply(451, "4.3.2", "Too much to do at the moment, please try again later")
NO_SPACE = Reply(452, "4.3.1", "Insufficient system storage, please try again later")
NO_ROOM = Reply(452, "4.3.1", "Too much mail at the moment, try again later")

# 5xx: commands
LINE_TOO_LONG = Reply(500, "5.5.2", "Command line too long")
UNKNOWN_COMMAND = Reply(500, "5.5.2", "Command not recognized")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
NO_ARGUMENT_WANTED = Reply(501, "5.5.4", "Command takes no argument")
HELO_SYNTAX = Reply(501, "5.5.4", "Syntax: HELO or EHLO and the name of your host")
MAIL_SYNTAX = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address> and parameters")
RCPT_SYNTAX = Reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
XCLIENT_SYNTAX = Reply(501, "5.5.4", "Syntax: XCLIENT ADDR=address HELO=name")
BDAT_SYNTAX = Reply(501, "5.5.4", "Syntax: BDAT octets, then LAST for the last chunk")
BAD_BODY = Reply(501, "5.5.4", "BODY is 7BIT or 8BITMIME")
BAD_SIZE = Reply(501, "5.5.4", "SIZE is a number of octets")
BAD_SMTPUTF8 = Reply(501, "5.5.4", "SMTPUTF8 takes no value")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognized or not implemented")
SEND_HELO_FIRST = Reply(503, "5.5.1", "Send HELO or EHLO first")
NESTED_MAIL = Reply(503, "5.5.1", "A sender was given already")
SEND_MAIL_FIRST = Reply(503, "5.5.1", "Send MAIL first")
SEND_RCPT_FIRST = Reply(503, "5.5.1", "Send RCPT first")
BDAT_UNDER_WAY = Reply(503, "5.5.1", "The message is being sent by BDAT, go on with BDAT or RSET")
NO_VALID_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
TLS_ALREADY = Reply(503, "5.5.1", "TLS is active already")
NOT_DURING_MAIL = Reply(503, "5.5.1", "Not during a mail transaction")
XCLIENT_DENIED = Reply(550, "5.7.0", "Not authorized to use this command")

# 5xx: addresses and mail
BAD_SENDER = Reply(553, "5.1.7", "Sender address has wrong syntax")
BAD_RECIPIENT = Reply(553, "5.1.3", "Recipient address has wrong syntax")
SMTPUTF8_NEEDED = Reply(553, "5.6.7", "Must declare SMTPUTF8 to send an internationalized address")
RELAY_DENIED = Reply(550, "5.7.1", "Relaying denied: we take no mail for this domain")
UNKNOWN_MAILBOX = Reply(550, "5.1.1", "No such mailbox here")
TOO_BIG = Reply(552, "5.3.4", "Message is larger than this server accepts")
LOOPING = Reply(554, "5.4.6", "Routing loop: too many Received headers")
RETURNED = Reply(554, "5.4.6", "Routing loop: this message has passed here before")
REFUSED_BY_POLICY = Reply(554, "5.7.1", "Message refused by policy")


def greet(hostname: str) -> Reply:
    return Reply(220, "", f"{hostname} ESMTP")


def answer_helo(hostname: str) -> Reply:
    return Reply(250, "", hostname)


def answer_ehlo(hostname: str, extensions: list[str]) -> Reply:
    return Reply(250, "", hostname, tuple(extensions))


def accept(trace_id: str) -> Reply:
    return Reply(250, "2.0.0", f"Ok: kept as {trace_id}")


def refuse(code: int, enhanced: str, text: str) -> Reply:
    """A refusal in the words of the policy: what no reply may hold is replaced or cut off."""
    room = MAX_REPLY_OCTETS - len("250-\r\n") - len(f"{code} {enhanced} ")
    clean = "".join(character if " " <= character <= "~" else "?" for character in text)
    return Reply(code, enhanced, clean[:room])


def sign(reply: Reply, trace_id: str) -> Reply:
    """The reply of a mail transaction as it is said and put on record: an error that leaves the connection open ends
    with the id, which finds the reasons. For its sake the text may be cut (RFC 5321 4.5.3.1.5).
    """
    if not reply.is_error or reply.is_last:
        return reply
    suffix = f" (trace {trace_id})"
    room = MAX_REPLY_OCTETS - len("250-\r\n") - len(f"{reply.code} {reply.enhanced} ") - len(suffix)
    return replace(reply, text=reply.text[:room] + suffix)
