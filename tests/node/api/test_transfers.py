"""Transfers that hang, on a disk that is slow or gone, do not keep jobs from starting and ending."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from support.processes.nodes_in_process import KEY, NodeInProcess, node_in_process

from node.runs.workspace import TRANSFERS

COUNT = TRANSFERS + 4
ENDED = "e" * 32


class Disk:
    """One that hangs until it is let go. `full` once it holds up as many threads as transfers may take."""

    def __init__(self) -> None:
        self.full = trio.Event()
        self._held = 0
        self._going = threading.Event()

    def hang(self, *_: object, **__: object) -> None:
        trio.from_thread.run_sync(self._one_more)
        assert self._going.wait(30)
        raise OSError(5, "Input/output error")

    def _one_more(self) -> None:
        self._held += 1
        if self._held == TRANSFERS:
            self.full.set()

    def go(self) -> None:
        self._going.set()


async def results(node: NodeInProcess, _n: int) -> None:
    await node.client.get(f"/v1/attempts/{KEY}/results")


async def collect(node: NodeInProcess, _n: int) -> None:
    await node.client.post("/v1/collect", json={"keys": [ENDED]})


async def upload(node: NodeInProcess, n: int) -> None:
    await node.submit({f"{n:032x}": {"run.sh": bytes(300_000)}})


@pytest.mark.parametrize(
    ("ask", "hangs"),
    [
        (results, "node.api.results._listing"),
        (collect, "node.api.results.collect_one"),
        (upload, "node.runs.workspace.write_all"),
    ],
)
async def test_a_job_ends_while_all_transfers_hang(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[NodeInProcess, int], Awaitable[None]],
    hangs: str,
) -> None:
    disk = Disk()
    async with node_in_process(tmp_path) as node:
        (await node.started(ENDED)).finish()
        await node.until(ENDED, "Completed")
        run = await node.started()
        # Fewer than the transfers have: who took these for them would never be seen to hang.
        trio.to_thread.current_default_thread_limiter().total_tokens = 4
        monkeypatch.setattr(hangs, disk.hang)
        async with trio.open_nursery() as nursery:
            try:
                for n in range(COUNT):
                    nursery.start_soon(ask, node, n)
                with trio.fail_after(60):
                    await disk.full.wait()
                    run.finish()
                    await node.until(KEY, "Completed")
            finally:
                disk.go()
