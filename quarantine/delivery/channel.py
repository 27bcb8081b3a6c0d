"""The connections of one lane to one server: as many as it likes, each for one letter after another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from quarantine import metrics
from quarantine.delivery.desk import Desk
from quarantine.delivery.dial import dial
from quarantine.delivery.letter import ContentDamagedError, ContentGoneError, Letter, pack
from quarantine.delivery.names import Names
from quarantine.delivery.outcome import decide
from quarantine.delivery.server import Server
from quarantine.delivery.smtp import PATIENT, ConnectError, Connection, LostError, Patience, Reply, Stage
from quarantine.faults import name_fault

log = logging.getLogger(__name__)

FIRST_WINDOW = 5  # connections to begin with once a transaction was answered, and at most (as Postfix has them)
LARGEST_WINDOW = 20
JOBS_A_CONNECTION = 4  # in hand for each connection, so that none waits for the database
JOBS_WHEN_DOWN = 100  # told at a time that their server is down
IDLE_SECONDS = 2
MESSAGES_A_CONNECTION = 100
ALIVE_SECONDS = 10


@dataclass(frozen=True)
class Manner:
    """How this courier talks."""

    hostname: str
    patience: Patience = PATIENT
    names: Names = field(default_factory=Names)


class NotTriedError(ConnectError):
    """The server is down, and it is not our turn to see whether it is back."""


class Budget:
    """So many octets of large messages in memory at a time; who comes first is served first."""

    def __init__(self, octets: int) -> None:
        self.limit = self.free = octets
        self.turn = asyncio.Lock()
        self.changed = asyncio.Event()

    async def take(self, octets: int) -> int:
        octets = min(octets, self.limit)
        async with self.turn:
            while self.free < octets:
                self.changed.clear()
                await self.changed.wait()
            self.free -= octets
        return octets

    def give_back(self, octets: int) -> None:
        self.free += octets
        self.changed.set()


class Channel:
    """Letters of one lane for one server, and who carries them."""

    def __init__(
        self, desk: Desk, server: Server, *, manner: Manner, budget: Budget, on_change: Callable[[Channel], None]
    ) -> None:
        self.desk = desk
        self.server = server
        self.manner = manner
        self.budget = budget
        self.on_change = on_change
        self.letters: asyncio.Queue[Letter | None] = asyncio.Queue()  # None: go home
        self.load = 0  # jobs put and not settled
        self.window = FIRST_WINDOW
        self.workers: set[asyncio.Task[None]] = set()
        self.sending: dict[asyncio.Task[Any], Connection] = {}  # by worker
        self.closed = False
        self.idle = 0
        self.recovered = False  # the server was down and is back: what waits for it is due

    @property
    def room(self) -> int:
        """How many jobs more it can do with."""
        return max((JOBS_WHEN_DOWN if self.server.down else self.most) - self.load, 0)

    @property
    def most(self) -> int:
        """How many jobs it may have in hand while the server is up: few until that has answered a transaction."""
        if self.server.is_steady:
            return self.window * JOBS_A_CONNECTION
        return 1 if self.server.lost else JOBS_A_CONNECTION

    @property
    def connections(self) -> int:
        """How many it may have."""
        if self.closed:
            return 0
        return self.window if self.server.is_steady else min(self.window, 1)

    @property
    def is_hungry(self) -> bool:
        return self.load <= self.most // 2

    def put(self, letter: Letter) -> None:
        self.load += len(letter.jobs)
        self.letters.put_nowait(letter)
        self._staff()

    def shed(self) -> None:
        """Let go of what waits behind a server that has stopped answering, so that it does not fill the lane."""
        while self.load > self.most and not self.server.is_steady and not self.letters.empty():
            if letter := self.letters.get_nowait():
                self._let_go(letter)

    def _staff(self) -> None:
        if len(self.workers) < self.connections and self.letters.qsize() > self.idle:
            worker = asyncio.create_task(self._work())
            self.workers.add(worker)
            worker.add_done_callback(self._note_leaving)

    def _note_leaving(self, worker: asyncio.Task[None]) -> None:
        """A letter may have come while the last worker was leaving."""
        self.workers.discard(worker)
        if not worker.cancelled():
            self._staff()

    def close(self) -> None:
        """Let go of what nobody has begun, begin nothing more, and send home who has nothing to do."""
        while not self.letters.empty():
            if letter := self.letters.get_nowait():
                self._let_go(letter)
        self.closed = True
        for _ in range(self.idle):
            self.letters.put_nowait(None)

    @property
    def awaiting(self) -> set[asyncio.Task[Any]]:
        """The workers whose server has all of a message, and has not said yet whether it takes it."""
        return {worker for worker, connection in self.sending.items() if connection.stage is Stage.DOT}

    def cut(self) -> None:
        """Have these wait no longer: recorded as lost after the final dot."""
        for worker in self.awaiting:
            self.sending[worker].stop_waiting("Lazaret was stopped")

    async def _work(self) -> None:
        connection: Connection | None = None
        try:
            while (letter := await self._get_letter(connection)) is not None:
                connection = await self._handle(letter, connection)
        finally:
            if connection:
                await connection.close()

    async def _get_letter(self, connection: Connection | None) -> Letter | None:
        """The next one; None when this worker is one too many, or has had nothing to do for a while."""
        if len(self.workers) > self.connections:
            return None
        if not self.letters.empty():
            return self.letters.get_nowait()
        if connection is None:
            return None
        self.idle += 1
        try:
            return await asyncio.wait_for(self.letters.get(), IDLE_SECONDS)
        except TimeoutError:
            return None
        finally:
            self.idle -= 1

    async def _handle(self, letter: Letter, connection: Connection | None) -> Connection | None:
        """Carry one letter; whatever happens, its jobs are settled or let go. Returns the connection to go on with."""
        try:
            return await self._carry(letter, connection)
        except psycopg.Error as error:
            log.warning("content_not_loaded provider=%s error=%s", letter.schema, type(error).__name__)
            self._let_go(letter)
            return connection
        except asyncio.CancelledError:
            self._let_go(letter)
            raise
        except Exception as error:  # noqa: BLE001 - the edge of a delivery
            trace = letter.message.trace_id
            log.error("delivery_failed provider=%s trace=%s error=%s", letter.schema, trace, name_fault(error))
            self._settle(letter, [Reply(451, "4.3.0 our own fault; tried again")] * len(letter.jobs))
            if connection:
                connection.abort()
            return None

    async def _carry(self, letter: Letter, connection: Connection | None) -> Connection | None:
        if not self.desk.is_sure():
            self._let_go(letter)
            return connection
        if self.server.is_blocked():
            self._settle_blocked(letter)
            return connection
        taken = 0 if letter.is_small else await self.budget.take(letter.message.size * 3)
        try:
            return await self._carry_packed(letter, connection)
        except (ContentGoneError, ContentDamagedError) as error:
            log.error("content_unusable provider=%s trace=%s", letter.schema, letter.message.trace_id)  # noqa: TRY400
            self._settle(letter, [Reply(554, f"5.6.0 not sent: {type(error).__name__}")] * len(letter.jobs))
            return connection
        finally:
            self.budget.give_back(taken)

    async def _carry_packed(self, letter: Letter, connection: Connection | None) -> Connection | None:
        wire = await pack(self.desk.pools, letter, hostname=self.manner.hostname)
        letter.begun = time.monotonic()
        if connection:
            try:
                return await self._send(letter, wire, connection)
            except LostError as error:
                if error.stage is not Stage.ENVELOPE:
                    self._note_lost(letter, error)
                    return None
        # No connection yet, or one that the server had closed by the time we came back to it.
        try:
            return await self._send(letter, wire, await self._connect())
        except LostError as error:
            self._note_lost(letter, error)
        except NotTriedError:
            self._settle_blocked(letter)
        except ConnectError as error:
            self._note_unreachable(letter, error)
        return None

    async def _send(self, letter: Letter, wire: bytes, connection: Connection) -> Connection | None:
        async def note_taken(replies: list[Reply]) -> None:
            how = describe_try(letter, connection.where)
            for job, reply in zip(letter.jobs, replies, strict=True):
                if reply.good:
                    self.desk.note_taken(job, str(reply), datetime.now(UTC), how)
            await self.desk.flush()

        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101
        self.sending[worker] = connection
        try:
            replies = await connection.send(letter.envelope, wire, gate=self.server.gate.enter, on_taken=note_taken)
        finally:
            del self.sending[worker]
            self.server.note_end(connection.place.address, good=connection.usable)
        self.recovered = self.server.note_alive() or self.recovered
        self.server.note_progress()
        self._settle_tried(letter, replies, connection.where)
        if self.letters.qsize() and self.window < LARGEST_WINDOW:
            self.window += 1
        for _ in range(self.letters.qsize()):
            self._staff()
        if connection.usable and connection.sent < MESSAGES_A_CONNECTION:
            return connection
        await connection.close()
        return None

    async def _connect(self) -> Connection:
        """A connection. One at a time while the server is down. Raises ConnectError."""
        server, manner = self.server, self.manner
        if server.is_blocked():
            raise NotTriedError
        server.probing = bool(server.down)
        try:
            connection = await dial(server, manner.names, hostname=manner.hostname, patience=manner.patience)
        finally:
            server.probing = False
        self.recovered = server.note_alive() or self.recovered
        return connection

    def _note_lost(self, letter: Letter, error: LostError) -> None:
        self.server.lost += 1
        if error.stage is Stage.DOT:
            trace = letter.message.trace_id
            log.warning("may_be_delivered_twice provider=%s trace=%s server=%s", letter.schema, trace, self.server)
        self._settle_tried(letter, [Reply(451, f"4.4.2 {error}")] * len(letter.jobs), error.where)

    def _settle_blocked(self, letter: Letter) -> None:
        server = self.server
        reply = Reply(451, f"4.4.1 not tried: {server.down}")
        how = f"{server}, {server.explain_wait()}"
        self._settle(letter, [reply] * len(letter.jobs), how=how, tried=False)

    def _note_unreachable(self, letter: Letter, error: ConnectError) -> None:
        """Down; or, where others are talking to it right now, only tired of so many connections."""
        if len(self.workers) > 1 and time.monotonic() - self.server.alive_at < ALIVE_SECONDS:
            self.window = len(self.workers) - 1
            self.letters.put_nowait(letter)
            return
        was_down = bool(self.server.down)
        pause = self.server.note_down(str(error))
        if not was_down:
            log.warning("server_down server=%s reason=%s", self.server, error)
        self.window = FIRST_WINDOW
        replies = [Reply(451, f"4.4.1 {error}")] * len(letter.jobs)
        self._settle_tried(letter, replies, error.where or str(self.server), pause=pause)

    def _settle_tried(self, letter: Letter, replies: list[Reply], where: str, *, pause: float | None = None) -> None:
        """Settle what was tried, at the place that `where` says."""
        metrics.DELIVERY_ATTEMPT_SECONDS.labels(letter.jobs[0].lane).observe(letter.seconds)
        self._settle(letter, replies, pause=pause, how=describe_try(letter, where))

    def _settle(
        self,
        letter: Letter,
        replies: list[Reply],
        *,
        pause: float | None = None,
        how: str = "",
        tried: bool = True,
    ) -> None:
        now = datetime.now(UTC)
        for job, reply in zip(letter.jobs, replies, strict=True):
            outcome = decide(job, reply, now, pause=pause, how=how)
            metrics.DELIVERY_ATTEMPTS.labels(job.lane, outcome.result.value if tried else "not_tried").inc()
            self.desk.settle(outcome)
        self._done(letter)

    def _let_go(self, letter: Letter) -> None:
        self.desk.give_up(letter.jobs)
        self._done(letter)

    def _done(self, letter: Letter) -> None:
        self.load -= len(letter.jobs)
        self.on_change(self)


def describe_try(letter: Letter, where: str) -> str:
    return f"{where}, {letter.seconds:.2f} s"
