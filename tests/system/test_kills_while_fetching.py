"""Orchestrator and node are killed while results are on their way, before, and just after: a job that ended
has its results, whole, and nothing is left over of the way they took."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
from support.data.directories import all_files, until
from support.peers.portals import Portal, portal
from support.peers.wires import Hold, Rule, Wire, wire
from support.processes.processes import PATIENCE, Place, Started

SCRIPT = "head -c 6M /dev/urandom > big; sha256sum big > sum"
COLLECT, RELEASE = "POST /v1/collect", "link release"


class Bench:
    """An orchestrator that reaches its node over a wire."""

    def __init__(self, here: Place) -> None:
        self.here = here
        self.data = here.directory / "server" / "data"
        self.payloads = here.directory / "node" / "payloads"
        self.node = here.node("node", on_stop="leave")
        self.wire: Wire
        self.server: Started

    def start(self) -> None:
        self.server = self.here.server(nodes=[self.wire.url])

    def restart_node(self) -> None:
        self.node = self.here.node("node", port=self.node.port, on_stop="leave")

    def result(self) -> list[Path]:
        return list(self.data.glob("jobs/*/*/result"))

    async def comes_to(self, line: str, hold: Hold) -> int:
        """A job whose first request of this kind is held."""
        self.wire.rule = _once(hold, line)
        self.start()
        async with portal(self.server.url) as user:
            job = await user.upload(SCRIPT)
            with trio.fail_after(PATIENCE):
                await hold.reached.wait()
        return job

    async def ends_well(self, job: int) -> None:
        """All is as if nothing had been."""
        async with portal(self.server.url) as user:
            end = await user.ended(job)
            assert (end["status"], end["attempt"], end["attempts_used"]) == ("Completed", 1, 1)
            await _is_whole(user, job)
        await until(lambda: not all_files(self.payloads), self.payloads.parent)
        for top in (self.data / "incoming", self.data / "trash", self.payloads.parent / "incoming"):
            await until(lambda top=top: not any(top.iterdir()), top)  # type: ignore[misc]
        assert len(self.result()) == 1


async def _is_whole(user: Portal, job: int) -> None:
    found = await user.contents(job)
    assert len(found["big"]) == 6 << 20
    assert hashlib.sha256(found["big"]).hexdigest() == found["sum"].split()[0].decode()


def _once(hold: Hold, line: str) -> Callable[[str], Rule]:
    held: list[str] = []

    def rule(request: str) -> Rule:
        if request != line or held:
            return None
        held.append(request)
        return hold

    return rule


@pytest.fixture
def bench(here: Place) -> Bench:
    return Bench(here)


async def _half_way(bench: Bench, hold: Hold) -> int:
    """A job some of whose results are on the orchestrator's disk, and the rest does not come."""
    job = await bench.comes_to(COLLECT, hold)
    incoming = bench.data / "incoming"
    await until(lambda: any(path.stat().st_size for path in all_files(incoming)), incoming)
    return job


async def test_the_orchestrator_dies_when_the_first_bytes_are_on_its_disk(bench: Bench) -> None:
    async with wire(bench.node.url) as bench.wire:
        job = await _half_way(bench, Hold(down=4 << 20))
        await bench.server.end(signal.SIGKILL)
        assert all_files(bench.data / "incoming")
        bench.start()
        await bench.ends_well(job)


async def test_the_node_dies_when_the_first_bytes_have_gone_out(bench: Bench) -> None:
    async with wire(bench.node.url) as bench.wire:
        job = await _half_way(bench, hold := Hold(down=4 << 20))
        await bench.node.end(signal.SIGKILL)
        bench.restart_node()
        hold.go_on.set()  # the wire ends as its far end did
        await bench.ends_well(job)


async def test_both_die_when_the_first_bytes_have_gone_over(bench: Bench) -> None:
    async with wire(bench.node.url) as bench.wire:
        job = await _half_way(bench, Hold(down=4 << 20))
        await bench.node.end(signal.SIGKILL)
        await bench.server.end(signal.SIGKILL)
        bench.start()
        bench.restart_node()
        await bench.ends_well(job)


async def test_the_orchestrator_dies_with_all_on_disk_and_nothing_of_it_in_the_ledger(bench: Bench) -> None:
    async with wire(bench.node.url) as bench.wire:
        hold = Hold(down=4 << 20)
        job = await bench.comes_to(COLLECT, hold)
        with closing(sqlite3.connect(bench.here.directory / "server" / "db.sqlite")) as ledger:
            # Whoever would write waits for this to end.
            ledger.execute("BEGIN IMMEDIATE")
            hold.go_on.set()
            await until(lambda: bool(bench.result()), bench.data)
            await bench.server.end(signal.SIGKILL)
            assert ledger.execute("SELECT status FROM jobs WHERE id = ?", (job,)).fetchone() != ("Completed",)
        bench.start()
        await bench.ends_well(job)


async def test_the_orchestrator_dies_before_the_node_is_told_to_let_go(bench: Bench) -> None:
    async with wire(bench.node.url) as bench.wire:
        job = await bench.comes_to(RELEASE, Hold(up=0))
        await bench.server.end(signal.SIGKILL)
        assert all_files(bench.payloads)
        bench.start()
        await bench.ends_well(job)


async def test_the_orchestrator_dies_before_it_hears_that_the_node_has_let_go(bench: Bench) -> None:
    async with wire(bench.node.url) as bench.wire:
        job = await bench.comes_to(RELEASE, Hold(down=0))
        await bench.server.end(signal.SIGKILL)
        bench.start()
        await bench.ends_well(job)
