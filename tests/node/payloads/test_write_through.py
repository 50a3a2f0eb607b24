"""What of a payload is synced, and when; and what another boot of the machine makes of the rest."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import threading
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from support.processes.nodes_in_process import node_in_process
from trio.testing import MockClock

from actors.domain.job import End
from actors.domain.payload import UNKNOWN, Payload, PayloadMove
from actors.domain.status import Status
from node.payloads import records as records_module
from node.payloads import write_through as write_through_module
from node.payloads.operations import Arrival
from node.payloads.records import DiskFailed, Records
from node.payloads.recovery import UNWRITTEN
from node.payloads.table import PayloadTable, open_table
from node.payloads.write_through import EVERY, WITHIN, WriteThrough
from node.runs.large_files import STEP as LARGE_STEP

STEP = 0.25
KEYS = ["a" * 32, "b" * 32, "c" * 32]


class FixedClock:
    def now(self) -> float:
        return 1_000_000.0


class Node:
    def __init__(self, records: Records, table: PayloadTable) -> None:
        self.records, self.table = records, table
        self.writing = WriteThrough(table, records)
        table.subscriptions.add_listener(self.writing.hear)

    async def accept(self, key: str, *, owner: str = "o", through: bool = False) -> None:
        directory = self.records.data / "incoming" / key
        (directory / "work").mkdir(parents=True)
        await self.table.accept([Arrival(key, directory, owner=owner, through=through)])

    async def running(self, key: str) -> None:
        await self.table.record([PayloadMove(key, Status.PREPARED, Status.RUNNING, pid=1, started_at=5.0)])

    async def ended(self, key: str, size: int = 0, source: Status = Status.RUNNING) -> None:
        end = End(Status.COMPLETED, "", exit_code=0, ended_at=6.0, size=size)
        await self.table.record([PayloadMove(key, source, Status.COMPLETED, end=end)])

    async def through_all(self, key: str, *, owner: str = "o", through: bool = False) -> None:
        await self.accept(key, owner=owner, through=through)
        await self.running(key)
        await self.ended(key)

    async def payload(self, key: str) -> Payload:
        (found,) = [one for one in (await self.table.all())[0] if one.key == key]
        return found


@asynccontextmanager
async def opened(
    data: Path, boot: str | None = "boot-1", *, outlives: bool = False, intended: Collection[str] = ()
) -> AsyncIterator[Node]:
    records = Records(data, boot=boot, outlives=outlives)
    try:
        async with open_table(records, FixedClock(), intended=intended.__contains__) as table:
            yield Node(records, table)
    finally:
        records.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, by its path."""
    found: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        found.append(re.sub(r"\.[0-9a-f]{8}$", "", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(records_module, "sync_file_system", lambda fd: found.append("everything"))
    return found


def write_throughs(records: Records, monkeypatch: pytest.MonkeyPatch, error: int = 0) -> list[float]:
    """When all was written through, which may fail."""
    times: list[float] = []
    token = trio.lowlevel.current_trio_token()

    def sync(fd: int) -> None:
        times.append(trio.from_thread.run_sync(trio.current_time, trio_token=token))
        if error:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(records_module, "sync_file_system", sync)
    return times


async def pass_seconds(node: Node, clock: MockClock, seconds: float) -> None:
    """Step by step, and each time until all is done that is due."""
    for _ in range(math.ceil(seconds / STEP)):
        clock.jump(STEP)
        await trio.testing.wait_all_tasks_blocked()
        while node.writing.is_writing():
            await trio.to_thread.run_sync(time.sleep, 0.001)
            await trio.testing.wait_all_tasks_blocked()


# ---------------------------------------------------------------------- what is synced at once


async def test_a_payload_of_an_orchestrator_of_ours_syncs_nothing(tmp_path: Path, synced: list[str]) -> None:
    async with opened(tmp_path) as node:
        await node.accept(KEYS[0])  # the first takes a block of numbers
        synced.clear()
        await node.through_all(KEYS[1])
        await node.table.cancel([KEYS[2]])
        await node.table.release(KEYS[:2])
    assert synced == []


@pytest.mark.parametrize("why", ["foreign", "no boot named", "outlives", "boot unreadable"])
async def test_what_may_come_again_in_another_boot_is_written_through(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def unreadable() -> str:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    if why == "boot unreadable":
        monkeypatch.setattr(records_module, "boot_id", unreadable)
    boot = None if why == "boot unreadable" else "boot-1"
    async with opened(tmp_path, boot, outlives=why == "outlives") as node:
        await node.accept(KEYS[0])
        synced.clear()
        owner = "" if why == "foreign" else "o"
        await node.accept(KEYS[1], owner=owner, through=why == "no boot named")
        incoming, place = str(tmp_path / "incoming" / KEYS[1]), str(tmp_path / "payloads" / KEYS[1])
        # Its files first, which nobody else has synced.
        assert synced == ["everything", f"{incoming}/record.json", incoming, str(tmp_path / "payloads")]
        await node.running(KEYS[1])
        synced.clear()
        await node.ended(KEYS[1])
        assert synced == [f"{place}/.record.json", place]
        synced.clear()
        await node.table.cancel([KEYS[1]])
        assert synced == [str(tmp_path / "tombstones" / KEYS[1]), str(tmp_path / "tombstones")]
        told = node.records.node_id if why == "outlives" else boot or ""
        assert node.table.machine_boot == told
    async with opened(tmp_path, "boot-2") as node:
        assert (await node.payload(KEYS[1])).status is Status.COMPLETED


async def test_what_outlives_the_machine_goes_on_in_another_boot(tmp_path: Path) -> None:
    async with opened(tmp_path, outlives=True) as node:
        for key in KEYS:
            await node.accept(key)
        await node.running(KEYS[1])
        told = node.table.machine_boot, node.table.tally
    async with opened(tmp_path, "boot-2", outlives=True, intended=KEYS[2:]) as node:
        assert (node.table.machine_boot, node.table.tally) == told, "nobody takes it for another boot"
        found = [(await node.payload(key)).status for key in KEYS]
        assert found == [Status.PREPARED, Status.RUNNING, Status.RUNNING]


async def test_a_record_of_an_earlier_version_was_written_through(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        await node.through_all(KEYS[0])
    path = tmp_path / "payloads" / KEYS[0] / "record.json"
    path.write_text(path.read_text().replace('"through": false, ', ""))
    async with opened(tmp_path, "boot-2") as node:
        assert (await node.payload(KEYS[0])).status is Status.COMPLETED


# ---------------------------------------------------------------------- what is, a while later


async def test_what_is_not_collected_in_time_is_written_through_at_once_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        times = write_throughs(node.records, monkeypatch)
        await nursery.start(node.writing.run)
        for key in KEYS:
            await node.through_all(key)
        await node.through_all("d" * 32, owner="")
        began = trio.current_time()
        times.clear()  # what came by contract is synced as it comes
        await node.table.release(KEYS[:1])
        await pass_seconds(node, mock_clock, WITHIN + 0.1)
        assert [round(at - began, 1) for at in times] == [WITHIN]
        assert node.records.written == set(KEYS[1:])
        # With nothing left to be written there is nothing to wait for.
        await pass_seconds(node, mock_clock, 30)
        assert len(times) == 1
        nursery.cancel_scope.cancel()
    async with opened(tmp_path, "boot-2") as node:
        assert (await node.payload(KEYS[1])).status is Status.COMPLETED


async def test_what_is_collected_in_time_costs_no_sync_but_the_look_at_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        times = write_throughs(node.records, monkeypatch)
        await nursery.start(node.writing.run)
        began = trio.current_time()
        for number in range(30):
            key = f"{number:032x}"
            await node.through_all(key)
            await pass_seconds(node, mock_clock, WITHIN / 2)
            await node.table.release([key])
        await pass_seconds(node, mock_clock, 30)
        assert len(times) <= (30 * WITHIN / 2) / EVERY + 1
        assert times[-1] - began < 30 * WITHIN / 2 + EVERY + 0.1
        nursery.cancel_scope.cancel()


async def test_while_anything_runs_the_disk_is_asked_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        times = write_throughs(node.records, monkeypatch)
        await nursery.start(node.writing.run)
        await node.accept(KEYS[0])
        await pass_seconds(node, mock_clock, 30)
        assert times == []
        began = trio.current_time()
        await node.running(KEYS[0])
        await pass_seconds(node, mock_clock, 4 * EVERY + 1)
        assert [round(at - began) for at in times] == [5, 10, 15, 20]
        nursery.cancel_scope.cancel()


async def test_after_what_was_over_at_once_the_disk_is_asked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        times = write_throughs(node.records, monkeypatch)
        await nursery.start(node.writing.run)
        began = trio.current_time()
        await node.accept(KEYS[0])
        await node.ended(KEYS[0], source=Status.PREPARED)
        await node.table.release(KEYS[:1])
        await pass_seconds(node, mock_clock, 30)
        assert [round(at - began) for at in times] == [EVERY]
        nursery.cancel_scope.cancel()


async def test_the_next_process_writes_through_what_this_one_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with opened(tmp_path) as node:
        for key in KEYS:
            await node.through_all(key)
        node.records.sync()
        node.records.note_written(KEYS[:1])
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        assert node.records.written == set(KEYS[:1])
        write_throughs(node.records, monkeypatch)
        await nursery.start(node.writing.run)
        await pass_seconds(node, mock_clock, WITHIN + 0.1)
        assert node.records.written == set(KEYS)
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_noted_is_noted_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        write_throughs(node.records, monkeypatch)
        await nursery.start(node.writing.run)
        await node.through_all(KEYS[0])
        with monkeypatch.context() as full:

            def refuse(fd: int, content: bytes) -> None:
                os.write(fd, content[:7])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            full.setattr(records_module, "write_all", refuse)
            await pass_seconds(node, mock_clock, 3 * WITHIN)
            assert node.records.written == set()
        await pass_seconds(node, mock_clock, 3 * WITHIN)
        assert node.records.written == {KEYS[0]}
        nursery.cancel_scope.cancel()
    async with opened(tmp_path, "boot-2") as node:
        assert (await node.payload(KEYS[0])).status is Status.COMPLETED


async def test_a_node_that_stops_writes_all_through_that_has_ended(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        for key in KEYS[:2]:
            assert (await node.submit({key: {"run.sh": b""}}, named=True)).status_code == 200
            run = await node.executor.run_of(key)
        run.finish()
        await node.until(KEYS[1], "Completed")
    assert (tmp_path / "written").read_text().split() == [KEYS[1]]


async def test_large_files_of_what_is_here_are_given_to_the_disk_before_all_the_rest(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[set[str]] = []

    def write(places: Collection[Path], hurry: threading.Event | None) -> None:
        synced.append("large files")
        looked_at.append({place.name for place in places})

    monkeypatch.setattr(write_through_module, "write_large_back", write)
    small, large, runs = KEYS
    async with opened(tmp_path) as node:
        for key in KEYS:
            await node.accept(key)
            await node.running(key)
        await node.ended(small, size=LARGE_STEP)
        await node.ended(large, size=LARGE_STEP + 1)
        synced.clear()
        await node.writing.write_all()
        assert synced[:2] == ["large files", "everything"]
        await node.writing.write_all()
        await node.table.release([large])
        await node.ended(runs, size=LARGE_STEP + 1)
        await node.writing.write_all()
    assert looked_at == [{large, runs}, {runs}, {runs}]


async def test_who_stops_a_node_does_not_wait_for_what_is_in_no_hurry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, hurried = threading.Event(), list[bool]()

    def write(places: Collection[Path], hurry: threading.Event | None) -> None:
        began.set()
        if hurry is not None:
            hurried.append(hurry.wait(30))

    monkeypatch.setattr(write_through_module, "write_large_back", write)
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        await node.through_all(KEYS[0])
        nursery.start_soon(partial(node.writing.write_all, in_no_hurry=True))
        assert await trio.to_thread.run_sync(began.wait, 30)
        await node.writing.write_all()
        assert node.records.written == {KEYS[0]}
        assert hurried == [True]
        # It is over then: whoever goes on has time again.
        monkeypatch.setattr(
            write_through_module, "write_large_back", lambda _, hurry: hurried.append(hurry.is_set())
        )
        await node.writing.write_all(in_no_hurry=True)
        assert hurried == [True, False]


async def test_the_list_of_what_is_written_holds_no_more_than_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "_WRITTEN", 34 * 10)
    async with opened(tmp_path) as node:
        for number in range(40):
            key = f"{number:032x}"
            await node.through_all(key)
            await node.writing.write_all()
            if number:
                await node.table.release([key])
                node.table.forget([key])
                shutil.rmtree(tmp_path / "payloads" / key)
            assert (tmp_path / "written").stat().st_size <= 34 * (10 + 2 * 2 + 1)
    async with opened(tmp_path, "boot-2") as node:
        assert node.records.written == {f"{0:032x}"}
        assert (tmp_path / "written").read_text().split() == [f"{0:032x}"]


# ---------------------------------------------------------------------- a disk that fails


async def test_a_disk_that_fails_ends_the_node_and_counts_as_another_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, unnoted, runs = KEYS
    prepared, foreign = "d" * 32, "e" * 32
    async with opened(tmp_path) as node:
        for key in (noted, unnoted):
            await node.through_all(key)
        await node.through_all(foreign, owner="")
        node.records.sync()
        node.records.note_written([noted])
        await node.accept(prepared)
        await node.accept(runs)
        await node.running(runs)
        write_throughs(node.records, monkeypatch, errno.EIO)
        with pytest.raises(DiskFailed, match=r"failed to keep .*Input/output error.*the node ends"):
            await node.writing.write_all()
    for _ in range(2):
        async with opened(tmp_path) as node:
            assert node.table.machine_boot == "boot-1.1"
            assert (await node.payload(noted)).status is Status.COMPLETED
            assert (await node.payload(foreign)).status is Status.COMPLETED
            lost = await node.payload(unnoted)
            assert lost.lost and lost.end is not None and lost.end.message == UNWRITTEN
            # These may run: they are nobody's, which is ended before it is told as lost.
            for key in (prepared, runs):
                found = await node.payload(key)
                assert (found.status, found.owner) == (Status.RUNNING, UNKNOWN)
    async with opened(tmp_path) as node:
        with pytest.raises(DiskFailed):
            write_throughs(node.records, monkeypatch, errno.EIO)
            await node.writing.write_all()
    async with opened(tmp_path) as node:
        assert node.table.machine_boot == "boot-1.2"
    async with opened(tmp_path, "boot-2") as node:
        assert node.table.machine_boot == "boot-2"
        assert (await node.payload(runs)).lost
