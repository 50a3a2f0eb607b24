"""What is over by the time it was started."""

from __future__ import annotations

from pathlib import Path

from support.memory.fake_executor import end
from support.processes.nodes_in_process import KEY, SCRIPT, node_in_process


async def test_what_is_over_once_it_was_started_is_told_with_all_of_its_end(tmp_path: Path) -> None:
    async with node_in_process(tmp_path) as node:
        node.executor.at_once = end(3)
        assert (await node.submit({KEY: dict(SCRIPT)})).status_code == 200
        view = await node.until(KEY, "Failed")
        found = view["end"]
        assert (found["exit_code"], found["message"], found["wall_seconds"]) == (3, "exit code 3", 1.5)
        assert found["started_at"].startswith("2023-11-14T22:13:20")
        assert node.executor.adopted == []


async def test_a_slot_is_free_again_at_once(tmp_path: Path) -> None:
    async with node_in_process(tmp_path, slots=1) as node:
        node.executor.at_once = end()
        keys = [f"{number:032x}" for number in range(1, 6)]
        assert (await node.submit({key: dict(SCRIPT) for key in keys})).status_code == 200
        for key in keys:
            await node.until(key, "Completed")
        assert set(node.executor.runs) == set(keys)
