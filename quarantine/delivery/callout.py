"""Asks customers' servers whether they have a mailbox: everything up to RCPT, from the null path, and never DATA.

The server's own no is the sender's to hear. Whatever else goes wrong decides nothing: a server that is away, slow,
or will not talk to *us* has not said that there is no such mailbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from quarantine.delivery.dial import dial
from quarantine.delivery.names import Names
from quarantine.delivery.server import Server
from quarantine.delivery.smtp import ConnectError, Connection, LostError, Patience, Reply
from quarantine.faults import name_fault

log = logging.getLogger(__name__)

SECONDS = 10.0  # for an answer, waiting for one's turn included; so long may calling, and asking, take as well
PATIENCE = Patience(connect=6, handshake=6, command=SECONDS)
LOST_IN_A_ROW = 3  # questions that got no answer, after which the server counts as down
FIRST_PAUSE_SECONDS = 5.0  # after a server could not be asked; then 10, 20, ...
LONGEST_PAUSE_SECONDS = 60.0
CONNECTIONS = 4  # to one server, once it has answered; until then one
CONVERSATIONS = 100  # at a time, with all servers together
WAITING = 200  # questions for one server; those over it are not asked
RESET_SECONDS = 2.0  # for the reply after which the connection can be used again
IDLE_SECONDS = 2.0  # that a connection is kept for the next question; as many as there may be conversations
QUESTIONS_A_CONNECTION = 100
STOPPING = "the gateway is being restarted"

ENHANCED = re.compile(r"5\.(\d{1,3}\.\d{1,3})\b")
NO_SUCH_MAILBOX = {"2.1", "4.1"}  # disabled; not in the directory (Exchange Online). And 1.x: addressing (RFC 3463 3.2)
FULL = {"2.2", "2.3"}  # the mailbox, or for this message; 552 says so too
PLAIN_NO = {550, 551, 553}  # without an enhanced code


class Word(StrEnum):
    YES = "yes"
    NO = "no"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question. `takes_all`: whether the server takes addresses that cannot exist, if that was seen."""

    word: Word
    text: str  # the server's reply, or why there is none
    takes_all: bool | None = None
    by_server: bool = field(default=False, compare=False)  # whether the text is the server's reply


@dataclass(eq=False, slots=True)
class Question:
    address: str
    try_all: bool  # also whether the server takes every address
    obstacle: str = "too many questions for this mail server are waiting"  # why there is no answer yet
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def give_up(self, obstacle: str) -> None:
        self.settle(Answer(Word.UNCLEAR, obstacle))


class LateError(Exception):
    """A server that had greeted us gave no answer to a question."""


class Callout:
    """Asks servers. One for an event loop."""

    def __init__(self, *, hostname: str, seconds: float = SECONDS, conversations: int = CONVERSATIONS) -> None:
        self.hostname = hostname
        self.seconds = seconds
        self.names = Names()
        self.room = asyncio.Semaphore(conversations)
        self.kept: set[Connection] = set()
        self.most_kept = conversations
        self._lines: dict[tuple[str, int], Line] = {}

    async def ask(self, host: str, port: int, address: str, *, try_all: bool) -> Answer:
        """Whether the server has the mailbox; unclear where that is not known in time. Never raises for its faults."""
        if (host, port) not in self._lines:
            self._lines[host, port] = Line(self, AskedServer(host, port))
        question = Question(address, try_all)
        self._lines[host, port].put(question)
        try:
            async with asyncio.timeout(self.seconds):
                return await question.answer
        except TimeoutError:
            return Answer(Word.UNCLEAR, question.obstacle)

    async def close(self) -> None:
        workers = [worker for line in self._lines.values() for worker in line.workers]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        self.names.close()


class AskedServer(Server):
    """A server that people wait for: asked again sooner than mail is sent again."""

    def get_pause(self) -> float:
        return min(FIRST_PAUSE_SECONDS * 2.0 ** min(self.failures, 10), LONGEST_PAUSE_SECONDS)


class Line:
    """The questions for one server, and who asks them: several at a time once it has answered, on kept connections."""

    def __init__(self, callout: Callout, server: Server) -> None:
        self.callout = callout
        self.server = server
        self.questions: deque[Question] = deque()
        self.workers: set[asyncio.Task[None]] = set()
        self.idle = 0
        self._new = asyncio.Event()

    def put(self, question: Question) -> None:
        """Have it asked; or settle it at once where the server is down or has enough of them."""
        while self.questions and self.questions[0].answer.done():
            self.questions.popleft()  # nobody waits for it any more
        if self.server.is_blocked():
            question.give_up(self.server.down)
        elif len(self.questions) >= WAITING:
            question.give_up(question.obstacle)
        else:
            self.questions.append(question)
            self._new.set()
            self._staff()

    def _staff(self) -> None:
        if len(self.questions) > self.idle and len(self.workers) < (CONNECTIONS if self.server.is_steady else 1):
            worker = asyncio.create_task(self._work())
            self.workers.add(worker)
            worker.add_done_callback(self._note_leaving)

    def _note_leaving(self, worker: asyncio.Task[None]) -> None:
        """A question may have come while the last worker was leaving; one that is cut off leaves none unanswered."""
        self.workers.discard(worker)
        if worker.cancelled():
            self._refuse(STOPPING)
        else:
            self._staff()

    async def _work(self) -> None:
        connection: Connection | None = None
        try:
            while question := await self._take(connection):
                connection = await self._handle(question, connection)
                self._staff()
        finally:
            if connection:
                self.callout.kept.discard(connection)
                await connection.close()

    async def _take(self, connection: Connection | None) -> Question | None:
        """The next question; None when there was none for a while."""
        self.idle += 1
        try:
            async with asyncio.timeout(IDLE_SECONDS if connection else 0):
                while not self.questions:
                    self._new.clear()
                    await self._new.wait()
            return self.questions.popleft()
        except TimeoutError:
            return None
        finally:
            self.idle -= 1

    async def _handle(self, question: Question, connection: Connection | None) -> Connection | None:
        """Settle one question, whatever happens. While the server is down nobody else asks meanwhile. Returns the
        connection to go on with.
        """
        if is_probe := bool(self.server.down):
            self.server.probing = True
        try:
            return await self._put_to_server(question, connection)
        except ConnectError as error:
            self._note_down(question, str(error))
        except (LateError, LostError) as error:
            self._note_lost(question, str(error))
        except Exception as error:  # noqa: BLE001 - the edge of a question
            log.error("callout_failed server=%s error=%s", self.server, name_fault(error))
            question.give_up("a fault of ours")
        finally:
            if is_probe:
                self.server.probing = False
            question.give_up(STOPPING)
        return None

    async def _put_to_server(self, question: Question, connection: Connection | None) -> Connection | None:
        """Ask on the kept connection; on a new one where the server has closed that meanwhile."""
        question.obstacle = "too many questions to mail servers are waiting"
        async with self.callout.room:
            if question.answer.done():  # nobody waits for it any more
                return connection
            question.obstacle = f"{self.server} gives no answer in time"
            latest = asyncio.get_running_loop().time() + self.callout.seconds
            if connection:
                self.callout.kept.discard(connection)
                with contextlib.suppress(LostError, ConnectError):
                    return await self._converse(question, connection, latest)
            return await self._converse(question, await self._connect(latest), latest)

    async def _converse(self, question: Question, connection: Connection, latest: float) -> Connection | None:
        """Cut short, it leaves no connection of which a reply is still to come."""
        try:
            async with asyncio.timeout_at(latest):
                answer, last = await examine(connection, question)
        except TimeoutError:
            raise LateError(question.obstacle) from None
        if self.server.note_alive():
            log.info("callout_server_back server=%s", self.server)
        self.server.note_progress()
        question.settle(answer)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESET_SECONDS):
                await connection.begin_anew(last)
        has_room = len(self.callout.kept) < self.callout.most_kept
        if connection.usable and connection.sent < QUESTIONS_A_CONNECTION and has_room:
            self.callout.kept.add(connection)
            return connection
        await connection.close()
        return None

    async def _connect(self, latest: float) -> Connection:
        callout = self.callout
        try:
            async with asyncio.timeout_at(latest):
                return await dial(self.server, callout.names, hostname=callout.hostname, patience=PATIENCE)
        except TimeoutError:
            raise ConnectError(f"{self.server} gives no answer in time") from None

    def _note_lost(self, question: Question, reason: str) -> None:
        """One question may be one that the server does not like to be asked; several in a row are not."""
        self.server.lost += 1
        if self.server.down or self.server.lost >= LOST_IN_A_ROW:
            self._note_down(question, reason)
        question.give_up(reason)

    def _note_down(self, question: Question, reason: str) -> None:
        """Everybody who waits for this server is told; it is left in peace for a while."""
        if not self.server.down:
            log.warning("callout_server_down server=%s", self.server)
        self.server.note_down(reason)
        question.give_up(reason)
        self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        while self.questions:
            self.questions.popleft().give_up(reason)


async def examine(connection: Connection, question: Question) -> tuple[Answer, Reply]:
    """Ask in one transaction without content. Returns the last reply too. Raises ConnectError, LostError."""
    if obstacle := await connection.open_empty(question.address):
        return Answer(Word.NO, str(obstacle)), obstacle
    reply = await connection.try_recipient(question.address)
    word = read_word(reply)
    domain = question.address.rpartition("@")[2]
    if word is None:
        other = await connection.try_recipient(f"postmaster@{domain}")
        return Answer(Word.NO if other.good else Word.UNCLEAR, str(reply), by_server=True), other
    if word is Word.YES and question.try_all:
        other = await connection.try_recipient(f"no-such-{secrets.token_hex(8)}@{domain}")
        takes_all = True if other.good else False if other.final else None
        return Answer(word, str(reply), takes_all, by_server=True), other
    return Answer(word, str(reply), False if word is Word.NO else None, by_server=True), reply


def read_word(reply: Reply) -> Word | None:
    """What a reply to RCPT says of the mailbox. None: a no of which it is not clear whether the mailbox is meant, or we
    and the whole domain are; a postmaster, whom everybody has (RFC 5321 4.5.1), tells that apart.
    """
    if reply.good:
        return Word.YES
    found = ENHANCED.match(reply.text)
    detail = found[1] if found else ""
    if not reply.final or reply.code == 552 or detail in FULL:
        return Word.UNCLEAR
    if detail.startswith("1.") or detail in NO_SUCH_MAILBOX or (not detail and reply.code in PLAIN_NO):
        return Word.NO
    return None
