"""What only the ledger on disk has: commits, cancellation, crashes, other people's files, and its queries."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support.data.killed_inserter import insert_until_killed
from support.data.ledgers import SetClock, by_owner, list_jobs, new_attempt, new_job, open_ledger, walk

from actors.domain.changes import ChangeResult, MoveAttempt, RecordEnd, SetMessage, SetProgress
from actors.domain.ids import MAX_ID
from actors.domain.job import AttemptState, End, Job, LiveJobs
from actors.domain.node import JoinedNode
from actors.domain.status import Status
from actors.ports.ledger import LedgerError
from actors.store.sqlite_thread import run_on_connection
from orchestrator.ledger import schema
from orchestrator.ledger.batch import CHANGES
from orchestrator.ledger.ledger import CHECKED, JobDetails, LedgerFull, SqliteLedger
from orchestrator.ledger.schema import SCHEMA

S = Status


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # Characters that would mean something in a URI.
    return tmp_path / "led#ger?mode=ro%20.db"


def ids(path: Path) -> list[int]:
    """What another process would see."""
    other = sqlite3.connect(path)
    try:
        return [job_id for (job_id,) in other.execute("SELECT id FROM jobs ORDER BY id")]
    finally:
        other.close()


def content(path: Path) -> bytes:
    return path.read_bytes()


def hold_lock(path: Path) -> sqlite3.Connection:
    """A second writer: until it rolls back, the ledger's next commit stands still in its thread."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def idle(ledger: SqliteLedger) -> bool:
    return not ledger._connection._real_connection.in_transaction


async def pragma(ledger: SqliteLedger, statement: str) -> Any:
    return await run_on_connection(
        ledger._connection, lambda db: db.execute(f"PRAGMA {statement}").fetchone()
    )


# ---------------------------------------------------------------------- opening


async def test_a_ledger_keeps_its_jobs_and_its_owner_across_restarts(path: Path) -> None:
    async with open_ledger(path) as ledger:
        owner = ledger.owner
        job = await walk(ledger, await ledger.insert(new_job()), S.PROCESSING, S.SUBMITTED)
        assert await pragma(ledger, "journal_mode") == ("wal",)
        assert await pragma(ledger, "foreign_keys") == (1,)
        assert await pragma(ledger, "user_version") == (SCHEMA,)
    assert len(owner) == 32
    assert int(owner, 16) > 0
    async with open_ledger(path) as ledger:
        assert ledger.owner == owner
        assert await ledger.live() == LiveJobs([job], (), job.change_seq)
        # Others may have been told, and taken back by a power cut.
        assert (await ledger.insert(new_job())).change_seq > job.change_seq + CHANGES // 2


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    async with open_ledger(path):
        pass
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    other.close()
    before = content(path)
    with pytest.raises(LedgerError, match="written by a newer version"):
        await SqliteLedger.open(str(path), clock=SetClock())
    assert content(path) == before


async def test_a_creation_that_fails_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "TABLES", (*schema.TABLES, "CREATE TABLE jobs (once_more)"))
    with pytest.raises(LedgerError, match="table jobs already exists"):
        await SqliteLedger.open(str(path), clock=SetClock())
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == []
    monkeypatch.undo()
    async with open_ledger(path) as ledger:
        assert (await ledger.insert(new_job())).id == 1


async def test_a_creation_that_was_cut_off_is_begun_anew(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    # The journal of the first write to an empty file: of no pages, none are kept.
    header = struct.pack(">8s5I", bytes.fromhex("d9d505f920a163d7"), 0, 1, 0, 512, 4096)
    journal = path.with_name(f"{path.name}-journal")
    journal.write_bytes(header.ljust(512, b"\0"))
    async with open_ledger(path) as ledger:
        assert (await ledger.insert(new_job())).id == 1
    assert not journal.exists()


async def test_a_journal_beside_a_ledger_that_holds_anything_changes_nothing_of_it(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.insert(new_job())
    before = content(path)
    header = struct.pack(">8s5I", bytes.fromhex("d9d505f920a163d7"), 0, 1, 0, 512, 4096)
    path.with_name(f"{path.name}-journal").write_bytes(header.ljust(512, b"\0"))
    with pytest.raises(LedgerError):
        await SqliteLedger.open(str(path), clock=SetClock())
    assert content(path) == before


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (
            "CREATE TABLE jobs (id, user_id, service, status, loc, dest_id, created_at)",
            "written by job-orchestrator 2.x",
        ),
        ("CREATE TABLE jobs (id, user_id, service)", "(no created_at, dest_id, loc, status)"),
        ("CREATE TABLE recipes (id INTEGER)", "not a job ledger"),
    ],
)
async def test_a_database_of_somebody_else_is_refused_and_left_alone(
    path: Path, table: str, reason: str
) -> None:
    other = sqlite3.connect(path)
    other.execute(table)
    other.close()
    before = content(path)
    with pytest.raises(LedgerError, match=reason):
        await SqliteLedger.open(str(path), clock=SetClock())
    assert content(path) == before


async def test_a_file_that_is_no_database_and_a_directory_that_is_not_there_are_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"no database at all" * 100)
    with pytest.raises(LedgerError, match=r"junk\.db: the ledger is damaged"):
        await SqliteLedger.open(str(junk), clock=SetClock())
    with pytest.raises(LedgerError, match=r"gone/l\.db: the ledger cannot be written"):
        await SqliteLedger.open(str(tmp_path / "gone" / "l.db"), clock=SetClock())


async def test_opening_that_is_cancelled_leaves_a_ledger_or_none(path: Path) -> None:
    for ticks in range(12):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_after, nursery.cancel_scope, ticks)
            ledger = await SqliteLedger.open(str(path), clock=SetClock())
            await ledger.aclose()
            nursery.cancel_scope.cancel()
    async with open_ledger(path) as ledger:
        assert (await ledger.insert(new_job())).id == 1


async def _cancel_after(scope: trio.CancelScope, ticks: int) -> None:
    for _ in range(ticks):
        await trio.lowlevel.checkpoint()
    scope.cancel()


# ---------------------------------------------------------------------- group commit


async def test_what_piles_up_during_a_commit_goes_into_the_next_one(path: Path) -> None:
    commits: list[str] = []
    async with open_ledger(path, trace=commits.append) as ledger:
        lock = hold_lock(path)
        got: list[int] = []

        async def insert() -> None:
            got.append((await ledger.insert(new_job())).id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(insert)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(20):
                nursery.start_soon(insert)
            await trio.testing.wait_all_tasks_blocked()
            assert commits == []
            lock.execute("ROLLBACK")
        lock.close()
        assert sorted(got) == list(range(1, 22))
        assert commits == ["commit"] * 2


async def test_nobody_is_answered_before_the_commit(path: Path) -> None:
    order: list[str] = []
    async with open_ledger(path, trace=order.append) as ledger:
        job = await ledger.insert(new_job())
        order.append("inserted")
        await ledger.record([by_owner(job.id, S.QUEUED, S.FAILED, "why")])
        order.append("recorded")
        await ledger.request_terminate(job.id)
        order.append("ordered")
    assert order == ["commit", "inserted", "commit", "recorded", "commit", "ordered"]


async def test_changed_jobs_are_told_once_durable_and_before_anybody_is_answered(path: Path) -> None:
    order: list[object] = []

    def committed(jobs: Sequence[Job]) -> None:
        order.append([(job.id, job.change_seq) for job in jobs])

    async with open_ledger(path, trace=order.append, committed=committed) as ledger:
        job = await ledger.insert(new_job(idempotency_key="k"))
        order.append("inserted")
        with pytest.raises(LedgerError):
            await ledger.insert(new_job(storage_key=job.storage_key))
        await ledger.insert(new_job(idempotency_key="k"))  # is there already
        end = by_owner(job.id, S.QUEUED, S.FAILED, "why")
        await ledger.record([end, end])  # the second is stale
    assert order == ["commit", [(1, 1)], "inserted", "commit", "commit", "commit", [(1, 2)]]


async def test_an_item_that_fails_harms_no_other_of_its_batch(path: Path) -> None:
    async with open_ledger(path) as ledger:
        lock = hold_lock(path)
        outcomes: dict[str, Any] = {}

        async def insert(name: str, **more: Any) -> None:
            try:
                outcomes[name] = (await ledger.insert(new_job(**more))).change_seq
            except LedgerError as error:
                outcomes[name] = str(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.check)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(insert, "a")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: insert("big", user=2**63))
            nursery.start_soon(lambda: insert("odd", service="\udcff"))
            nursery.start_soon(lambda: insert("twice", storage_key="same"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: insert("again", storage_key="same"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(insert, "z")
            await trio.testing.wait_all_tasks_blocked()
            lock.execute("ROLLBACK")
        lock.close()
        assert "64 bits" in outcomes["big"]
        assert "Unicode" in outcomes["odd"]
        assert "UNIQUE" in outcomes["again"]
        assert [outcomes["a"], outcomes["twice"], outcomes["z"]] == [1, 2, 3]
        assert idle(ledger)
    assert ids(path) == [1, 2, 3]


async def test_changes_that_fail_half_way_leave_no_line_of_the_history(path: Path) -> None:
    async with open_ledger(path) as ledger:
        jobs = [await walk(ledger, await ledger.insert(new_job()), Status.PROCESSING) for _ in range(3)]
        sent = [by_owner(job.id, Status.PROCESSING, Status.SUBMITTED, "sent") for job in jobs]

        async def fail() -> None:
            with pytest.raises(LedgerError, match="64 bits"):
                await ledger.record([sent[0], replace(sent[1], foreign_id=2**63)])

        async with trio.open_nursery() as nursery:  # both in one commit
            nursery.start_soon(fail)
            nursery.start_soon(ledger.record, [sent[2]])
        found = [[entry.target for entry in await ledger.history(job.id)] for job in jobs]
        begun = [Status.QUEUED, Status.PROCESSING]
        assert found == [begun, begun, [*begun, Status.SUBMITTED]]
        assert [job.status for job in await ledger.changes(0)] == [*begun[1:] * 2, Status.SUBMITTED]


async def test_a_job_goes_its_way_without_a_look_into_the_ledger(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.insert(new_job())
        statements: list[str] = []
        await run_on_connection(ledger._connection, lambda db: db.set_trace_callback(statements.append))
        job = await ledger.insert(new_job(files=b"packed"))
        job = await walk(ledger, job, Status.PROCESSING, Status.SUBMITTED, Status.RUNNING, Status.COMPLETED)
        assert job.attempt is not None
        await ledger.record([MoveAttempt(job.attempt.key, AttemptState.RELEASED, job.id)])
        assert any(text.startswith("INSERT INTO history") for text in statements)
        assert [text for text in statements if text.startswith("SELECT")] == []


async def test_a_defect_in_one_item_is_its_own(path: Path) -> None:
    async with open_ledger(path) as ledger:
        with pytest.raises(AttributeError):
            await ledger.record([None])  # type: ignore[list-item]  # the defect
        assert (await ledger.insert(new_job())).id == 1


# ---------------------------------------------------------------------- cancellation


async def test_an_operation_cancelled_at_any_checkpoint_is_wholly_there_or_not_at_all(path: Path) -> None:
    async with open_ledger(path) as ledger:
        job = await ledger.insert(new_job())
        known = [job.id]
        for ticks in range(12):
            done = False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, nursery.cancel_scope, ticks)
                row = await ledger.insert(new_job())
                known.append(row.id)
                done = True
                nursery.cancel_scope.cancel()
            # Somebody else's commit must not bring a half of it along.
            known.append((await ledger.insert(new_job())).id)
            assert idle(ledger)
            assert ids(path) == known, (ticks, done)

        for ticks in range(12):
            job = await walk(ledger, await ledger.insert(new_job()), S.PROCESSING)
            assert job.attempt is not None
            key, answered = job.attempt.key, False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, nursery.cancel_scope, ticks)
                await ledger.record(
                    [
                        by_owner(job.id, S.PROCESSING, S.SUBMITTED, "sent", key=key),
                        RecordEnd(job.id, key, End(S.FAILED, "x")),
                        MoveAttempt(key, AttemptState.OVER),
                    ]
                )
                answered = True
                nursery.cancel_scope.cancel()
            await ledger.check()
            row = await ledger.get(job.id)
            assert row is not None
            assert row.attempt is not None
            seen = (row.status, row.end is not None, row.attempt.state)
            whole = (S.SUBMITTED, True, AttemptState.OVER)
            assert seen == (whole if answered else (S.PROCESSING, False, AttemptState.OPEN))
            assert idle(ledger)


@pytest.mark.parametrize("cancelled", [1, 10, 20])
async def test_cancelled_callers_of_a_batch_take_back_theirs_and_no_other(path: Path, cancelled: int) -> None:
    async with open_ledger(path) as ledger:
        lock = hold_lock(path)
        stored: list[str] = []
        scopes = [trio.CancelScope() for _ in range(20)]

        async def insert(name: str, scope: trio.CancelScope) -> None:
            with scope:
                await ledger.insert(new_job(storage_key=name))
                stored.append(name)

        async with trio.open_nursery() as nursery:
            flying = trio.CancelScope()
            nursery.start_soon(insert, "flying", flying)
            await trio.testing.wait_all_tasks_blocked()
            for number, scope in enumerate(scopes):
                nursery.start_soon(insert, f"key-{number}", scope)
            await trio.testing.wait_all_tasks_blocked()
            for scope in scopes[:cancelled]:
                scope.cancel()
            flying.cancel()
            await trio.testing.wait_all_tasks_blocked()
            lock.execute("ROLLBACK")
        lock.close()
        # The first was in its commit already: it is told what became of it.
        assert sorted(stored) == sorted(["flying", *(f"key-{n}" for n in range(cancelled, 20))])
        assert not flying.cancelled_caught
        assert await ledger.unknown_directories(stored) == []
        assert ids(path) == list(range(1, len(stored) + 1))
        assert idle(ledger)


async def test_stopping_finishes_the_commit_under_way_and_refuses_the_rest(path: Path) -> None:
    ledger = await SqliteLedger.open(str(path), clock=SetClock())
    answers: dict[str, Any] = {}

    async def insert(name: str) -> None:
        try:
            answers[name] = (await ledger.insert(new_job())).id
        except LedgerError as error:
            answers[name] = str(error)

    lock = hold_lock(path)
    stop = trio.CancelScope()

    async def run() -> None:
        with stop:
            await ledger.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(insert, "flying")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(insert, "waiting")
        await trio.testing.wait_all_tasks_blocked()
        stop.cancel()
        await trio.testing.wait_all_tasks_blocked()
        lock.execute("ROLLBACK")
    lock.close()
    await insert("late")
    assert answers["flying"] == 1
    assert "stopped" in answers["waiting"]
    assert "stopped" in answers["late"]
    await ledger.aclose()
    with pytest.raises(LedgerError):
        await ledger.changes(0)
    assert ids(path) == [1]


# ---------------------------------------------------------------------- death and trouble

_INSERTER = """
import sys, trio
from support.data.ledgers import by_owner, new_job, open_ledger
async def main():
    async def insert(ledger):
        while True:
            job = await ledger.insert(new_job())
            print(job.id, job.storage_key, flush=True)
    async with open_ledger(sys.argv[1]) as ledger, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(insert, ledger)
trio.run(main)
"""


async def test_every_acknowledged_job_survives_a_kill(path: Path) -> None:
    acknowledged = await trio.to_thread.run_sync(insert_until_killed, path, _INSERTER, 300)
    assert len(acknowledged) >= 300
    async with open_ledger(path) as ledger:
        for job_id, storage_key in acknowledged.items():
            job = await ledger.get(job_id)
            assert job is not None
            assert job.storage_key == storage_key
            assert len(await ledger.history(job_id)) == 1
        assert await pragma(ledger, "integrity_check") == ("ok",)


async def test_a_full_disk_fails_what_needs_room_and_the_rest_goes_on(path: Path) -> None:
    async with open_ledger(path) as ledger:
        job = await ledger.insert(new_job())
        (pages,) = await pragma(ledger, "page_count")
        await pragma(ledger, f"max_page_count = {pages}")
        with pytest.raises(LedgerFull, match="make room"):
            await ledger.insert(new_job(fingerprint="x" * 100_000))
        lock = hold_lock(path)
        outcomes: list[Any] = []

        async def grow() -> None:
            with pytest.raises(LedgerFull):
                await ledger.insert(new_job(fingerprint="x" * 100_000))
            outcomes.append("full")

        async def terminate() -> None:
            outcomes.append(await ledger.request_terminate(job.id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.check)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(grow)
            nursery.start_soon(terminate)
            await trio.testing.wait_all_tasks_blocked()
            lock.execute("ROLLBACK")
        lock.close()
        assert "full" in outcomes
        row = await ledger.get(job.id)
        assert row in outcomes
        assert row is not None
        assert row.terminate_requested
        assert idle(ledger)
        await pragma(ledger, f"max_page_count = {pages + 1000}")
        assert (await ledger.insert(new_job(fingerprint="x" * 100_000))).id == 2


async def test_a_lock_that_lasts_is_told_and_survived(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await pragma(ledger, "busy_timeout = 10")
        lock = hold_lock(path)
        with pytest.raises(LedgerError, match="locked by another process"):
            await ledger.insert(new_job())
        with pytest.raises(LedgerError, match="locked by another process"):
            await ledger.check()
        assert await ledger.changes(0) == [], "reading goes on"
        lock.execute("ROLLBACK")
        lock.close()
        await ledger.check()
        assert (await ledger.insert(new_job())).id == 1


async def test_a_writer_that_has_just_written_counts_as_able_until_something_fails(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_ledger(path) as ledger:
        await pragma(ledger, "busy_timeout = 0")
        await ledger.insert(new_job())
        lock = hold_lock(path)
        await ledger.check()
        await trio.sleep(CHECKED)
        for _ in range(2):
            with pytest.raises(LedgerError, match="locked by another process"):
                await ledger.check()
        lock.execute("ROLLBACK")
        lock.close()
        await ledger.check()


async def test_a_commit_under_way_says_nothing_against_a_writer_that_has_just_written_until_it_hangs(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_ledger(path) as ledger, trio.open_nursery() as nursery:
        await ledger.insert(new_job())
        await pragma(ledger, "busy_timeout = 60000")
        lock = hold_lock(path)
        nursery.start_soon(ledger.insert, new_job())
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(CHECKED / 2):
            await ledger.check()
        await trio.sleep(CHECKED)
        with trio.move_on_after(60) as waited:
            await ledger.check()
        assert waited.cancelled_caught, "it waits behind the one that hangs"
        lock.execute("ROLLBACK")
        lock.close()


async def test_ids_are_never_reused_and_end_where_32_bits_end(path: Path) -> None:
    async with open_ledger(path) as ledger:
        first = await ledger.insert(new_job())
        await ledger.jump_ids(1000)
        job = await ledger.insert(new_job())
        assert job.id == 1000
        assert job.change_seq > first.change_seq + 900
        await ledger.jump_ids(5)
        assert (await ledger.insert(new_job())).id == 1001
        assert await ledger.max_id() == 1001
        await ledger.jump_ids(MAX_ID)
        assert (await ledger.insert(new_job())).id == MAX_ID == 4294967295
        for _ in range(2):
            with pytest.raises(LedgerError, match="used up"):
                await ledger.insert(new_job())
        with pytest.raises(LedgerError, match="end at"):
            await ledger.jump_ids(MAX_ID + 1)
        assert await ledger.max_id() == MAX_ID
    async with open_ledger(path.with_name("empty.db")) as ledger:
        assert await ledger.max_id() == 0
        await ledger.jump_ids(50)
        assert (await ledger.insert(new_job())).id == 50


# ---------------------------------------------------------------------- what the api asks


async def test_details_are_stored_with_the_job(path: Path) -> None:
    details = JobDetails("run 1", ("a", "ä"), "https://x/cb", {"cores": "4"}, 1, ("run.sh", "d/in.pdb"))
    async with open_ledger(path) as ledger:
        plain = await ledger.insert(new_job())
        job = await ledger.insert(new_job(idempotency_key="k", fingerprint="f", details=details))
        assert (await ledger.queries.details((job.id,)))[job.id] == details
        assert (await ledger.queries.details((plain.id,)))[plain.id] == JobDetails()
        assert await ledger.queries.details((99,)) == {}
        assert await ledger.insert(new_job(idempotency_key="k", fingerprint="f")) == job


async def test_lists_are_newest_first_and_filtered(path: Path) -> None:
    async with open_ledger(path) as ledger:
        jobs = [await ledger.insert(new_job(user=n % 2, service="ab"[n % 3 == 0])) for n in range(8)]
        jobs[5] = await walk(ledger, jobs[5], S.KILLED)
        newest = jobs[::-1]
        assert await list_jobs(ledger) == newest
        assert await list_jobs(ledger, limit=3) == newest[:3]
        assert await list_jobs(ledger, before_id=6, limit=2) == newest[3:5]
        assert await list_jobs(ledger, user=0) == [j for j in newest if j.user_id == 0]
        assert await list_jobs(ledger, service="b") == [j for j in newest if j.service == "b"]
        assert await list_jobs(ledger, status=S.KILLED) == [jobs[5]]
        assert await list_jobs(ledger, user=0, status=S.KILLED) == []
        assert await list_jobs(ledger, user=99) == []


async def test_counts_follow_every_move(path: Path) -> None:
    async with open_ledger(path) as ledger:
        assert await ledger.queries.job_counts() == {}
        jobs = [await ledger.insert(new_job()) for _ in range(3)]
        await ledger.insert(new_job(service="other"))
        await walk(ledger, jobs[0], S.PROCESSING, S.SUBMITTED)
        await walk(ledger, jobs[1], S.KILLED)
        assert await ledger.queries.job_counts() == {
            ("example", S.QUEUED): 1,
            ("example", S.SUBMITTED): 1,
            ("example", S.KILLED): 1,
            ("other", S.QUEUED): 1,
        }


async def test_nodes_that_joined_are_kept_until_removed(path: Path) -> None:
    node = JoinedNode("n1", "http://h:1", ("a", "b"), 4, {"zone": "x"}, "local", 12.5)
    async with open_ledger(path) as ledger:
        await ledger.upsert_node(node)
        await ledger.upsert_node(JoinedNode("n0", "http://h:2", ()))
        await ledger.upsert_node(JoinedNode("n0", "http://h:3", ("a",)))
        assert await ledger.nodes() == [JoinedNode("n0", "http://h:3", ("a",)), node]
    async with open_ledger(path) as ledger:
        assert await ledger.remove_node("n0")
        assert not await ledger.remove_node("n0")
        assert await ledger.nodes() == [node]


async def test_no_query_reads_all_jobs(path: Path) -> None:
    statements: list[str] = []
    async with open_ledger(path) as ledger:
        for connection in (ledger._connection, ledger._reader):
            connection._real_connection.set_trace_callback(statements.append)
        job = await walk(ledger, await ledger.insert(new_job(idempotency_key="k")), S.PROCESSING)
        await ledger.record([by_owner(job.id, S.PROCESSING, S.QUEUED, "x")])
        again = await ledger.get(job.id)
        assert again is not None
        await walk(ledger, again, S.PROCESSING, S.SUBMITTED, S.COMPLETED)
        await ledger.live(queued=True)
        await ledger.request_terminate(1)
        await ledger.changes(0)
        await ledger.unreleased()
        await ledger.history(1)
        await ledger.attempts(1)
        await ledger.ended_before(1.0)
        await ledger.unknown_directories(["a"])
        for more in (
            {},
            {"user": 1},
            {"service": "x"},
            {"status": S.QUEUED},
            {"user": 1, "before_id": 9},
            {"name": "x"},
            {"tag": "x", "before_id": 9},
            {"node": "n", "before_id": 9},
            {"node": "n", "tag": "x"},
            {"search": "x"},
            {"search": "7", "user": 1},
            {"user": 1, "status": S.FAILED},
            {"ended_since": 1.0, "status": S.FAILED},
            {"service": "x", "status": S.FAILED},
        ):
            await list_jobs(ledger, **more)
        await ledger.insert(new_job(idempotency_key="k"))
        await ledger.queries.details((1,))
        await ledger.queries.changes_after(1)
        await ledger.max_id()

        def plans(db: sqlite3.Connection) -> dict[str, str]:
            db.set_trace_callback(None)
            asked = {s for s in statements if s.startswith(("SELECT", "UPDATE"))}
            return {
                s: " | ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {s}")) for s in sorted(asked)
            }

        for statement, plan in (await run_on_connection(ledger._connection, plans)).items():
            newest = "ORDER BY j.id DESC LIMIT" in statement and "WHERE" not in statement
            if newest or "sqlite_sequence" in statement:
                continue
            few = "INDEX attempts_owed" in plan
            assert few or "TEMP B-TREE" not in plan, (statement, plan)
            for scan in ("SCAN jobs", "SCAN j", "SCAN t", "SCAN attempts", "SCAN history"):
                assert (
                    few
                    or scan not in plan
                    or "INDEX jobs_live" in plan
                    or "COVERING INDEX jobs_queued" in plan
                ), (statement, plan)


async def test_an_attempt_key_is_compared_in_the_row_that_is_moved(path: Path) -> None:
    """Two senders of one ledger, as after a split: only one gets the job."""
    async with open_ledger(path) as ledger:
        job = await ledger.insert(new_job())
        got: list[ChangeResult] = []

        async def take() -> None:
            move = by_owner(job.id, S.QUEUED, S.PROCESSING, "goes", attempt=new_attempt(job))
            got.append((await ledger.record([move]))[0].outcome)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(take)
        assert sorted(got) == [ChangeResult.DONE] + [ChangeResult.STALE] * 9
        assert len(await ledger.attempts(job.id)) == 1


async def test_an_order_to_drain_is_kept_until_it_is_lifted(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.order_drain("n1", "new kernel")
        await ledger.order_drain("n1", "new disk")
        await ledger.order_drain("n2", "too warm")
        await ledger.order_drain("n2", None)
        await ledger.order_drain("n3", None)
    async with open_ledger(path) as ledger:
        assert await ledger.drains() == {"n1": "new disk"}


async def test_a_node_keeps_the_token_of_its_machine(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.upsert_node(JoinedNode("n1", "http://h:1", ("a",), machine="ab" * 16))
        assert [node.machine for node in await ledger.nodes()] == ["ab" * 16]


async def test_only_what_makes_room_may_use_the_reserve(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_ledger(path) as ledger:
        job = await walk(ledger, await ledger.insert(new_job()), S.PROCESSING, S.SUBMITTED)
        assert job.attempt is not None
        key = job.attempt.key
        write, asked = ledger._writer.write, []

        def remembered(work: Any, *, urgent: bool, size: int, soft: bool) -> Any:
            asked.append(urgent)
            return write(work, urgent=urgent, size=size, soft=soft)

        monkeypatch.setattr(ledger._writer, "write", remembered)
        word, note = SetProgress(job.id, key, 0.5), SetMessage(job.id, key, "waits")
        end = RecordEnd(job.id, key, End(S.COMPLETED, ""))
        begin = by_owner(job.id, S.QUEUED, S.PROCESSING, "", attempt=new_attempt(job))
        home = by_owner(job.id, S.SUBMITTED, S.COMPLETED, "", results=b"files")
        for batch in ([word], [note, word], [word, end], [end], [begin, end], [home]):
            await ledger.record(batch)
        assert asked == [False, False, True, True, False, False]
