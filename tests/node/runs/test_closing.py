"""What is written of a payload that runs and ends, and when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from support.processes.nodes_in_process import KEY, node_in_process

from actors.domain.payload import Payload
from node.payloads.records import Records


def on_disk(data: Path, name: str) -> dict[str, object]:
    found = json.loads((data / "payloads" / KEY / name).read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("fails", [0, 2])
async def test_an_end_is_written_once_by_who_looks_through_it_or_else_by_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    write, statuses = Records.write, []

    def write_or_fail(records: Records, payload: Payload) -> None:
        statuses.append(payload.status.value)
        if len(statuses) <= fails:
            raise OSError(5, "Input/output error")
        write(records, payload)

    monkeypatch.setattr(Records, "write", write_or_fail)
    async with node_in_process(tmp_path) as node:
        (await node.started()).finish()
        await node.until(KEY, "Completed")
    assert statuses == ["Completed"] * (fails + 1)
    assert on_disk(tmp_path, "record.json")["status"] == "Completed"


@pytest.mark.parametrize("short", [0.0, 1e6])
async def test_since_when_it_runs_is_noted_of_what_is_not_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: float
) -> None:
    monkeypatch.setattr("node.runs.runs.SHORT", short)
    write, noted, token = Records.write_running, trio.Event(), trio.lowlevel.current_trio_token()

    def write_and_say(records: Records, payload: Payload) -> None:
        write(records, payload)
        token.run_sync_soon(noted.set)

    monkeypatch.setattr(Records, "write_running", write_and_say)
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        await node.until(KEY, "Running")
        if short == 0.0:
            await noted.wait()
            assert on_disk(tmp_path, "running")["started_at"] == run.started_at
        run.finish()
        await node.until(KEY, "Completed")
        assert noted.is_set() == (short == 0.0)
        assert on_disk(tmp_path, "running")["status"] == "Running"
