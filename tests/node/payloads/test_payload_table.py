"""The payload table: what it records, what it reloads, and what it never forgets."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from actors.domain.job import End
from actors.domain.node import Tally
from actors.domain.payload import Payload, PayloadMove
from actors.domain.progress import Progress
from actors.domain.status import Status
from node.payloads.operations import Acceptance, AcceptResult, Arrival
from node.payloads.records import DataDirectoryError, Records
from node.payloads.recovery import UNWRITTEN
from node.payloads.rows import Row
from node.payloads.subscriptions import SUBSCRIBER_BUFFER
from node.payloads.table import PayloadTable, open_table, view_of
from node.runs.progress_file import ProgressTail

KEY = "a" * 32
OTHER = "b" * 32


class FixedClock:
    def __init__(self, at: float = 1_000_000.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at


@asynccontextmanager
async def opened(
    data: Path, *, boot: str = "boot-1", intended: frozenset[str] = frozenset()
) -> AsyncIterator[PayloadTable]:
    records = Records(data, boot=boot)
    try:
        async with open_table(records, FixedClock(), intended=intended.__contains__) as table:
            yield table
    finally:
        records.close()


async def accept(
    table: PayloadTable, data: Path, key: str = KEY, owner: str = "o", request: str = ""
) -> Acceptance:
    directory = data / "incoming" / key
    (directory / "work").mkdir(parents=True)
    arrival = Arrival(key, directory, job_id=7, service="x", owner=owner, request_id=request)
    (accepted,) = await table.accept([arrival])
    return accepted


def status_on_disk(data: Path, key: str) -> str:
    status = json.loads((data / "payloads" / key / "record.json").read_text())["status"]
    assert isinstance(status, str)
    return status


async def running(table: PayloadTable, key: str = KEY) -> None:
    (done,) = await table.record([PayloadMove(key, Status.PREPARED, Status.RUNNING, pid=12, started_at=5.0)])
    assert done


async def killed(table: PayloadTable, key: str = KEY) -> None:
    end = End(Status.KILLED, "terminated", ended_at=6.0)
    (done,) = await table.record([PayloadMove(key, Status.PREPARED, Status.KILLED, end=end)])
    assert done


async def ended(table: PayloadTable, key: str = KEY) -> None:
    end = End(Status.COMPLETED, "", exit_code=0, ended_at=6.0)
    (done,) = await table.record([PayloadMove(key, Status.RUNNING, Status.COMPLETED, end=end)])
    assert done


async def test_an_accepted_payload_is_prepared_and_has_its_record_beside_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        accepted = await accept(table, tmp_path)
        assert accepted.result is AcceptResult.ACCEPTED
        assert accepted.payload is not None and accepted.payload.status is Status.PREPARED
        record = json.loads((tmp_path / "payloads" / KEY / "record.json").read_text())
        assert record["status"] == "Prepared"
        assert (tmp_path / "payloads" / KEY / "work").is_dir()


async def test_the_same_key_again_is_known_with_its_state_now(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await running(table)
        again = await accept(table, tmp_path)
        assert again.result is AcceptResult.KNOWN
        assert again.payload is not None and again.payload.status is Status.RUNNING
        assert (tmp_path / "incoming" / KEY).is_dir()


async def test_a_move_from_a_state_that_was_left_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await running(table)
        end = End(Status.KILLED, "terminated")
        assert await table.record([PayloadMove(KEY, Status.PREPARED, Status.KILLED, end=end)]) == [False]
        payload = table.get(KEY)
        assert payload is not None and payload.status is Status.RUNNING


async def test_a_move_that_the_table_does_not_hold_is_a_defect(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        with pytest.raises(ValueError, match="Prepared to Queued"):
            await table.record([PayloadMove(KEY, Status.PREPARED, Status.QUEUED)])


async def test_a_restarted_node_finds_running_and_ended_payloads_as_they_were(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        first = table.incarnation, table.node_id
        for key in (KEY, OTHER):
            await accept(table, tmp_path, key)
            await running(table, key)
        await ended(table, OTHER)
    # Since when it runs is said by the executor's marks.
    async with opened(tmp_path, intended=frozenset({KEY})) as table:
        payloads, _ = await table.all()
        assert [(p.key, p.status, p.pid) for p in payloads] == [
            (KEY, Status.RUNNING, 0),
            (OTHER, Status.COMPLETED, 12),
        ]
        assert payloads[1].end is not None and payloads[1].end.exit_code == 0
        assert table.node_id == first[1] and table.incarnation != first[0]


async def test_each_line_on_an_attempt_names_the_request_that_handed_its_job_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over restarts, when each is said anew; where nobody has told it, none."""
    caplog.set_level("DEBUG", "node.jobs")
    async with opened(tmp_path) as table:
        await accept(table, tmp_path, KEY, request="r-1")
        await accept(table, tmp_path, OTHER)
    async with opened(tmp_path) as table:
        await running(table)
        await ended(table)
        await running(table, OTHER)
    of_attempts = [vars(record) for record in caplog.records]
    told = [(line["attempt"], line["status"], line.get("request")) for line in of_attempts]
    assert told == [
        *[(KEY, "Prepared", "r-1"), (OTHER, "Prepared", None)] * 2,
        (KEY, "Running", "r-1"),
        (KEY, "Completed", "r-1"),
        (OTHER, "Running", None),
    ]
    assert {(line["job"], line["service"]) for line in of_attempts} == {(7, "x")}


def told(table: PayloadTable) -> Tally:
    assert table.tally is not None
    return table.tally


async def test_what_was_ever_taken_over_and_buried_is_counted_over_all_lives(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        for key in (KEY, OTHER):
            await accept(table, tmp_path, key)
        await accept(table, tmp_path, OTHER)  # it is there already
        await table.cancel(["c" * 32])
    older = shutil.copytree(tmp_path, tmp_path.parent / "older")
    async with opened(tmp_path) as table:
        await table.release([KEY, OTHER])
        counted = told(table)
        assert (counted.accepted, counted.buried) == (2, 3)
    async with opened(older) as table:
        now = told(table)
        assert (now.accepted, now.buried) == (2, 1)
        # Time has gone on.
        assert now.is_before(counted) and not counted.is_before(replace(now, uptime=counted.uptime))
    os.truncate(tmp_path / "lock", 40)
    async with opened(tmp_path) as table:
        assert told(table).accepted > 1 << 40, "who does not know it is not taken for set back"


@pytest.mark.parametrize("owner", ["", "o"])
async def test_after_a_reboot_what_had_not_ended_is_lost_and_what_had_stays_if_written_through(
    tmp_path: Path, owner: str
) -> None:
    keys = [KEY, OTHER, "c" * 32]
    async with opened(tmp_path) as table:
        for key in keys:
            await accept(table, tmp_path, key, owner)
        await running(table, OTHER)
        await running(table, keys[2])
        await ended(table, keys[2])
    for _ in range(2):
        async with opened(tmp_path, boot="boot-2") as table:
            found = {p.key: p for p in (await table.all())[0]}
            for key in (KEY, OTHER):
                end = found[key].end
                assert found[key].lost and end is not None
                assert (end.status, end.message) == (Status.FAILED, "machine restarted")
            if owner:
                end = found[keys[2]].end
                assert found[keys[2]].lost and end is not None
                assert (end.status, end.message) == (Status.FAILED, UNWRITTEN)
            else:
                assert not found[keys[2]].lost and found[keys[2]].status is Status.COMPLETED


async def test_a_payload_that_was_being_started_is_running_for_the_next_process(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await accept(table, tmp_path, OTHER)
    async with opened(tmp_path, intended=frozenset({KEY})) as table:
        found = {p.key: p.status for p in (await table.all())[0]}
        assert found == {KEY: Status.RUNNING, OTHER: Status.PREPARED}


async def test_contract_ids_are_never_given_out_again(tmp_path: Path) -> None:
    seen = set()
    for start in range(3):
        async with opened(tmp_path) as table:
            for n in range(70):
                accepted = await accept(table, tmp_path, f"{start:016x}{n:016x}")
                assert accepted.payload is not None
                seen.add(accepted.payload.id)
    assert len(seen) == 210


async def test_a_cancelled_key_never_seen_is_tombstoned_over_restarts(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        assert await table.cancel([KEY]) == [None]
    async with opened(tmp_path) as table:
        accepted = await accept(table, tmp_path)
        assert accepted == Acceptance(AcceptResult.TOMBSTONED, None)
        assert not (tmp_path / "payloads" / KEY).exists()


async def test_a_cancelled_payload_says_so_over_restarts(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await running(table)
        (payload,) = await table.cancel([KEY])
        assert payload is not None and payload.cancelled and payload.status is Status.RUNNING
    async with opened(tmp_path) as table:
        payload = table.get(KEY)
        assert payload is not None and payload.cancelled


async def test_a_cancel_leaves_what_has_ended_as_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await running(table)
        await ended(table)
        (payload,) = await table.cancel([KEY])
        assert payload is not None and payload.status is Status.COMPLETED and not payload.cancelled


async def test_a_released_payload_that_runs_is_seen_by_the_runner_only(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await running(table)
        await table.release([KEY])
        assert table.get(KEY) is None and table.is_tombstoned(KEY)
        (seen,) = (await table.all())[0]
        assert seen.cancelled
        assert table.releasable() == []
    async with opened(tmp_path, intended=frozenset({KEY})) as table:
        (seen,) = (await table.all())[0]
        assert seen.cancelled and table.get(KEY) is None
        await ended(table)
        assert [p.key for p in table.releasable()] == [KEY]
        table.forget([KEY])
        assert table.releasable() == []


async def test_a_release_is_not_weakened_by_a_late_cancel(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await running(table)
        await ended(table)
        await table.release([KEY])
        assert await table.cancel([KEY]) == [None]
    async with opened(tmp_path) as table:
        assert [p.key for p in table.releasable()] == [KEY]


async def test_old_tombstones_go_but_not_those_of_payloads_still_here(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await table.cancel([KEY, OTHER])
        assert await table.expire_tombstones(999_999.0) == 0
        assert await table.expire_tombstones(1_000_001.0) == 1
        assert table.is_tombstoned(KEY) and not table.is_tombstoned(OTHER)
    assert [path.name for path in (tmp_path / "tombstones").iterdir()] == [KEY]


async def test_a_second_process_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(DataDirectoryError, match="in use by another node"):
            Records(tmp_path)
    Records(tmp_path).close()


async def test_changes_tell_each_payload_once_at_its_newest(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await accept(table, tmp_path, OTHER)
        _, mark = await table.all()
        await running(table)
        await table.cancel([KEY])
        (changed,) = await table.changes(mark)
        assert changed.key == KEY and changed.cancelled and changed.sequence == table.mark.sequence


async def test_a_subscriber_gets_the_picture_and_every_change_after_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await accept(table, tmp_path, OTHER, owner="somebody else")
        async with table.subscribe("o") as (picture, mark, changes):
            assert [p.key for p in picture] == [KEY] and mark == table.mark
            await running(table)
            assert (await changes.receive()).status is Status.RUNNING


async def test_a_subscriber_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        row = (await table.all())[0][0]
        async with table.subscribe(None) as (_, _, changes):
            table.subscriptions.publish([Row(row, False)] * (SUBSCRIBER_BUFFER + 1))
            for _ in range(SUBSCRIBER_BUFFER):
                changes.receive_nowait()
            with pytest.raises(trio.EndOfChannel):
                changes.receive_nowait()


async def test_whatever_is_cancelled_a_record_is_whole_or_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        with trio.CancelScope() as scope:
            scope.cancel()
            await killed(table)
        payload = table.get(KEY)
        assert payload is not None and status_on_disk(tmp_path, KEY) == payload.status
        assert await accept(table, tmp_path, OTHER)


async def test_nothing_changes_when_the_disk_does_not_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        before = table.mark

        def full(*_args: object, **_kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            for name in ("overwrite", "replace_plainly", "create_plainly"):
                patch.setattr(f"node.payloads.records.{name}", full)
            with pytest.raises(OSError, match="No space"):
                await killed(table)
            with pytest.raises(OSError, match="No space"):
                await table.cancel([OTHER])
        payload = table.get(KEY)
        assert payload is not None and payload.status is Status.PREPARED
        assert not table.is_tombstoned(OTHER) and table.mark == before
        await killed(table)


async def test_that_it_runs_and_how_far_it_is_needs_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it was to be started is there, and its end has been written by who looked through its files."""
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)

        def broken(*_args: object, **_kwargs: object) -> None:
            raise OSError(5, "Input/output error")

        for name in ("Records.write", "Records.write_running", "overwrite", "replace_plainly"):
            monkeypatch.setattr(f"node.payloads.records.{name}", broken)
        await running(table)
        await table.hear_progress(KEY, ProgressTail(b"0.5 half\n"))
        payload = table.get(KEY)
        assert payload is not None and payload.status is Status.RUNNING and payload.progress is not None
        with pytest.raises(OSError, match="Input/output"):
            await ended(table)
        end = End(Status.COMPLETED, "", exit_code=0, ended_at=6.0)
        move = PayloadMove(KEY, Status.RUNNING, Status.COMPLETED, end=end, written=True)
        assert await table.record([move]) == [True]


async def test_what_is_asked_for_together_fails_or_is_done_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{n:032x}" for n in range(8)]
    async with opened(tmp_path) as table:
        for key in keys:
            await accept(table, tmp_path, key)
        write = Records.write

        def one_is_bad(records: Records, payload: Payload) -> None:
            if payload.key == keys[3]:
                raise OSError(5, "Input/output error")
            write(records, payload)

        monkeypatch.setattr(Records, "write", one_is_bad)
        failed: list[str] = []

        async def move(key: str) -> None:
            try:
                await killed(table, key)
            except OSError:
                failed.append(key)

        with trio.CancelScope() as cancelled:
            async with trio.open_nursery() as nursery:
                for key in keys[:-1]:
                    nursery.start_soon(move, key)
        assert not cancelled.cancelled_caught and failed == [keys[3]]
        found = {p.key: p.status for p in (await table.all())[0]}
        assert [key for key in keys if found[key] is Status.KILLED] == [*keys[:3], *keys[4:7]]


async def test_one_cancelled_caller_cancels_nobody(tmp_path: Path) -> None:
    keys = [f"{n:032x}" for n in range(6)]
    async with opened(tmp_path) as table:
        for key in keys:
            await accept(table, tmp_path, key)
        async with trio.open_nursery() as nursery:
            for key in keys[:3]:
                nursery.start_soon(killed, table, key)
            scope = trio.CancelScope()
            with scope:
                async with trio.open_nursery() as doomed:
                    doomed.start_soon(killed, table, keys[4])
                    doomed.start_soon(killed, table, keys[5])
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
            nursery.start_soon(killed, table, keys[3])
        found = {p.key: p for p in (await table.all())[0]}
        assert all(found[key].status is Status.KILLED for key in keys[:4])
        for key in keys:
            assert status_on_disk(tmp_path, key) == found[key].status


async def test_who_waits_for_an_end_hears_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await running(table)
        found: list[Payload | None] = []

        async def wait() -> None:
            found.append(await table.wait_ended(KEY))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await ended(table)
        assert found[0] is not None and found[0].status is Status.COMPLETED
        assert await table.wait_ended(OTHER) is None


async def test_progress_is_of_what_runs_alone_and_in_no_record(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        await accept(table, tmp_path)
        await running(table)
        record = (tmp_path / "payloads" / KEY / "record.json").read_bytes()
        async with table.subscribe(None) as (_, mark, changes):
            await table.hear_progress(KEY, ProgressTail(b"0.5 half\n"))
            await table.hear_progress(KEY, ProgressTail(b"0.5 half\n"))
            await table.hear_progress(OTHER, ProgressTail(b"0.5 half\n"))
            told = changes.receive_nowait()
            assert told.progress == Progress(0.5, "half") and told.sequence == mark.sequence + 1
            assert view_of(told).progress == Progress(0.5, "half")
            await table.cancel([KEY])
            await table.hear_progress(KEY, ProgressTail(b"less\n"))
            told = [changes.receive_nowait() for _ in range(2)][-1]
            assert told.cancelled and told.progress == Progress(0.5, "less")
            await ended(table)
            changes.receive_nowait()
            await table.hear_progress(KEY, ProgressTail(b"0.9 after the end\n"))
            await table.release([KEY])
            table.forget([KEY])
            await table.hear_progress(KEY, ProgressTail(b"0.9 after all\n"))
            with pytest.raises(trio.WouldBlock):
                changes.receive_nowait()
        assert table.get(KEY) is None
        assert b"half" not in record + (tmp_path / "payloads" / KEY / "record.json").read_bytes()
