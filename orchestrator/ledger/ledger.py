"""Jobs and attempts in SQLite: the truth of the orchestrator.

WAL with `synchronous = FULL`: what was answered survives the death of the process and of the machine. Only
what a node would tell again is committed softly, without a sync of its own. One connection writes
(`actors.store.group_commit`), another one reads and does not wait for an fsync. What a change does is decided
in `transitions`; each table is a file in `tables`.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import sqlite_anyio
import trio

from actors.domain.changes import (
    Change,
    ChangeAnswer,
    ChangeResult,
    JobDetails,
    MoveAttempt,
    NewJob,
    RecordEnd,
    SetMessage,
    SetProgress,
    Transition,
)
from actors.domain.ids import MAX_ID
from actors.domain.job import Attempt, AttemptState, HistoryEntry, Job, LiveJobs
from actors.domain.node import JoinedNode, NodeName
from actors.domain.scaling import DecisionRecord, MachineRecord
from actors.domain.status import Status
from actors.ports.callbacks import Callback, DeliveryOutcome
from actors.ports.ledger import LedgerError
from actors.ports.storage import Part
from actors.ports.world import Clock
from actors.store.durable import is_failed_sync
from actors.store.group_commit import GroupCommit
from actors.store.reserve import Reserve
from actors.store.sqlite_thread import snapshot
from orchestrator.access.audit import AuditEntry
from orchestrator.access.limits import Limits
from orchestrator.access.node_secrets import NodeSecret
from orchestrator.access.sessions import SessionRecord
from orchestrator.access.tokens import TokenRecord
from orchestrator.ledger import purging, vacuum, wal
from orchestrator.ledger import transitions as rules
from orchestrator.ledger.batch import LedgerBatch, LedgerBatches
from orchestrator.ledger.batch_orders import order_batch
from orchestrator.ledger.errors import (
    DATABASE_ERRORS,
    IdempotencyConflict,
    LedgerDamaged,
    LedgerFull,
    LimitReached,
    explain,
    run_on_ledger,
)
from orchestrator.ledger.id_blocks import IdBlocks
from orchestrator.ledger.inspection import inspect
from orchestrator.ledger.newest import Newest, Note
from orchestrator.ledger.queries import Queries
from orchestrator.ledger.recent import Recent
from orchestrator.ledger.recent_jobs import RecentJobs
from orchestrator.ledger.room import require_room
from orchestrator.ledger.schema import prepare_reader, prepare_writer, set_hard
from orchestrator.ledger.tables import (
    attempts,
    audit,
    callbacks,
    history,
    jobs,
    machines,
    meta,
    nodes,
    pauses,
    sessions,
    small_files,
    tokens,
)
from orchestrator.ledger.tables.batches import BatchView, NewBatch
from orchestrator.ledger.wal import WalWatch

__all__ = ["IdempotencyConflict", "JobDetails", "LedgerFull", "LimitReached", "SqliteLedger"]

log: Final = logging.getLogger("orchestrator.ledger")

T = TypeVar("T")


BATCH: Final = 1000
"""Items in a commit at most."""
MOST_FILES: Final = 16 << 20
"""Bytes of small files that are kept in memory."""
CHECKED: Final = 1.0
"""Seconds for which it counts that the ledger could be written."""


class SqliteLedger:
    """Implements `Ledger`, `MachineLedger` and `CallbackLedger`; what people ask besides is in `queries`.
    Everything raises LedgerError for what the database cannot do.

    `run` has to run for anything to be written. A call that writes and raises Cancelled has written nothing;
    once its commit is under way it is finished and answered, cancelled or not.
    """

    def __init__(
        self,
        connections: tuple[sqlite_anyio.Connection, sqlite_anyio.Connection],
        owner: str,
        commits: GroupCommit[LedgerBatch],
        recent: RecentJobs,
        recent_files: Recent[tuple[str, Part], bytes],
        *,
        path: str,
        newest: Newest,
        begun_after: int,
    ) -> None:
        """For `open`. `connections`: the one that writes and the one that reads."""
        self.begun_after = begun_after
        """The number of the newest change that an earlier life may have told."""
        self._newest = newest
        self._damage: LedgerDamaged | None = None
        self._damaged = trio.Event()
        self._path = path
        self._connection, self._reader = connections
        self.queries = Queries(self._reader)
        self._owner = owner
        self._writer = commits
        self._recent = recent
        self._recent_files = recent_files
        self.on_machine: list[Callable[[MachineRecord], None]] = []
        """Are called with each record of a machine that was put."""
        self.ids: IdBlocks | None = None
        """None: what was given is noted nowhere else."""

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        clock: Clock,
        committed: Callable[[Sequence[Job]], None] = lambda jobs: None,
        trace: Callable[[str], None] | None = None,
        timed: Callable[[float, int], None] = lambda seconds, items: None,
        may_begin: bool = True,
    ) -> SqliteLedger:
        """Open the ledger at `path`; create it if need be, and if it `may_begin`. After each commit, before
        anybody is answered, `trace` is told "commit" and `committed` the jobs that it has changed, in their
        order, if there are any; neither may wait or raise. `timed` is told of each commit its seconds and
        items. Raises LedgerError for a file that cannot be
        opened, is not a ledger of this version, is damaged, or is gone or older than it was; then nothing of
        it is changed."""
        newest = Newest(Path(f"{path}.newest"))
        async with AsyncExitStack() as undo:
            try:
                await trio.to_thread.run_sync(partial(inspect, Path(path), newest, may_begin=may_begin))
                writer = await sqlite_anyio.connect(path)
                undo.push_async_callback(writer.close)
                owner = await run_on_ledger(writer, prepare_writer)
                begun_after = await run_on_ledger(writer, meta.read_highest_seq)
                reader = await sqlite_anyio.connect(path)
                undo.push_async_callback(reader.close)
                await run_on_ledger(reader, prepare_reader)
                seq = await run_on_ledger(reader, meta.read_seq)
            except LedgerError as error:
                raise type(error)(f"{path}: {error}") from error
            except DATABASE_ERRORS as error:
                raise LedgerError(f"{path}: {explain(error)}") from error
            except OSError as error:
                raise LedgerError(f"{path}: the ledger cannot be read: {error.strerror}") from error
            undo.pop_all()
        reserve = Reserve(Path(f"{path}.reserve"))
        with trio.CancelScope(shield=True):  # the connections are open, and nobody else would close them
            await trio.to_thread.run_sync(reserve.hold)
            await trio.to_thread.run_sync(newest.open, Note(owner, seq))

        recent = RecentJobs()
        # Small files that were just written: the next step of most jobs reads them at once.
        recent_files: Recent[tuple[str, Part], bytes] = Recent(MOST_FILES, len)

        def tell(batch: LedgerBatch) -> None:
            if trace is not None:
                trace("commit")
            recent.committed(batch.changed)
            for job_id in batch.moved:
                recent.put(job_id, batch.rows.get(job_id))
            # Who is told of it asks for them at once: the Sender, and who waits for the end.
            for job, part, data in batch.files:
                recent_files.put((job.storage_key, part), data)
            if batch.changed:
                committed(batch.changed)

        commits = GroupCommit(
            writer,
            LedgerBatches(newest, begun_after, recent.peek).begin,
            clock=clock,
            reserve=reserve,
            committed=tell,
            explain=explain,
            most=BATCH,
            harden=set_hard,
            sync_failed=_end_at_once,
            timed=timed,
        )
        connections = (writer, reader)
        return cls(
            connections,
            owner,
            commits,
            recent,
            recent_files,
            path=path,
            newest=newest,
            begun_after=begun_after,
        )

    @property
    def owner(self) -> str:
        """32 hex digits, made when the ledger was: the name under which nodes know this orchestrator."""
        return self._owner

    def file_sizes(self) -> tuple[int, int]:
        """Bytes of the database and of its write-ahead log; 0 for what is not there. It looks, and reads
        nothing."""
        try:
            return os.stat(self._path).st_size, wal.size(self._path)
        except OSError:
            return 0, 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The writer's task: it commits until cancelled. Run it in a nursery that outlives whoever writes.
        Raises LedgerDamaged, in a group, once the file is found to be."""

        async def end_when_damaged() -> None:
            await self._damaged.wait()
            assert self._damage is not None
            raise self._damage

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_when_damaged)
            await self._writer.run(task_status=task_status)

    async def watch_log(self) -> None:
        """Keep the log of writes short, and say what keeps it long, until cancelled."""

        async def cut() -> bool:
            return await run_on_ledger(self._connection, _cut_log)

        await WalWatch(self._path, cut).run()

    async def watch_room(self) -> None:
        """Give room that is free in the file back to the disk, until cancelled."""
        while True:
            await trio.sleep(vacuum.EVERY)
            try:
                while await self._read(vacuum.spare) and not wal.is_long(self._path):
                    await self._write(lambda batch: vacuum.give_back(batch.db), soft=True)
                    await trio.sleep(vacuum.PAUSE)
            except LedgerError as error:
                log.info("free room in the ledger cannot be given back now: %s", error)

    async def aclose(self) -> None:
        """Close the file, after `run` has ended. Finishes even if cancelled."""
        await self._reader.close()
        await self._connection.close()
        self._newest.close()

    # ------------------------------------------------------------------ writing

    async def insert(self, job: NewJob, entry: AuditEntry | None = None, limits: Limits | None = None) -> Job:
        """Store a job with the next id, Queued, or with its `first` attempt in Processing; durable on return.
        `entry` says who hands it in. Raises LimitReached for one too many.

        With an idempotency key that its user has sent before: the job that has it, as it is now, if its
        fingerprint is the same (it has another `storage_key` then); IdempotencyConflict if not. Raises
        LedgerError also when the ids are used up.
        """
        store = partial(self._insert, job, entry, limits or Limits())
        return await (store() if self.ids is None else self.ids.give(store))

    async def _insert(self, job: NewJob, entry: AuditEntry | None, limits: Limits) -> Job:
        stored = await self._write(partial(_insert, job, entry, limits), size=len(job.files or b""))
        if stored.storage_key != job.storage_key:
            return stored
        self.queries.note_details(stored.id, job.details)
        return stored

    async def record(self, changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
        """Apply each change by itself, in order; durable on return, but for what a node would tell again. A
        later change sees the earlier ones. When this raises LedgerError, none of them was applied."""
        if not changes:
            await trio.lowlevel.checkpoint()
            return []
        urgent, size, soft = _weigh(changes)
        answers = await self._write(partial(_record, tuple(changes)), urgent=urgent, size=size, soft=soft)
        for answer in answers:
            job = answer.job
            if job is not None and job.status is Status.CLEANED and answer.outcome is ChangeResult.DONE:
                self._recent_files.drop((job.storage_key, "input"))
                self._recent_files.drop((job.storage_key, "result"))
        return answers

    async def request_terminate(self, job_id: int, entry: AuditEntry | None = None) -> Job | None:
        return await self._write(partial(_request_terminate, job_id, entry), urgent=True)

    async def order_batch(self, new: NewBatch, entry: AuditEntry | None = None) -> BatchView:
        """Have one callback tell once all of these jobs have ended: at once if they have. `entry` says who
        orders it. See `batch_orders.order_batch`."""

        def order(batch: LedgerBatch) -> BatchView:
            stored = order_batch(batch.db, new, batch.now)
            if entry is not None and stored.id == new.id:
                audit.store_entries(batch.db, [entry], batch.now)
            return stored

        return await self._write(order)

    async def purge(self, before: float, limit: int) -> int:
        """Forget up to `limit` jobs that are Cleaned, ended before `before` and are owed nothing, with their
        history, attempts and callbacks, and as many batches; how many, of what was more. What they used stays
        counted."""
        return await self._write(lambda batch: purging.purge(batch.db, before, limit), urgent=True)

    async def forget_audit(self, before: float, limit: int) -> int:
        return await self._write(lambda batch: audit.forget(batch.db, before, limit), urgent=True)

    async def note_orders(self, entries: Sequence[AuditEntry]) -> None:
        """Keep who did what, where it is no part of another change."""
        await self._write(lambda batch: audit.store_entries(batch.db, entries, batch.now))

    async def jump_ids(self, to: int) -> None:
        """Make the next job's id at least `to`; ids never go back. The numbers of changes jump along, so that
        who remembers one from before a restored backup does not take old news for new."""
        if to > MAX_ID:
            raise LedgerError(f"job ids end at {MAX_ID}")
        await self._write(partial(_jump_ids, to))

    async def reserve_ids(self, upto: int) -> None:
        """Keep that ids may be given up to this one."""
        await self._write(lambda batch: meta.store_reserved_ids(batch.db, upto))

    async def upsert_node(self, node: JoinedNode, entry: AuditEntry | None = None) -> None:
        """Store a node that joined, or what is new about it."""
        await self._write_order(entry, lambda batch: nodes.store_node(batch.db, node))

    async def remove_node(self, node_id: str, entry: AuditEntry | None = None) -> bool:
        """Forget a node that joined. False if there was none."""
        return await self._write_order(entry, lambda batch: nodes.remove_node(batch.db, node_id))

    async def order_drain(self, node_id: str, reason: str | None, entry: AuditEntry | None = None) -> None:
        """Keep the order that a node gets no more jobs, and why; None lifts it."""
        await self._write_order(entry, lambda batch: nodes.store_drain(batch.db, node_id, reason))

    async def store_node_names(self, names: Iterable[NodeName], gone: Iterable[str]) -> None:
        """Keep how nodes are called, and forget it of those that are gone."""
        await self._write(lambda batch: nodes.store_names(batch.db, names, gone))

    async def note_absence(self, node_id: str, reason: str | None) -> None:
        await self._write(lambda batch: nodes.store_absence(batch.db, node_id, reason))

    async def put_machine(self, record: MachineRecord) -> None:
        await self._write(lambda batch: machines.store_machine(batch.db, record))
        for tell in self.on_machine:
            tell(record)

    async def note_decision(self, decision: DecisionRecord) -> None:
        await self._write(lambda batch: machines.store_decision(batch.db, decision))

    async def record_delivery(self, tried: DeliveryOutcome) -> None:
        await self._write(lambda batch: callbacks.store_delivery(batch.db, tried, batch.now))

    async def put_token(self, token: TokenRecord, entry: AuditEntry | None = None) -> None:
        await self._write_order(entry, lambda batch: tokens.store_token(batch.db, token))

    async def revoke_token(self, token_id: str, entry: AuditEntry | None = None) -> bool:
        """False if there is none, or if it was revoked before."""
        return await self._write_order(
            entry, lambda batch: tokens.revoke_token(batch.db, token_id, batch.now)
        )

    async def note_uses(self, used: Mapping[str, float]) -> None:
        """When tokens were used last, by id."""
        await self._write(lambda batch: tokens.store_uses(batch.db, used), soft=True)

    async def put_session(
        self, session: SessionRecord, ended: Sequence[str] = (), entry: AuditEntry | None = None
    ) -> None:
        """Store a new session, and forget others by their hashes."""

        def put(batch: LedgerBatch) -> None:
            sessions.remove_sessions(batch.db, ended)
            sessions.store_session(batch.db, session)

        await self._write_order(entry, put)

    async def remove_sessions(self, hashes: Sequence[str]) -> None:
        await self._write(lambda batch: sessions.remove_sessions(batch.db, hashes))

    async def note_claim(self, token: TokenRecord) -> None:
        """Keep which node has a one-time token."""
        await self._write(lambda batch: tokens.store_claim(batch.db, token))

    async def put_node_secret(self, secret: NodeSecret) -> None:
        await self._write(lambda batch: tokens.store_node_secret(batch.db, secret))

    async def remove_node_secret(self, node_id: str, entry: AuditEntry | None = None) -> bool:
        """False if there was none."""
        return await self._write_order(entry, lambda batch: tokens.remove_node_secret(batch.db, node_id))

    async def order_pause(
        self, service: str, reason: str | None, now: float, entry: AuditEntry | None = None
    ) -> None:
        """Keep the order that no job of a service goes, and why; None lifts it. One that is paused already
        keeps its time."""
        await self._write_order(entry, lambda batch: pauses.store_pause(batch.db, service, reason, now))

    def is_well(self) -> bool:
        """Whether the writer's last turn went well less than `CHECKED` seconds ago."""
        return self._writer.went_well(CHECKED)

    async def check(self) -> None:
        """Whether the ledger can be written: unless it `is_well` an empty turn of the writer tells, which
        waits behind a commit that hangs, so give it a deadline. Raises LedgerError."""
        if not self.is_well():
            await self._write(lambda batch: None, soft=True)

    # ------------------------------------------------------------------ reading

    async def changes(self, after: int, limit: int = 500) -> Sequence[Job]:
        return await self._read(lambda db: jobs.read_changed(db, after, limit=limit))

    async def live(self, *, queued: bool = False) -> LiveJobs:
        def read(db: sqlite3.Connection) -> LiveJobs:
            with snapshot(db):
                return LiveJobs(jobs.read_live(db), jobs.read_queued(db) if queued else (), meta.read_seq(db))

        return await self._read(read)

    async def unreleased(self) -> Sequence[Attempt]:
        return await self._read(attempts.read_unreleased)

    async def attempt_states(self, keys: Sequence[str]) -> Mapping[str, AttemptState]:
        return await self._read(lambda db: attempts.read_states(db, keys))

    async def get(self, job_id: int) -> Job | None:
        if (row := self._recent.get(job_id)) is not None:
            return row
        return await self._recent.read(job_id, lambda: self._read(lambda db: jobs.read_job(db, job_id)))

    async def history(self, job_id: int) -> Sequence[HistoryEntry]:
        return await self._read(lambda db: history.read_history(db, job_id))

    async def attempts(self, job_id: int) -> Sequence[Attempt]:
        return await self._read(lambda db: attempts.read_attempts(db, job_id))

    async def ended_before(
        self, wall: float, limit: int = 100, after: tuple[float, int] | None = None
    ) -> Sequence[Job]:
        return await self._read(lambda db: jobs.read_ended(db, wall, limit, after))

    async def unknown_directories(self, storage_keys: Sequence[str]) -> Sequence[str]:
        return await self._read(lambda db: jobs.read_unknown_directories(db, storage_keys))

    async def max_id(self) -> int:
        """The largest id that was ever given; 0 if none was."""
        return await self._read(jobs.read_last_id)

    async def reserved_ids(self) -> int:
        """What `reserve_ids` was told last; 0 if nothing was."""
        return await self._read(meta.read_reserved_ids)

    async def small_files(self, storage_key: str, part: Part) -> bytes | None:
        """What `NewJob.files`, or `Transition.results`, was; None if there was none, or if it was cleaned."""
        if (kept := self._recent_files.get((storage_key, part))) is not None:
            return kept
        return await self._read(lambda db: small_files.read_files(db, storage_key, part))

    async def nodes(self) -> Sequence[JoinedNode]:
        return await self._read(nodes.read_nodes)

    async def drains(self) -> Mapping[str, str]:
        """Nodes that get no more jobs, by id, and why."""
        return await self._read(nodes.read_drains)

    async def node_names(self) -> Sequence[NodeName]:
        return await self._read(nodes.read_names)

    async def absences(self) -> Mapping[str, str]:
        return await self._read(nodes.read_absences)

    async def machines(self) -> Sequence[MachineRecord]:
        return await self._read(machines.read_machines)

    async def decisions(self, service: str | None = None, limit: int = 100) -> Sequence[DecisionRecord]:
        return await self._read(lambda db: machines.read_decisions(db, service, limit))

    async def pending_callbacks(self, after: int, limit: int = 500) -> Sequence[Callback]:
        return await self._read(lambda db: callbacks.read_pending(db, after, limit))

    async def tokens(self) -> Sequence[TokenRecord]:
        """Those that were not revoked."""
        return await self._read(tokens.read_tokens)

    async def node_secrets(self) -> Sequence[NodeSecret]:
        return await self._read(tokens.read_node_secrets)

    async def portal_token_made(self) -> bool:
        """Whether a token of the role portal was ever made, whatever became of it."""
        return await self._read(tokens.read_portal_made)

    async def sessions(self) -> Sequence[SessionRecord]:
        """Also those that have ended."""
        return await self._read(sessions.read_sessions)

    async def pauses(self) -> Mapping[str, tuple[str, float]]:
        """Paused services: why, and since when."""
        return await self._read(pauses.read_pauses)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await run_on_ledger(self._reader, work)
        except LedgerDamaged as damage:
            self._note_damage(damage)
            raise

    async def _write(
        self, work: Callable[[LedgerBatch], T], *, urgent: bool = False, size: int = 0, soft: bool = False
    ) -> T:
        try:
            return await self._writer.write(work, urgent=urgent, size=size, soft=soft)
        except LedgerDamaged as damage:
            self._note_damage(damage)
            raise

    async def _write_order(self, entry: AuditEntry | None, work: Callable[[LedgerBatch], T]) -> T:
        """Along with who ordered it, unless nothing was there to order."""

        def write(batch: LedgerBatch) -> T:
            done = work(batch)
            if entry is not None and done is not False:
                audit.store_entries(batch.db, [entry], batch.now)
            return done

        return await self._write(write)

    def _note_damage(self, damage: LedgerDamaged) -> None:
        """Nobody works on with a file of which a part is wrong: `run` ends by it."""
        self._damage = LedgerDamaged(f"{self._path}: {damage}")
        self._damaged.set()


def _cut_log(db: sqlite3.Connection) -> bool:
    try:
        return wal.cut(db)
    except sqlite3.Error as error:
        if is_failed_sync(error):
            _end_at_once(error)
        raise


def _end_at_once(error: Exception) -> NoReturn:
    log.critical(
        "the ledger could not be synced (%s): this process ends, as it cannot know what is kept; look at the "
        "kernel's log, then start it again",
        error,
    )
    logging.shutdown()
    os._exit(os.EX_IOERR)


# ---------------------------------------------------------------------- what runs in the thread


def _insert(job: NewJob, entry: AuditEntry | None, limits: Limits, batch: LedgerBatch) -> Job:
    db, now, seq = batch.db, batch.now, batch.seq + 1
    key = job.idempotency_key
    if key is not None and (found := jobs.read_idempotent(db, job.user_id, key)) is not None:
        if found[1] != job.fingerprint:
            raise IdempotencyConflict(f"job {found[0].id}")
        return found[0]
    if limits.of_jobs:
        require_room(db, limits, user=job.user_id, service=job.service, size=job.size)
    job_id = jobs.insert_job(db, job, message=rules.UPLOADED, seq=seq, now=now)
    if job_id > MAX_ID:
        raise LedgerError(f"the job ids are used up: they end at {MAX_ID}; start a new ledger")
    if entry is not None:
        audit.store_entries(db, [entry], now, job=job_id)
    row = _note(batch, rules.new_job(job, job_id=job_id, seq=seq, now=now))
    if job.files is not None:
        small_files.store_files(db, job_id, "input", job.files)
        batch.files.append((row, "input", job.files))
    if job.first is not None:
        row = _change(job.first.begin(job_id), batch).job or row
    batch.store_lines()
    return row


def _weigh(changes: Sequence[Change]) -> tuple[bool, int, bool]:
    """Whether they are urgent, the bytes of files that they bring, and whether they may be committed softly.
    What begins, brings files, or only tells something can wait for room; what ends otherwise makes some, or
    frees a node."""
    size, can_wait, only_tells, soft = 0, False, True, True
    for change in changes:
        soft = soft and rules.is_told_again(change)
        match change:
            case SetMessage() | SetProgress():
                continue
            case Transition(attempt=attempt, results=results) if attempt is not None or results is not None:
                can_wait = True
                size += len(results or b"")
        only_tells = False
    return not can_wait and not only_tells, size, soft


def _record(changes: Sequence[Change], batch: LedgerBatch) -> list[ChangeAnswer]:
    answers = [_change(change, batch) for change in changes]
    batch.store_lines()
    return answers


def _change(change: Change, batch: LedgerBatch) -> ChangeAnswer:
    db, now, seq = batch.db, batch.now, batch.seq + 1
    if isinstance(change, MoveAttempt):
        attempt = rules.move_attempt(batch.attempt(change.key, change.job_id), change)
        if isinstance(attempt, ChangeResult):
            return ChangeAnswer(attempt)
        attempts.update_attempt(db, attempt, now)
        batch.move(attempt)
        return ChangeAnswer(ChangeResult.DONE)
    job = batch.row(change.job_id)
    results: bytes | None = None
    step: rules.AppliedChange | ChangeResult
    match change:
        case Transition():
            results = change.results
            step = rules.move(job, change, seq=seq, now=now)
        case RecordEnd():
            step = rules.record_end(job, change, seq=seq, now=now)
        case SetMessage():
            step = rules.set_message(job, change, seq=seq, now=now)
        case SetProgress():
            step = rules.set_progress(job, change, seq=seq, now=now)
    if isinstance(step, ChangeResult):
        return ChangeAnswer(step, job)
    # Whether one is open already the table finds out by itself.
    if step.new_attempt is not None and not attempts.insert_attempt(db, step.new_attempt, now):
        return ChangeAnswer(ChangeResult.REFUSED, job)
    if results is not None:
        small_files.store_files(db, change.job_id, "result", results)
        batch.files.append((step.job, "result", results))
    if step.job.status is Status.CLEANED:
        small_files.remove_files(db, change.job_id)
    return ChangeAnswer(ChangeResult.DONE, _store(batch, step, job))


def _request_terminate(job_id: int, entry: AuditEntry | None, batch: LedgerBatch) -> Job | None:
    job = batch.row(job_id)
    if job is None:
        return None
    step = rules.request_terminate(job, seq=batch.seq + 1, now=batch.now)
    if step is None:
        return job
    if entry is not None:
        audit.store_entries(batch.db, [entry], batch.now)
    row = _store(batch, step, job)
    batch.store_lines()
    return row


def _store(batch: LedgerBatch, step: rules.AppliedChange, before: Job | None) -> Job:
    db, now = batch.db, batch.now
    if step.changed_attempt is not None:
        attempts.update_attempt(db, step.changed_attempt, now)
    jobs.update_job(db, step.job, before)
    return _note(batch, step)


def _note(batch: LedgerBatch, step: rules.AppliedChange) -> Job:
    """The job's row is stored: what goes with it."""
    if step.history is not None:
        batch.lines.append((step.history, step.job.change_seq))
    batch.seq = step.job.change_seq
    batch.changed.append(step.job)
    batch.rows[step.job.id] = step.job
    return step.job


def _jump_ids(to: int, batch: LedgerBatch) -> None:
    db = batch.db
    last = jobs.read_last_id(db)
    if to - 1 <= last:
        return
    jobs.store_last_id(db, to - 1)
    batch.seq += to - 1 - last
