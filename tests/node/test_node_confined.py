"""The node where a container may put it: on a small disk of its own, and as PID 1 of its namespace."""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import trio
from support.peers.node_clients import KEY, OTHER
from support.processes.node_processes import NodeProcess, inner, node_process

SMALL_DISK = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=20M none "$0" && exec "$@"')
AS_PID_1 = ("unshare", "-rpf", "--mount-proc", "--kill-child")
THIRD = "c" * 32


async def test_a_job_that_fills_the_disk_fails_and_all_goes_on_when_there_is_room(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with node_process(data, within=(*SMALL_DISK, str(data))) as node:
        end = await node.run("head -c 15M /dev/urandom > a; sha256sum a > sum")
        assert end["status"] == "Completed"
        # The log takes what is left. The script sees nothing of it; with a short log it is no success.
        end = await node.run("head -c 30M /dev/zero", OTHER)
        assert (end["status"], end["exit_code"]) == ("Failed", 0)
        assert re.fullmatch(r"\d+ bytes of its logs could not be written", end["message"])
        answer = await node.submit({THIRD: {"run.sh": b"true", "in": b"#" * (4 << 20)}})
        assert answer.status_code == 507 and answer.json()["items"][0]["result"] == "busy"
        await _whole(node)
        for key in (OTHER, KEY):
            assert (await node.client.post("/v1/release", json={"keys": [key]})).status_code == 200
        # A submit finds room once the directories have gone, a moment after the release.
        while (answer := await node.submit({THIRD: {"run.sh": b"exit 3", "in": b"#" * (4 << 20)}})).is_error:
            assert answer.status_code == 507, answer.text
        assert (await node.end_of(THIRD))["message"] == "exit code 3"
        inside = Path(f"/proc/{inner(node.process.pid)}/root/{data}")
        assert os.listdir(inside / "incoming") == [] and os.listdir(inside / "payloads") == [THIRD]


async def test_a_full_disk_never_completes_a_job_with_a_short_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with node_process(data, within=(*SMALL_DISK, str(data))) as node:
        for key, script in (
            (KEY, "set -e; head -c 30M /dev/zero > a; sha256sum a > sum"),
            (OTHER, "cat a 2>/dev/null; head -c 30M /dev/zero > b"),
        ):
            end = await node.run(script, key)
            assert (end["status"], end["exit_code"]) == ("Failed", 1)
            # The second one finds no reserve: it is told once there is room.
            await node.client.post("/v1/release", json={"keys": [KEY]})


async def _whole(node: NodeProcess) -> None:
    """What can be collected is what was summed up."""
    content = (await node.client.get(f"/v1/attempts/{KEY}/results")).content
    zipped = zipfile.ZipFile(io.BytesIO(content))
    found = zipped.read("a")
    assert len(found) == 15 << 20
    assert zipped.read("sum").decode().split()[0] == hashlib.sha256(found).hexdigest()


async def test_as_pid_1_every_job_has_its_own_exit_code_and_no_zombie_stays(tmp_path: Path) -> None:
    async with node_process(tmp_path / "data", "--slots", "16", within=AS_PID_1) as node:
        pid = inner(node.process.pid)
        assert _pid_within(pid) == 1
        keys = [f"{n:032x}" for n in range(200)]
        script = {"run.sh": b"(sleep 0.05 &); exit 3"}
        ends: dict[str, Any] = {}
        async with node.events() as events:
            await events.next()
            assert (await node.submit(dict.fromkeys(keys, script))).status_code == 200
            while len(ends) < len(keys):
                view = (await events.next_of("payload"))["payload"]
                if view["end"] is not None:
                    ends[view["key"]] = view["end"]["message"]
        assert set(ends.values()) == {"exit code 3"}
        with trio.fail_after(10):
            while _zombies(pid):
                # Each answer is a turn of the node's own loop, in which it looks for them.
                await node.client.get("/v1/info")


def _pid_within(pid: int) -> int:
    """Its pid in its own namespace."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1])


def _zombies(pid: int) -> list[str]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            stat = Path(f"/proc/{child}/stat").read_bytes()
        except OSError:
            continue
        if stat.rpartition(b")")[2].split()[0] == b"Z":
            found.append(child)
    return found


async def test_the_memory_of_a_job_is_its_own_and_not_the_nodes(tmp_path: Path) -> None:
    async with node_process(tmp_path / "data") as node:
        assert (await node.run("head -c 60M /dev/urandom > big"))["status"] == "Completed"
        assert len((await node.client.post("/v1/collect", json={"keys": [KEY]})).content) > 60 << 20
        assert (await node.run("true", OTHER))["peak_bytes"] < 10 << 20
        end = await node.run('python3 -c "b=bytearray(200<<20)"', THIRD)
        assert 200 << 20 <= end["peak_bytes"] < 230 << 20
