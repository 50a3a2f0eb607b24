"""A disk that is slower than the network slows the sender, and does not fill the node's memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from support.processes.nodes_in_process import node_in_process

from node.runs.workspace import Incoming

SIZE = 48 << 20


async def test_a_slow_disk_slows_the_sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = trio.Event()
    write = Incoming.write

    async def slow(incoming: Incoming, chunk: bytes) -> None:
        await stuck.wait()
        await write(incoming, chunk)

    monkeypatch.setattr(Incoming, "write", slow)
    head = b'--BbB\r\nContent-Disposition: form-data; name="big"; filename="big"\r\n\r\n'
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield head
        for _ in range(SIZE >> 18):
            yield bytes(1 << 18)
            sent += 1 << 18
        yield b"\r\n--BbB--\r\n"

    async with node_in_process(tmp_path) as node, trio.open_nursery() as nursery:

        async def submit() -> None:
            headers = {"Content-Type": "multipart/form-data; boundary=BbB"}
            answer = await node.client.post("/submit", content=body(), headers=headers)
            assert answer.status_code == 200, answer.text
            nursery.cancel_scope.cancel()

        nursery.start_soon(submit)
        # Nothing tells that bytes have stopped moving but that none move for a while.
        before = -1
        while before != sent:
            before = sent
            await trio.sleep(0.3)
        assert sent < SIZE // 2, "the node read on although nothing was written"
        stuck.set()
        await trio.sleep_forever()
