"""Results that a node cannot hand over: who collects must not ask for them for ever."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.memory.fake_executor import end
from support.processes.nodes_in_process import KEY, NodeInProcess, node_in_process

from actors.wire.protocol.frames import FrameReader


async def collected(node: NodeInProcess) -> list[tuple[bytes, bytes]]:
    answer = await node.client.post("/v1/collect", json={"keys": [KEY]})

    async def body() -> AsyncIterator[bytes]:
        yield answer.content

    return [frame async for frame in FrameReader(body())]


async def refused(node: NodeInProcess) -> dict[str, Any]:
    kind, data = (await collected(node))[-1]
    assert kind == b"X"
    told: dict[str, Any] = json.loads(data)
    return told


@pytest.mark.parametrize(
    ("exit_code", "message"), [(0, "it left 51 files"), (3, "exit code 3; it left 51 files")]
)
async def test_too_many_files_fail_the_attempt_and_leave_its_logs_to_be_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int, message: str
) -> None:
    monkeypatch.setattr("node.runs.manifest.MOST", 1000)
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        for n in range(50):
            (run.spec.work / f"{n}").touch()
        run.print("all there is\n")
        run.finish(end(exit_code))
        view = await node.until(KEY, "Failed")
        assert view["end"]["message"].startswith(f"{message}, more than can be collected")
        frames = await collected(node)
        assert json.loads(frames[0][1])["manifest"] == {"entries": [], "left_out": []}
        assert frames[-1][0] == b"F"
        zipped = zipfile.ZipFile(io.BytesIO(b"".join(data for kind, data in frames if kind == b"Z")))
        assert zipped.namelist() == ["stdout.log", "stderr.log"]
        assert zipped.read("stdout.log") == b"all there is\n"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_result_bytes": 10 << 30},
            " bytes, and 10737418240 is the limit; the largest file is 'holes' with 4398046511104",
        ),
        (
            {"max_result_bytes": 1 << 50, "max_result_files": 12},
            "it left more than 12 files, which is the limit; most are in 'd'",
        ),
    ],
)
async def test_what_is_over_a_limit_fails_at_once_with_the_culprits_name_and_its_logs(
    tmp_path: Path, limits: dict[str, int], message: str
) -> None:
    async with node_in_process(tmp_path, **limits) as node:
        run = await node.started()
        os.truncate(_made(run.spec.work / "holes"), 4 << 40)
        for n in range(10):
            _made(run.spec.work / "d" / str(n)).write_bytes(b"1")
        run.print("all there is\n")
        run.finish()
        view = await node.until(KEY, "Failed")
        assert view["end"]["message"].endswith(message) and view["end"]["exit_code"] == 0
        frames = await collected(node)
        assert json.loads(frames[0][1])["manifest"] == {"entries": [], "left_out": []}
        assert (b"O", b"all there is\n") in frames and frames[-1][0] == b"F"


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("change", ["shorter", "gone", "directory gone", "manifest damaged"])
async def test_what_is_no_longer_as_it_ended_is_told_for_good(tmp_path: Path, change: str) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        file = run.spec.work / "a"
        file.write_bytes(b"long enough")
        run.finish()
        await node.until(KEY, "Completed")
        if change == "shorter":
            os.truncate(file, 3)
        elif change == "gone":
            file.unlink()
        elif change == "directory gone":
            shutil.rmtree(run.spec.work)
        else:
            (run.spec.directory / "manifest.json").write_text("{")
        told = await refused(node)
        assert told["permanent"] is True and told["error"].startswith("cannot be read: ")


@pytest.mark.parametrize("into", ["link", "fifo", "directory"])
async def test_what_a_script_puts_in_the_place_of_a_log_is_not_read(tmp_path: Path, into: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"nobody is to read it")
    async with node_in_process(tmp_path / "data") as node:
        run = await node.started()
        log = run.spec.directory / "stdout.log"
        log.unlink()
        if into == "link":
            log.symlink_to(secret)
        elif into == "fifo":
            os.mkfifo(log)
        else:
            log.mkdir()
        run.finish()
        await node.until(KEY, "Completed")
        frames = await collected(node)
    assert [kind for kind, _ in frames] == [b"E", b"X"]
    assert json.loads(frames[1][1]) == {
        "key": KEY,
        "error": "cannot be read: 'stdout.log' is no regular file (any more)",
        "permanent": True,
    }


async def test_a_file_that_is_cut_while_it_is_sent_breaks_off_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_in_process(tmp_path) as node:
        run = await node.started()
        file = _made(run.spec.work / "a")
        incompressible = os.urandom(1 << 20)
        with file.open("wb") as filled:
            for _ in range(64):
                filled.write(incompressible)
        found = file.stat()
        run.finish()
        await node.until(KEY, "Completed")
        for route in ("results", "files/a"):
            caplog.clear()
            os.truncate(file, found.st_size)
            os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
            with pytest.raises(httpx.RemoteProtocolError):
                async with node.client.stream("GET", f"/v1/attempts/{KEY}/{route}") as answer:
                    assert answer.status_code == 200
                    async for _ in answer.aiter_raw():
                        os.truncate(file, 3)
            (told,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert (
                told.getMessage().startswith(f"the answer to GET /v1/attempts/{KEY}/{route} broke off: ")
                and told.exc_info is None
            )


@pytest.mark.parametrize(("number", "permanent"), [(errno.EIO, True), (errno.EMFILE, None)])
async def test_a_broken_disk_is_told_for_good_and_a_busy_machine_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, permanent: bool | None
) -> None:
    async with node_in_process(tmp_path) as node:
        (await node.started()).finish()
        await node.until(KEY, "Completed")

        def fails(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("node.api.packing.read_manifest", fails)
        told = await refused(node)
        assert told.get("permanent") is permanent and os.strerror(number) in told["error"]
