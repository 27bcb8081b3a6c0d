"""The content of a message: DATA and BDAT, and what is answered at its end."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from quarantine import metrics
from quarantine.causes import Cause
from quarantine.faults import name_fault
from quarantine.gateway import replies
from quarantine.gateway.client import ClientSession
from quarantine.gateway.connection import find_cause
from quarantine.gateway.inlet import Chunks, Data, Progress, in_step
from quarantine.gateway.memory import Share
from quarantine.gateway.replies import Reply
from quarantine.gateway.story import Mail
from quarantine.intake import Result
from quarantine.records import END_OF_DATA

log = logging.getLogger(__name__)

CHUNK = re.compile(rb"([0-9]{1,10})(?:[ \t]+(LAST))?", re.IGNORECASE)


class ContentSession(ClientSession):
    """A session that takes messages, and sees each to its end."""

    async def smtp_DATA(self, argument: bytes) -> Reply:  # noqa: N802
        if argument:
            return replies.NO_ARGUMENT_WANTED
        if self._chunks or self._broken:
            return replies.BDAT_UNDER_WAY
        if refusal := self._refuse_content("DATA"):
            return refusal
        assert self._mail is not None  # noqa: S101 - else its content would have been refused
        self._send(replies.GO_AHEAD)
        self._mail.say("DATA", replies.GO_AHEAD)
        share, progress = Share(self._services.memory, self._ip), Progress(self._loop.time())
        try:
            with in_step():
                data = await self._inlet.read_data(
                    limit=self._limits.message_octets, pace=self._limits.pace, share=share, progress=progress
                )
        except BaseException:
            self._mail.octets = progress.size
            share.empty()
            raise
        return await self._take(data, share.empty)

    async def smtp_BDAT(self, argument: bytes) -> Reply:  # noqa: N802
        """A chunk that is refused is read all the same, and so are those that came with it (RFC 3030 section 2)."""
        found = CHUNK.fullmatch(argument)
        if not found:
            reply = self.sign("BDAT", replies.BDAT_SYNTAX)
            self._send(reply)
            self.answered("BDAT", reply)
            return replies.OUT_OF_STEP
        size, is_last, was_broken = int(found[1]), bool(found[2]), self._broken is not None
        reply = await self._take_chunk(size, is_last=is_last)
        self._errors += reply.code >= 500 and not was_broken
        self._idle_commands += size < self._limits.small_chunk and not is_last
        return reply

    async def _take_chunk(self, size: int, *, is_last: bool) -> Reply:
        refusal = self._broken or self._refuse_content("BDAT")
        chunks = self._start_chunks(0) if refusal else self._chunks or self._start_chunks(self._limits.message_octets)
        self._chunks = None if refusal else chunks
        with in_step():
            await self._inlet.read_chunk(size, into=chunks, pace=self._limits.pace)
        if refusal:
            self._broken = None if is_last else refusal
            return refusal
        if is_last:
            return await self._take(chunks.get_data(), chunks.close)
        if chunks.is_dropped:
            # No room for this chunk: the message ends here. To what else comes of it the answer is the same, as a
            # client that pipelines may go by the last.
            reply = await self._take(chunks.get_data(), chunks.close)
            self._broken = reply
            return reply
        assert self._mail is not None  # noqa: S101 - else the chunk would have been refused
        self._mail.say(f"BDAT {size}", replies.CHUNK_OK)
        return replies.CHUNK_OK

    def _start_chunks(self, limit: int) -> Chunks:
        return Chunks(limit=limit, share=Share(self._services.memory, self._ip), began=self._loop.time())

    def _refuse_content(self, command: str) -> Reply | None:
        mail = self._mail
        if mail is None:
            reply = replies.SEND_MAIL_FIRST if self._helo else replies.SEND_HELO_FIRST
            if self._declined:
                self._declined.mail.say(command, reply)
            return reply
        if mail.recipients:
            return self._defer_content(mail)
        reply = replies.NO_VALID_RECIPIENTS if mail.refused else replies.SEND_RCPT_FIRST
        reply = replies.TEMPORARY if mail.left else reply
        mail.say(command, reply)
        return reply

    def _defer_content(self, mail: Mail) -> Reply | None:
        """What has come to be in the way of storing it since its recipients were taken. The transaction is over then:
        its end is on record.
        """
        refusal = None if self._chunks else self._services.load.refuse_content()
        if refusal is None:
            return None
        reply, cause = refusal
        self._put_off(mail, cause, reply)
        self._forget_mail()
        self._is_told = True
        return mail.sign(reply)

    async def _take(self, data: Data, give_back: Callable[[], None]) -> Reply:
        """See a message that has come whole to its end, whatever becomes of the client meanwhile: its 250 may be lost,
        and then it sends again. The memory is given back when nobody needs it.
        """
        mail = self._mail
        assert mail is not None  # noqa: S101 - else its content would have been refused
        self._messages += 1
        self._mail = self._chunks = None  # from now on it is not the connection's
        self._is_told = True
        work = asyncio.ensure_future(self._receive(mail, data))
        self._services.pending.add(work)
        work.add_done_callback(self._services.pending.discard)
        work.add_done_callback(lambda _: give_back())
        return await asyncio.shield(work)

    async def _receive(self, mail: Mail, data: Data) -> Reply:
        begun = self._loop.time()
        try:
            reply = await self._decide(mail, data)
        except Exception as error:  # noqa: BLE001 - the sender is told to come again, and it is on record
            cause, reply = find_cause(error), replies.TEMPORARY
            level = logging.ERROR if cause is Cause.FAULT else logging.WARNING
            log.log(level, "message_deferred trace=%s client=%s error=%s", mail.trace_id, self._ip, name_fault(error))
            self._put_off(mail, cause, reply)
        metrics.RECEIVED_BYTES.inc(data.size)
        metrics.DATA_REPLY_SECONDS.observe(self._loop.time() - begun)
        details = (mail.trace_id, self._ip, len(mail.recipients), data.size, reply.code)
        log.info("message trace=%s client=%s recipients=%d octets=%d code=%d", *details)
        return mail.sign(reply)

    def _put_off(self, mail: Mail, cause: Cause, reply: Reply) -> None:
        mail.say(END_OF_DATA, reply)
        self._services.intake.note_left(self._sketch(mail), mail.list_left(cause, reply), mail.filed)

    async def _decide(self, mail: Mail, data: Data) -> Reply:
        intake, transaction = self._services.intake, self._sketch(mail)
        recipients, left = list(mail.recipients.values()), list(mail.left.values())
        if data.octets is None and data.size <= self._limits.message_octets:
            self._put_off(mail, Cause.NO_ROOM, replies.NO_ROOM)
            return replies.NO_ROOM
        if data.octets is None:
            reply = replies.TOO_BIG
            await intake.record_refused_message(
                transaction, recipients, left, size=data.size, reply=str(mail.sign(reply)), cause=Cause.TOO_BIG
            )
            return reply
        answers = make_answers(mail.trace_id)
        texts = {result: str(mail.sign(answer)) for result, answer in answers.items()}
        received = await intake.receive(transaction, recipients, data.octets, texts, left)
        if received.trace_id != mail.trace_id:  # it was taken before
            return replies.accept(received.trace_id)
        return answers[received.result]


def make_answers(trace_id: str) -> dict[Result, Reply]:
    return {
        Result.KEPT: replies.accept(trace_id),
        Result.REFUSED: replies.REFUSED_BY_POLICY,
        Result.LOOPING: replies.LOOPING,
        Result.RETURNED: replies.RETURNED,
    }
