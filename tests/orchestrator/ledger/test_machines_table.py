"""Machines and decisions: the ledger on disk and the one in memory keep them alike; schema 1 comes along."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import trio
from support.data.ledgers import open_ledger
from support.memory.memory_machines import MemoryMachines

from actors.domain.scaling import DecisionRecord, MachineRecord, MachineState
from actors.ports.ledger import LedgerError
from actors.ports.scaling import MachineLedger
from orchestrator.ledger.tables.machines import DECISIONS_KEPT, ENDED_KEPT


@pytest.fixture(params=["memory", "disk"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MachineLedger]:
    if request.param == "memory":
        yield MemoryMachines(DECISIONS_KEPT)
        return
    async with open_ledger(tmp_path / "ledger.db") as disk:
        yield disk


def machine(number: int, state: MachineState = MachineState.WANTED) -> MachineRecord:
    return MachineRecord(f"{number:032x}", "example", state, 1_700_000_000.0 + number)


def decision(number: int, service: str = "example") -> DecisionRecord:
    return DecisionRecord(
        1_700_000_000.5 + number, service, "create", f"{number} machines", f"reason {number}"
    )


async def test_a_machine_comes_back_as_it_was_put(ledger: MachineLedger) -> None:
    whole = replace(
        machine(1, MachineState.JOINED), machine_id="i-0abc", node_id="node-1", reason="jobs wait «é»"
    )
    await ledger.put_machine(machine(2))
    await ledger.put_machine(whole)
    assert list(await ledger.machines()) == [whole, machine(2)], "the oldest first"


async def test_a_machine_that_is_put_again_is_replaced(ledger: MachineLedger) -> None:
    await ledger.put_machine(machine(1))
    await ledger.put_machine(machine(2))
    booting = replace(machine(1, MachineState.BOOTING), machine_id="i-1", reason="asked")
    await ledger.put_machine(booting)
    assert list(await ledger.machines()) == [booting, machine(2)]


async def test_of_the_same_moment_the_one_put_first_is_the_oldest(ledger: MachineLedger) -> None:
    records = [replace(machine(number), requested_at=5.0) for number in (3, 1, 2)]
    for record in records:
        await ledger.put_machine(record)
    await ledger.put_machine(records[0])
    assert list(await ledger.machines()) == records


async def test_an_ended_machine_is_not_told(ledger: MachineLedger) -> None:
    await ledger.put_machine(machine(1))
    await ledger.put_machine(machine(2, MachineState.ENDING))
    await ledger.put_machine(machine(1, MachineState.ENDED))
    assert list(await ledger.machines()) == [machine(2, MachineState.ENDING)]


async def test_decisions_come_newest_first_of_one_service_or_all(ledger: MachineLedger) -> None:
    for number in range(6):
        await ledger.note_decision(decision(number, "odd" if number % 2 else "even"))
    assert [one.reason for one in await ledger.decisions(limit=3)] == ["reason 5", "reason 4", "reason 3"]
    assert list(await ledger.decisions("even")) == [decision(number, "even") for number in (4, 2, 0)]
    assert list(await ledger.decisions("none")) == []


async def test_only_the_newest_decisions_are_kept(ledger: MachineLedger) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(DECISIONS_KEPT + 5):
            nursery.start_soon(ledger.note_decision, decision(number))
    assert len(await ledger.decisions(limit=DECISIONS_KEPT + 100)) == DECISIONS_KEPT


# ---------------------------------------------------------------------- on disk only


async def test_machines_and_decisions_are_there_after_a_restart(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as disk:
        await disk.put_machine(machine(1, MachineState.BOOTING))
        await disk.note_decision(decision(1))
    async with open_ledger(tmp_path / "ledger.db") as disk:
        assert list(await disk.machines()) == [machine(1, MachineState.BOOTING)]
        assert list(await disk.decisions()) == [decision(1)]


async def test_what_is_put_at_once_shares_commits(tmp_path: Path) -> None:
    commits: list[str] = []
    async with open_ledger(tmp_path / "ledger.db", trace=commits.append) as disk:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(disk.put_machine, machine(number))
        assert len(await disk.machines()) == 100
    assert len(commits) < 10


async def test_rows_of_ended_machines_do_not_pile_up(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as disk:
        await disk.put_machine(machine(0))
        async with trio.open_nursery() as nursery:
            for number in range(1, ENDED_KEPT + 50):
                nursery.start_soon(disk.put_machine, machine(number, MachineState.ENDED))
        assert list(await disk.machines()) == [machine(0)]
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        assert db.execute("SELECT count(*) FROM machines").fetchone() == (ENDED_KEPT + 1,)
        assert db.execute("SELECT min(requested_at) FROM machines WHERE state = 'ended'").fetchone() == (
            1_700_000_050.0,
        )


async def test_a_machine_that_cannot_be_stored_is_a_ledger_error(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as disk:
        nothing = cast(str, None)
        with pytest.raises(LedgerError):
            await disk.put_machine(replace(machine(1), service=nothing))
        assert list(await disk.machines()) == []
