"""The courier: the process that delivers clean mail, releases and digests to the customers' servers.

What is to be delivered stands in the delivery queue (public.platform_deliveryjob), beside the state that each recipient
row is in. A courier claims jobs, talks SMTP, and records state, trace and queue in one transaction. Any number of
couriers may run.

What happens when it is killed, at any moment:

* Nothing is lost: a job leaves the queue only in the transaction that records the server's answer.
* What a server had taken is in the journal from the moment we read its 250 (quarantine.delivery.journal) and is
  recorded at the next start before anything is sent. Sent again is only what the server took and we had not read:
  one message a server that answers at once (quarantine.delivery.server.DotGate), a few where it is slow.
* Asked to stop, it waits a minute for servers that have all of a message; what it then cuts off is told as a possible
  double, in the log and in the trace.
* Its claims are free when it starts again, or, should it stay away, after a minute.

Lanes (mail, releases, digests) have their own connections and claims: a backlog in one never delays another.
A server that greets and then does not answer holds one connection and a few jobs of a lane until it does.
A server that cannot be reached is asked by one probe at a time, every 30 seconds to 5 minutes; what is for it
waits, with the reason on each row, and is due at once when the server is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from portal.tenants.database import Pool, end_all, get_conninfo, is_outage
from quarantine import metrics
from quarantine.delivery import rows
from quarantine.delivery.channel import Budget, Channel, Manner
from quarantine.delivery.clock import keep_hastening
from quarantine.delivery.desk import Desk
from quarantine.delivery.journal import Journal, Slot, Taken, read_journal, take_left_slots, take_slot
from quarantine.delivery.letter import Letter, load_small, make_letters
from quarantine.delivery.outcome import Job, Outcome, Result
from quarantine.delivery.rows import Backlog
from quarantine.delivery.server import Server
from quarantine.faults import name_fault
from quarantine.platform.heartbeat import keep_beating

log = logging.getLogger(__name__)

JOBS_IN_HAND = {"mail": 800, "release": 400, "digest": 400}  # a lane
LARGE_OCTETS = 268_435_456  # a lane, of messages too large to be loaded ahead
POLL_SECONDS = 3.0  # when nobody wakes us
SHORTEST_ROUND_SECONDS = 0.02  # what comes meanwhile is claimed and loaded together
LONGEST_PAUSE_SECONDS = 0.5  # between two
AWAY_SECONDS = 1.0
LOCK_SECONDS = 2.0  # for a table or row that somebody has locked: then that provider's mail waits, and nobody else's
HOLD_SECONDS = 5.0  # so long it is not looked at again
MOST_APART = 2  # rounds' jobs of a provider: those being loaded, and some that wait for that
# When we are asked to stop; together less than the supervisor gives us (portal.stack.parts).
GRACE_SECONDS = 10  # for letters under way
ANSWER_SECONDS = 60  # for those of which a server has everything: cut off, they arrive twice
CUT_SECONDS = 1  # for those to see it
RECORD_SECONDS = 5  # for recording what came of them, and again for freeing the rest
CHANNEL = "lazaret_delivery"
T = TypeVar("T")


@dataclass
class Lane:
    """A queue of its own."""

    name: str
    limit: int
    budget: Budget = field(default_factory=lambda: Budget(LARGE_OCTETS))
    channels: dict[tuple[str, int], Channel] = field(default_factory=dict)

    @property
    def room(self) -> int:
        return max(self.limit - sum(channel.load for channel in self.channels.values()), 0)

    @property
    def doubtful_room(self) -> int:
        """The same for servers that have not answered a transaction of late: all of them get half of the lane."""
        doubtful = (channel.load for channel in self.channels.values() if not channel.server.is_steady)
        return max(self.limit // 2 - sum(doubtful), 0)

    def shed(self) -> None:
        for channel in self.channels.values():
            channel.shed()


class Courier:
    """One courier process. `run` until `stop`."""

    def __init__(self, home: Path, manner: Manner) -> None:
        self.home = home
        self.manner = manner
        self.wake = asyncio.Event()
        self.stopping = asyncio.Event()
        self.lanes = {name: Lane(name, limit) for name, limit in JOBS_IN_HAND.items()}
        self.servers: dict[tuple[str, int], Server] = {}
        self.troubled: dict[str, float] = {}  # providers whose rows could not be loaded: till when they are let alone
        self.apart: dict[str, list[tuple[list[Job], dict[int, tuple[str, int]]]]] = {}  # what is to be loaded of these
        self.loading: set[asyncio.Task[None]] = set()  # beside the rounds, one a provider

    def stop(self) -> None:
        self.stopping.set()
        self.wake.set()

    async def run(self) -> None:
        slot = take_slot(self.home)
        self.pools = rows.Pools.make(lock_seconds=LOCK_SECONDS)
        await self.pools.open()
        self.desk = Desk(self.pools, slot.name, Journal(slot.journal_path), self._wake_later)
        log.info("courier_starting instance=%s", slot.name)
        try:
            await self._until_stopped(self._recover(slot))
            await self._serve(slot)
        finally:
            self.desk.journal.close()
            await self.pools.close()
            slot.leave()
        log.info("courier_stopped instance=%s", slot.name)

    async def _serve(self, slot: Slot) -> None:
        helpers = [
            self._listen(),
            self.desk.keep_renewing(),
            self.desk.keep_recording(),
            keep_beating(self.pools.queue, "courier", slot.name),
            keep_hastening(self.pools.queue, self.wake.set),
        ]
        tasks = [asyncio.create_task(helper) for helper in helpers]
        for task in tasks:
            task.add_done_callback(self._note_end)
        await self._dispatch()
        await self._finish()
        for result in await end_all(tasks):
            if isinstance(result, Exception):
                raise result

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """A helper that ends by itself is broken: end, so that whoever supervises us starts us anew."""
        if not task.cancelled():
            self.stop()

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await end_all([task])
        elif error := task.exception():
            raise error

    async def _recover(self, own: Slot) -> None:
        """Record what was taken before we were killed, then free our claims; waits for the database."""
        for slot in [own, *take_left_slots(self.home, own)]:
            taken = {one.job: one for one in await self._find_open(read_journal(slot.journal_path))}
            left = await self._replay(slot, list(taken.values()))
            for job in left:
                self.desk.adopt(taken[job])
            await self._free(left, slot.name)
            try:
                self.desk.journal.rewrite()
                if slot is not own:
                    slot.journal_path.write_bytes(b"")
            except OSError as error:  # a full disk: what is in it is recorded once more at the next start, in vain
                log.error("journal_not_rewritten error=%s", error.strerror)  # noqa: TRY400
            if slot is not own:
                slot.leave()

    async def _find_open(self, taken: list[Taken]) -> list[Taken]:
        """Those whose job is still there. What else has its id since a restore is no business of theirs."""
        if not taken:
            return []
        jobs = await self._insist(lambda: rows.find_jobs(self.pools.queue, [one.job for one in taken]))
        open_ = []
        for one in taken:
            if one.job in jobs and one.is_of(*jobs[one.job]):
                open_.append(one)
            else:
                log.warning("taken_before provider=%s recipient=%d", one.schema, one.recipient)
        return open_

    async def _replay(self, slot: Slot, taken: list[Taken]) -> list[int]:
        """Record what was taken; returns the jobs of which the database does not want it yet."""
        if not taken:
            return []
        log.info("journal_replayed instance=%s outcomes=%d", slot.name, len(taken))
        outcomes = [Outcome(t.job, t.schema, t.recipient, Result.TAKEN, t.reply, t.at, how=t.how) for t in taken]
        postponed = await self.desk.record(outcomes)
        for one in postponed:
            self.desk.retry(one)
        return [outcome.job_id for one in postponed for outcome in one.outcomes]

    async def _free(self, left: list[int], instance: str) -> None:
        """Free all claims of a courier that is no more, but for these jobs: they are ours."""

        async def free() -> None:
            await rows.adopt(self.pools.queue, left, former=instance, instance=self.desk.instance)
            await rows.renew(self.pools.queue, self.desk.held, instance=instance)

        await self._insist(free)

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, however long the database is away."""
        while True:
            try:
                return await work()
            except psycopg.OperationalError as error:
                log.warning("database_away error=%s", type(error).__name__)
                await asyncio.sleep(AWAY_SECONDS)

    async def _listen(self) -> None:
        """Be woken by NOTIFY, for ever; polling helps out while there is no connection."""
        conninfo = get_conninfo(application_name="lazaret-courier-listen", keepalives_idle=10, keepalives_interval=5)
        while True:
            with contextlib.suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as database:
                    await database.execute(f"LISTEN {CHANNEL}")
                    self.wake.set()
                    async for _ in database.notifies():
                        self.wake.set()
            await asyncio.sleep(AWAY_SECONDS)

    async def _dispatch(self) -> None:
        """Round after round: see what is due, claim what there is room for, hand it to the channels."""
        pause = 0.0
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), pause)
            self.wake.clear()
            began = time.monotonic()
            try:
                pause = await self._go_round()
            except psycopg.Error as error:
                log.warning("queue_not_read error=%s", type(error).__name__)
                pause = AWAY_SECONDS
            # Where many domains have something to do, a round is long: it takes half of the time at most.
            await asyncio.sleep(min(max(time.monotonic() - began, SHORTEST_ROUND_SECONDS), LONGEST_PAUSE_SECONDS))

    def _wake_later(self, seconds: float) -> None:
        if seconds < POLL_SECONDS:
            asyncio.get_running_loop().call_later(seconds, self.wake.set)

    async def _go_round(self) -> float:
        """One round; returns in how many seconds something more is due, at most the polling interval."""
        for lane in self.lanes.values():
            lane.shed()
        backlog = await rows.list_backlog(self.pools.queue)
        wanted = self._allot(backlog)
        if wanted:
            jobs = await self.desk.claim(wanted)
            await self._hand_out(jobs, {entry.domain_id: (entry.host, entry.port) for entry in backlog})
        return min([POLL_SECONDS, *(max(entry.due_in, 0.05) for entry in backlog if entry.due_in > 0)])

    def _allot(self, backlog: list[Backlog]) -> list[tuple[str, int, int]]:
        """How many jobs to claim of each lane and domain: its share, among those that have something due, of what its
        server and the lane have room for. So a round serves many small domains as well as one with thousands of jobs.
        """
        room: dict[object, int] = {name: lane.room for name, lane in self.lanes.items()}
        room |= {(name, "doubtful"): lane.doubtful_room for name, lane in self.lanes.items()}
        due = [(entry, self._list_limits(entry, room)) for entry in backlog if entry.due_in <= 0]
        sharers = Counter(limit for _, limits in due for limit in limits)
        wanted = []
        for entry, limits in sorted(due, key=lambda each: each[0].due_in):
            share = min(min(room[limit], max(room[limit] // sharers[limit], 1)) for limit in limits)
            sharers.subtract(limits)
            if share:
                wanted.append((entry.lane, entry.domain_id, share))
                for limit in limits:
                    room[limit] -= share
        return wanted

    def _list_limits(self, entry: Backlog, room: dict[object, int]) -> list[object]:
        """By what the entry's jobs are limited; the room of its server is put there."""
        channel = self._get_channel(entry)
        room.setdefault(channel, channel.room)
        limits: list[object] = [entry.lane, channel]
        if not channel.server.is_steady:
            limits.append((entry.lane, "doubtful"))
        return limits

    def _get_channel(self, entry: Backlog) -> Channel:
        address = entry.host, entry.port
        if address not in self.servers:
            self.servers[address] = Server(*address)
        server = self.servers[address]
        server.domains.add(entry.domain_id)
        lane = self.lanes[entry.lane]
        if address not in lane.channels:
            lane.channels[address] = Channel(
                self.desk, server, manner=self.manner, budget=lane.budget, on_change=self._note_change
            )
        return lane.channels[address]

    def _note_change(self, channel: Channel) -> None:
        if channel.is_hungry:
            self.wake.set()
        if channel.recovered:
            channel.recovered = False
            self.desk.note_back(channel.server.domains)

    async def _hand_out(self, jobs: list[Job], addresses: dict[int, tuple[str, int]]) -> None:
        """Load what is needed of all providers together. One that is locked or no more holds that up once; then it is
        tried by itself, beside the rounds.
        """
        by_schema: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            by_schema[job.schema].append(job)
        known = self.troubled.keys() | self.apart.keys()
        apart = {schema: by_schema.pop(schema) for schema in list(by_schema) if schema in known}
        try:
            if by_schema:
                self._put(await self._load(self.pools.reading, by_schema, addresses))
        except psycopg.Error as error:
            if is_outage(error):
                self._let_go(jobs, error)
                return
            apart |= by_schema
        for schema, group in apart.items():
            if self.troubled.get(schema, 0) > time.monotonic() or len(self.apart.get(schema, ())) >= MOST_APART:
                self.desk.give_up(group)
            elif schema in self.apart:
                self.apart[schema].append((group, addresses))
            else:
                self.apart[schema] = [(group, addresses)]
                task = asyncio.create_task(self._hand_out_apart(schema))
                self.loading.add(task)
                task.add_done_callback(self.loading.discard)

    async def _hand_out_apart(self, schema: str) -> None:
        try:
            while self.apart[schema]:
                jobs, addresses = self.apart[schema][0]
                async with self.pools.turns:
                    letters = await self._load(self.pools.apart, {schema: jobs}, addresses)
                del self.apart[schema][0]
                self._put(letters)
            self.troubled.pop(schema, None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs are due again, and later
            self._let_go([job for jobs, _ in self.apart[schema] for job in jobs], error)
            self.troubled[schema] = time.monotonic() + HOLD_SECONDS
        finally:
            del self.apart[schema]

    def _let_go(self, jobs: list[Job], error: Exception) -> None:
        schemas = ",".join(sorted({job.schema for job in jobs}))
        log.warning("rows_not_loaded provider=%s jobs=%d error=%s", schemas, len(jobs), name_fault(error))
        self.desk.give_up(jobs)

    def _put(self, letters: dict[tuple[str, tuple[str, int]], list[Letter]]) -> None:
        for (lane, address), group in letters.items():
            for letter in group:
                self.lanes[lane].channels[address].put(letter)

    async def _load(
        self, pool: Pool, by_schema: dict[str, list[Job]], addresses: dict[int, tuple[str, int]]
    ) -> dict[tuple[str, tuple[str, int]], list[Letter]]:
        """Letters by channel."""
        wanted = {schema: [job.recipient_id for job in jobs] for schema, jobs in by_schema.items()}
        found = await rows.load_rows(pool, wanted)
        letters: dict[tuple[str, tuple[str, int]], list[Letter]] = defaultdict(list)
        void = []
        for schema, jobs in by_schema.items():
            by_channel: dict[tuple[str, tuple[str, int]], list[Job]] = defaultdict(list)
            for job in jobs:
                if job.recipient_id in found[schema]:
                    by_channel[job.lane, addresses[job.domain_id]].append(job)
                else:
                    void.append(job)
            for key, group in by_channel.items():
                letters[key] += make_letters(schema, group, found[schema])
        await load_small(pool, [letter for group in letters.values() for letter in group])
        for job in void:
            self.desk.settle(make_void(job))
        return letters

    async def _finish(self) -> None:
        """Let letters under way arrive, record everything, free the rest."""
        await end_all(self.loading)
        channels = [channel for lane in self.lanes.values() for channel in lane.channels.values()]
        for channel in channels:
            channel.close()
        await end_letters(channels)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECORD_SECONDS):
                await self.desk.outcomes.join()
        await self.desk.end_retries()
        with contextlib.suppress(TimeoutError, psycopg.Error):
            async with asyncio.timeout(RECORD_SECONDS):
                await self.desk.leave()


async def end_letters(channels: list[Channel]) -> None:
    """Let letters under way arrive. Most are cut off soon and are sent again, whole; not so those that only wait for
    the answer to the final dot. One that does not come in a minute is told as lost.
    """
    workers = {worker for channel in channels for worker in channel.workers}
    if not workers:
        return
    await asyncio.wait(workers, timeout=GRACE_SECONDS)
    awaiting = {worker for channel in channels for worker in channel.awaiting}
    others = asyncio.create_task(end_all(workers - awaiting))  # which may take long, against a silent server
    if awaiting:
        log.info("courier_waits answers=%d seconds=%d", len(awaiting), ANSWER_SECONDS - GRACE_SECONDS)
        await asyncio.wait(awaiting, timeout=ANSWER_SECONDS - GRACE_SECONDS)
        for channel in channels:
            channel.cut()
        await asyncio.wait(awaiting, timeout=CUT_SECONDS)
        await end_all(awaiting)
    await others


def make_void(job: Job) -> Outcome:
    """There is no such row, or it waits for nothing: only the job goes."""
    log.warning("job_void provider=%s recipient=%d", job.schema, job.recipient_id)
    return Outcome(job.id, job.schema, job.recipient_id, Result.VOID, "", datetime.now(UTC))


async def run_courier(home: Path, manner: Manner) -> None:
    """Run until SIGTERM or SIGINT."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    courier = Courier(home, manner)
    metrics.DELIVERY_SERVERS_DOWN.set_function(lambda: sum(bool(each.down) for each in list(courier.servers.values())))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, courier.stop)
    await courier.run()
