"""Files that a script renames and removes while they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from support.peers.node_clients import KEY
from support.processes.node_processes import node_process

CHURN = "while :; do head -c $((RANDOM*9)) /dev/urandom > f; mv f g; rm -f g; done"


async def test_a_file_that_comes_and_goes_is_there_whole_or_404(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: dict[int, int] = {200: 0, 404: 0}
    async with node_process(tmp_path) as node:
        await node.submit({KEY: {"run.sh": CHURN.encode()}})
        await node.until(KEY, "Running")

        async def ask(name: str) -> None:
            for _ in range(60):
                answer = await node.client.get(f"/v1/attempts/{KEY}/files/{name}")
                seen[answer.status_code] += 1

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for name in ("f", "g"):
                    nursery.start_soon(ask, name)
        assert seen[200] and seen[404]
        await node.client.post("/v1/cancel", json={"keys": [KEY]})
        await node.end_of()
    assert "Traceback" not in capfd.readouterr().err
