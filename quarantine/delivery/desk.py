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

from portal.tenants.database import end_all
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
class Postponed:
    """Outcomes that the database does not want yet, and in how many seconds it is asked again."""

    outcomes: list[Outcome]
    seconds: float


@dataclass(frozen=True, slots=True)
class Back:
    """The server of these domains is back: what waited for it is due, once all outcomes before this are recorded."""

    domains: tuple[int, ...]


class Desk:
    """The jobs of one courier, from claim to record."""

    def __init__(self, pools: rows.Pools, instance: str, journal: Journal, on_later: Callable[[float], None]) -> None:
        self.pools = pools
        self.instance = instance
        self.journal = journal
        self.on_later = on_later  # told in how many seconds a job is due again
        self.held: set[int] = set()
        self.outcomes: asyncio.Queue[Outcome | Back] = asyncio.Queue()
        self.claiming = asyncio.Lock()  # a renewal between claim and `held` would free what was just claimed
        self.renewed_at = time.monotonic()
        self._retries: set[asyncio.Task[None]] = set()
        self._retrying = asyncio.Lock()  # one at a time: what waits for a lock leaves a connection to all others

    async def claim(self, wanted: list[tuple[str, int, int]]) -> list[Job]:
        """Claim due jobs by (lane, domain, number). Raises psycopg.Error."""
        async with self.claiming:
            if not self.held:
                self.renewed_at = time.monotonic()
            jobs = await rows.claim(self.pools.queue, wanted, instance=self.instance)
            self.held.update(job.id for job in jobs)
        return jobs

    def is_sure(self) -> bool:
        """Whether what we hold is certainly still ours: else nothing new is begun."""
        return time.monotonic() - self.renewed_at < SURE_SECONDS

    def give_up(self, jobs: Iterable[Job]) -> None:
        """Let go without an attempt: the next renewal frees the claims. Not of what a server took already."""
        self.held.difference_update(job.id for job in jobs if job.id not in self.journal.lines)

    def adopt(self, taken: Taken) -> None:
        """It is not recorded yet, and ours from now on."""
        self.held.add(taken.job)
        self.journal.note(taken)

    def note_taken(self, job: Job, reply: str, at: datetime, how: str) -> None:
        """The server took it: written down before anything else."""
        self.journal.note(Taken(job.id, job.schema, job.recipient_id, reply, at, how, job.created_at))

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
            await rows.renew(self.pools.queue, self.held, instance=self.instance)
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
            for postponed in await self.record([entry for entry in group if isinstance(entry, Outcome)]):
                self.retry(postponed)
            for entry in group:
                if isinstance(entry, Back):
                    await self._hasten(entry)
                self.outcomes.task_done()
            await asyncio.sleep(GATHER_SECONDS)

    async def _hasten(self, back: Back) -> None:
        try:
            count = await rows.hasten(self.pools.queue, list(back.domains))
        except psycopg.Error as error:
            log.warning("waiting_not_hastened error=%s", type(error).__name__)  # it stays due when it was
            return
        log.info("server_back domains=%d waiting=%d", len(back.domains), count)
        self.on_later(0)

    async def record(self, group: list[Outcome]) -> list[Postponed]:
        """Record, however long the database is away. What it does not want keeps the others not, and is returned. It
        stays in hand (what was taken, in the journal too): none is doubled.
        """
        while group:
            try:
                self._file(group, await rows.record(self.pools.recording, group, instance=self.instance))
                break
            except psycopg.Error as error:
                if not isinstance(error, AWAY) or isinstance(error, LockNotAvailable):
                    return await self._record_apart(group, error)
                log.warning("outcomes_wait count=%d error=%s", len(group), type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
        return []

    async def _record_apart(self, group: list[Outcome], error: psycopg.Error) -> list[Postponed]:
        """Each provider's by themselves, then one by one; but those of a provider that is locked are not tried each."""
        is_locked = isinstance(error, LockNotAvailable)
        schemas = sorted({outcome.schema for outcome in group})
        if len(schemas) > 1:
            parts = [[outcome for outcome in group if outcome.schema == schema] for schema in schemas]
        elif len(group) > 1 and not is_locked:
            parts = [[outcome] for outcome in group]
        else:
            details = schemas[0], group[0].job_id, len(group), name_fault(error)
            log.error("outcome_not_recorded provider=%s job=%d jobs=%d error=%s", *details)
            return [Postponed(group, LOCKED_RETRY_SECONDS if is_locked else REFUSED_RETRY_SECONDS)]
        return [postponed for part in parts for postponed in await self.record(part)]

    def retry(self, postponed: Postponed) -> None:
        """Record it later, beside all others."""
        task = asyncio.create_task(self._retry(postponed))
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    async def _retry(self, postponed: Postponed) -> None:
        await asyncio.sleep(postponed.seconds)
        async with self._retrying:
            again = await self.record(postponed.outcomes)
        for more in again:
            self.retry(more)

    async def end_retries(self) -> None:
        while self._retries:
            await end_all(self._retries)

    async def leave(self) -> None:
        """Free what we have in hand, but for what servers took and is not recorded: that is in the journal, and is
        nobody's until the next start, or for the time of a lease.
        """
        await rows.renew(self.pools.queue, self.journal.lines, instance=self.instance)

    def _file(self, group: list[Outcome], done: list[tuple[Outcome, str]]) -> None:
        self.journal.forget([outcome.job_id for outcome in group])
        for outcome in group:
            self.held.discard(outcome.job_id)
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
