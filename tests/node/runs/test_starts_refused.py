"""Starts that fail: by the node's own disk, by whatever else its machine lacks, or by the job."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest
from support.processes.nodes_in_process import KEY, SCRIPT, node_in_process

from node.executors.executor import ExecutorError, NotTaken
from node.payloads import records
from node.runs import script_check


class Disk:
    """Lets no word be left that somebody has set out to start a payload, so many times."""

    def __init__(self, number: int, times: int) -> None:
        self.number = number
        self.times = times
        self._write = records.write_plainly

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def write(path: str, content: bytes) -> None:
            if Path(path).name == "running" and self.times:
                self.times -= 1
                Path(path).touch()
                raise OSError(self.number, os.strerror(self.number))
            self._write(path, content)

        monkeypatch.setattr(records, "write_plainly", write)


async def test_an_attempt_is_started_from_the_reserve_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_in_process(tmp_path) as node:
        assert (tmp_path / "reserve").exists()
        Disk(errno.ENOSPC, 1).put_in(monkeypatch)
        run = await node.started()
        assert node.executor.adopted == [] and (run.spec.directory / "running").stat().st_size > 0
        run.finish()
        await node.until(KEY, "Completed")


async def test_a_script_for_which_there_is_no_descriptor_is_not_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, times = script_check._read_head, itertools.count(1)

    def read_later(script: Path) -> bytes:
        if next(times) <= 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(script)

    monkeypatch.setattr(script_check, "_read_head", read_later)
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        run.finish()
        await node.until(KEY, "Completed")
    assert next(times) > 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
async def test_an_attempt_that_cannot_be_started_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with node_in_process(tmp_path) as node:
        disk = Disk(number, 1000)
        disk.put_in(monkeypatch)
        await node.submit({KEY: dict(SCRIPT)})
        view = await node.until(KEY, "Failed")
        assert view["end"]["message"].startswith("could not be started: ")
        assert os.strerror(number) in view["end"]["message"]
        assert (view["lost"], view["end"]["failure"]) == (True, "node")
        assert node.executor.runs == {}


@pytest.mark.parametrize(
    ("refusal", "lost"),
    [
        (ExecutorError("as if"), True),
        (OSError(errno.EMFILE, "as if"), True),
        (OSError(errno.EIO, "as if"), True),
        (NotTaken("as if"), False),
    ],
)
async def test_what_the_executor_cannot_start_is_the_node_s_fault_unless_it_says_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, refusal: Exception, lost: bool
) -> None:
    async with node_in_process(tmp_path) as node:
        node.executor.refusal = refusal
        await node.submit({KEY: dict(SCRIPT)})
        view = await node.until(KEY, "Failed")
    assert view["end"]["message"] == "could not be started: as if"
    assert (view["lost"], view["end"]["failure"]) == (lost, "node" if lost else "batch_system")
    warned = [one.getMessage() for one in caplog.records if "could not be started" in one.getMessage()]
    said = "attempt 2 of job 7 could not be started: as if; the node is to blame, not the job"
    assert warned == ([said] if lost else [])


@pytest.mark.parametrize("lost", [True, False])
async def test_a_script_that_cannot_be_looked_at_is_not_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """One that is not there is, unless all that belongs to it has gone."""

    def read(script: Path) -> bytes:
        if lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        raise FileNotFoundError

    monkeypatch.setattr(script_check, "_read_head", read)
    async with node_in_process(tmp_path) as node:
        await node.submit({KEY: dict(SCRIPT)})
        view = await node.until(KEY, "Failed" if lost else "Invalid")
    assert (view["lost"], view["end"]["failure"]) == (lost, "node" if lost else "invalid")


def test_a_script_whose_directory_has_gone_is_not_invalid(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        script_check.make_ready(tmp_path / "work" / "run.sh")
