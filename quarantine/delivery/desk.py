"""What a courier has in hand: jobs claimed, leases renewed, outcomes recorded in groups."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.errors import LockNotAvailable

from portal.tenants.database import Pool
from quarantine.delivery import rows
from quarantine.delivery.journal import Journal, Taken
from quarantine.delivery.outcome import Job, Outcome, Result
from quarantine.faults import name_fault

log = logging.getLogger(__name__)

RENEW_SECONDS = 15
SURE_SECONDS = rows.LEASE_SECONDS - 10  # after so long without renewal our claims may be somebody else's soon
GROUP = 200  # outcomes a transaction
GATHER_SECONDS = 0.02  # between transactions: what comes meanwhile shares the next; the journal has it
RETRY_SECONDS = 1
REFUSED_RETRY_SECONDS = 60  # for what the database refuses; somebody may mend it
LOCKED_RETRY_SECONDS = 5  # where somebody holds the rows or tables of a provider locked
# Away, a deadlock, or (in a failover) a server that is a standby yet or already: every outcome waits.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)


@dataclass(frozen=True, slots=True)
class Back:
    """The server of these domains is back: what waited for it is due, once all outcomes before this are recorded."""

    domains: tuple[int, ...]


class Desk:
    """The jobs of one courier, from claim to record."""

    def __init__(self, pool: Pool, instance: str, journal: Journal, on_later: Callable[[float], None]) -> None:
        self.pool = pool
        self.instance = instance
        self.journal = journal
        self.on_later = on_later  # told in how many seconds a job is due again
        self.held: dict[int, Job] = {}
        self.outcomes: asyncio.Queue[Outcome | Back] = asyncio.Queue()
        self.claiming = asyncio.Lock()  # a renewal between claim and `held` would free what was just claimed
        self.renewed_at = time.monotonic()

    async def claim(self, wanted: list[tuple[str, int, int]]) -> list[Job]:
        """Claim due jobs by (lane, domain, number). Raises psycopg.Error."""
        async with self.claiming:
            if not self.held:
                self.renewed_at = time.monotonic()
            jobs = await rows.claim(self.pool, wanted, instance=self.instance)
            self.held.update({job.id: job for job in jobs})
        return jobs

    def is_sure(self) -> bool:
        """Whether what we hold is certainly still ours: else nothing new is begun."""
        return time.monotonic() - self.renewed_at < SURE_SECONDS

    def give_up(self, jobs: Iterable[Job]) -> None:
        """Let go without an attempt: the next renewal frees the claims."""
        for job in jobs:
            self.held.pop(job.id, None)

    def note_taken(self, job: Job, reply: str, at: datetime, how: str) -> None:
        """The server took it: written down before anything else."""
        self.journal.note(Taken(job.id, job.schema, job.recipient_id, reply, at, how))

    async def flush(self) -> None:
        """Have on disk what was taken."""
        await self.journal.flush()

    def settle(self, outcome: Outcome) -> None:
        """Have an outcome recorded, soon; until then the job stays in hand."""
        self.outcomes.put_nowait(outcome)

    async def keep_renewing(self) -> None:
        """Renew our claims until cancelled; through times without a database."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self.renew()
            except psycopg.Error as error:
                log.warning("lease_not_renewed jobs=%d error=%s", len(self.held), type(error).__name__)

    async def renew(self) -> None:
        async with self.claiming:
            asked_at = time.monotonic()
            await rows.renew(self.pool, self.held, instance=self.instance)
            self.renewed_at = asked_at

    def note_back(self, domains: Iterable[int]) -> None:
        """The server of `domains` was down and is back."""
        self.outcomes.put_nowait(Back(tuple(sorted(domains))))

    async def keep_recording(self) -> None:
        """Record outcomes in groups until cancelled."""
        while True:
            group = [await self.outcomes.get()]
            while len(group) < GROUP and not self.outcomes.empty():
                group.append(self.outcomes.get_nowait())
            await self.record([entry for entry in group if isinstance(entry, Outcome)])
            for entry in group:
                if isinstance(entry, Back):
                    await self._hasten(entry)
                self.outcomes.task_done()
            await asyncio.sleep(GATHER_SECONDS)

    async def _hasten(self, back: Back) -> None:
        try:
            count = await rows.hasten(self.pool, list(back.domains))
        except psycopg.Error as error:
            log.warning("waiting_not_hastened error=%s", type(error).__name__)  # it stays due when it was
            return
        log.info("server_back domains=%d waiting=%d", len(back.domains), count)
        self.on_later(0)

    async def record(self, group: list[Outcome]) -> None:
        """Record, however long the database is away. What cannot be recorded does not keep the others."""
        while group:
            try:
                self._file(group, await rows.record(self.pool, group, instance=self.instance))
                return
            except psycopg.Error as error:
                if not isinstance(error, AWAY) or isinstance(error, LockNotAvailable):
                    return await self._record_apart(group, error)
                log.warning("outcomes_wait count=%d error=%s", len(group), type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def _record_apart(self, group: list[Outcome], error: psycopg.Error) -> None:
        """Each provider's by themselves, then one by one; but those of a provider that is locked are not tried each."""
        schemas = sorted({outcome.schema for outcome in group})
        if len(schemas) > 1:
            for schema in schemas:
                await self.record([outcome for outcome in group if outcome.schema == schema])
        elif len(group) > 1 and not isinstance(error, LockNotAvailable):
            for outcome in group:
                await self.record([outcome])
        else:
            self._record_later(group, error)

    def _record_later(self, group: list[Outcome], error: psycopg.Error) -> None:
        """The database does not want it yet. It stays in hand (what was taken, in the journal too): none is doubled."""
        pause = LOCKED_RETRY_SECONDS if isinstance(error, LockNotAvailable) else REFUSED_RETRY_SECONDS
        for outcome in group:
            details = outcome.schema, outcome.job_id, name_fault(error)
            log.error("outcome_not_recorded provider=%s job=%d error=%s", *details)
            asyncio.get_running_loop().call_later(pause, self.settle, outcome)

    def _file(self, group: list[Outcome], done: list[tuple[Outcome, str]]) -> None:
        self.journal.forget([outcome.job_id for outcome in group])
        for outcome in group:
            self.held.pop(outcome.job_id, None)
        recorded = {outcome.job_id for outcome, _ in done}
        for outcome in group:
            if outcome.result is Result.TAKEN and outcome.job_id not in recorded:
                log.warning("taken_before provider=%s recipient=%d", outcome.schema, outcome.recipient_id)
        for outcome, state in done:
            if outcome.result is Result.LATER:
                self.on_later(outcome.pause)
            log.info(
                "recipient_%s provider=%s recipient=%d code=%s",
                state, outcome.schema, outcome.recipient_id, outcome.reply[:3],
            )  # fmt: skip
