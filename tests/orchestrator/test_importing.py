"""What job-orchestrator 2.x left is taken over once, whole, and stays as it was."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.data.ledgers import new_job, open_ledger
from support.data.power_cuts import PowerCut, power_for
from support.data.rust_program import RustProgram

from actors.domain.job import Job
from actors.domain.node import NodeAddress
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from orchestrator import importing
from orchestrator.backups.check import check
from orchestrator.config.settings import Settings
from orchestrator.errors import StartError
from orchestrator.importing import answer_probes, import_2x, is_needed, is_of_2x, ledger_of
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.usage import UsageFilter

INPUT = {"run.sh": b"echo hello", "data.txt": b"x" * 5000}
SUBMIT = "http://node:9000/submit"


def settings_of(old: RustProgram) -> Settings:
    limits = ServiceLimits("example", addresses=(NodeAddress("", ("example",), upload_url=SUBMIT),))
    return Settings(db_path=old.db, data_path=old.data, services={"example": limits})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on what a disk does, and all of the machine's are asked."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def old(tmp_path: Path) -> RustProgram:
    """A job in each state that the program has."""
    made = RustProgram(tmp_path)
    for status in ("queued", "processing", "unknown", "failed", "invalid", "killed", "cleaned"):
        made.add(status, INPUT)
    for number, status in enumerate(("submitted", "prepared", "running", "locked"), 11):
        made.add(status, INPUT, node_number=number)
    made.add("completed", INPUT, node_number=20, output={"out.txt": b"done"}, user=8)
    return made


async def job(ledger: SqliteLedger, number: int) -> Job:
    found = await ledger.get(number)
    assert found is not None
    return found


def imported(old: RustProgram) -> Path:
    assert is_of_2x(old.db) and is_needed(old.db)
    import_2x(settings_of(old))
    assert not is_needed(old.db)
    return ledger_of(old.db)


def wrong(old: RustProgram) -> list[str]:
    return [one.text for one in check(ledger_of(old.db), old.data, lambda line: None, contents=True)]


async def test_each_job_is_taken_over_as_what_it_is(
    old: RustProgram, caplog: pytest.LogCaptureFixture
) -> None:
    before = old.state()
    path = imported(old)
    (line,) = (one.getMessage() for one in caplog.records if ": imported (" in one.getMessage())
    assert "1 processing -> Failed, 1 queued -> Queued, 1 running -> Submitted" in line
    assert old.state() == before
    assert wrong(old) == []
    async with open_ledger(path) as ledger:
        for status in ("failed", "invalid", "killed", "cleaned", "queued", "completed"):
            assert (await job(ledger, old.ids[status])).status is Status(status.capitalize())
        for status in ("processing", "unknown"):
            found = await job(ledger, old.ids[status])
            assert found.status is Status.FAILED and "run it again" in found.message
        for number, status in enumerate(("submitted", "prepared", "running", "locked"), 11):
            found = await job(ledger, old.ids[status])
            assert found.status is Status.SUBMITTED and found.attempt is not None
            assert (found.attempt.foreign_id, found.attempt.node_id) == (number, SUBMIT)
        done = await job(ledger, old.ids["completed"])
        assert done.user_id == 8 and done.size == 5010 and done.ended_at is not None
        stored = old.data / "jobs" / done.storage_key[:2] / done.storage_key
        (output,) = old.data.glob("*/output.zip")
        assert (stored / "result/result.zip").read_bytes() == output.read_bytes()
        assert {path.name for path in (stored / "input").iterdir()} == {"run.sh", "data.txt"}
        assert await ledger.max_id() == 12
        assert len(await ledger.history(old.ids["queued"])) == 1
        assert [line.target for line in await ledger.history(done.id)] == [Status.QUEUED, Status.COMPLETED]
        used = await ledger.queries.usage(UsageFilter())
        ends = [(one.completed, one.failed, one.invalid, one.killed) for one in used]
        # Of one that 2.x had cleaned it is not known how it ended.
        assert tuple(map(sum, zip(*ends, strict=True))) == (1, 3, 1, 1) and sum(one.jobs for one in used) == 7


async def test_numbers_of_changes_and_ids_go_on_behind(old: RustProgram) -> None:
    with closing(sqlite3.connect(old.db)) as db, db:
        db.execute("DELETE FROM jobs WHERE id = 12")  # ids that were given are not given again
    async with open_ledger(imported(old)) as ledger:
        newest = max([(await job(ledger, number)).change_seq for number in range(1, 12)])
        new = await ledger.insert(new_job(storage_key="f" * 32))
        assert new.id == 13 and new.change_seq > newest


async def test_what_is_gone_is_told(tmp_path: Path) -> None:
    old = RustProgram(tmp_path)
    queued, done, damaged = old.add("queued"), old.add("completed"), old.add("completed", INPUT)
    on_node = old.add("running", INPUT)
    elsewhere = old.add("running", INPUT, node_number=3, service="other")
    async with open_ledger(imported(old)) as ledger:
        found = [await job(ledger, number) for number in (queued, done, damaged, on_node, elsewhere)]
    assert [one.status for one in found] == [
        *(Status.FAILED, Status.CLEANED, Status.CLEANED),
        *(Status.FAILED, Status.FAILED),
    ]
    assert ["gone" in one.message for one in found] == [True, True, True, False, False]
    assert all("not known here" in one.message for one in found[3:])


async def test_files_are_found_where_the_data_directory_is_now(tmp_path: Path) -> None:
    """As in the database of a container that had it elsewhere, or of one that was started elsewhere."""
    old = RustProgram(tmp_path)
    numbers = [old.add("queued", INPUT, place=place) for place in ("/opt/data/{}", "./data/{}")]
    async with open_ledger(imported(old)) as ledger:
        assert [(await job(ledger, one)).status for one in numbers] == [Status.QUEUED] * 2
    assert wrong(old) == []


async def test_a_database_whose_writer_was_killed_is_read_as_it_would_read_it(tmp_path: Path) -> None:
    old = RustProgram(tmp_path / "old")
    old.add("queued", INPUT)
    with closing(sqlite3.connect(old.db, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN IMMEDIATE")
        for _ in range(2000):  # more than is kept in memory: pages are written before the commit
            db.execute(
                "INSERT INTO jobs (user_id, service, status, loc) VALUES (1, 'example', 'queued', ?)",
                ("x" * 200,),
            )
        assert old.journal
        copied = RustProgram(tmp_path / "killed", old.ids)
        shutil.copytree(old.root, copied.root)
    before = copied.state()
    async with open_ledger(imported(copied)) as ledger:
        assert await ledger.max_id() == 1
    assert copied.state() == before and copied.journal


STEPS = ("link", "replace", "mkdir", "unlink", "sync")


async def test_an_import_that_is_cut_off_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = 0
    while True:
        old = RustProgram(tmp_path / str(cut))
        for _ in range(2):
            old.add("completed", INPUT, output={"out": b"1"})
        before = old.state()
        try:
            with power_for(cut, STEPS, monkeypatch):
                import_2x(settings_of(old))
            break
        except PowerCut:
            assert old.state() == before
        if is_needed(old.db):
            import_2x(settings_of(old))
        assert wrong(old) == [] and old.state() == before
        async with open_ledger(ledger_of(old.db)) as ledger:
            assert await ledger.max_id() == 2
        cut += 1
    assert cut > 15


async def test_a_disk_that_is_full_is_told_and_leaves_nothing(
    old: RustProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(importing.Disk, "link", full)
    with pytest.raises(StartError, match="somewhere: No space left"):
        import_2x(settings_of(old))
    assert is_needed(old.db)


async def test_it_is_done_once_and_2x_may_not_have_gone_on(old: RustProgram) -> None:
    path = imported(old)
    size = path.stat().st_size
    assert not is_needed(old.db) and ledger_of(old.db) == path and path.stat().st_size == size
    old.add("queued", INPUT)
    with pytest.raises(StartError, match=r"up to 12, and it has come to 13"):
        is_needed(old.db)


async def test_no_other_database_is_taken_for_one_of_2x(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ours.sqlite"):
        pass
    (tmp_path / "text.sqlite").write_text("no database " * 100)
    (tmp_path / "empty.sqlite").touch()
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db, db:
        db.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, name TEXT)")
    for name in ("ours", "text", "empty", "other", "missing"):
        path = tmp_path / f"{name}.sqlite"
        assert not is_of_2x(path) and not is_needed(path) and ledger_of(path) == path


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/", 200), ("/download/1", 503)])
async def test_probes_are_answered_meanwhile(path: str, status: int) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await answer_probes({"type": "http", "path": path}, None, send)
    assert sent[0]["status"] == status and sent[1]["body"].startswith(b"{")
