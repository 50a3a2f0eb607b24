"""The node where a container may put it: on a small disk of its own, and as PID 1 of its namespace."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import zipfile
from pathlib import Path
from typing import Any

import httpx
import trio
from support.data.directories import until
from support.peers.node_clients import KEY, OTHER
from support.processes.node_processes import NodeProcess, inner, next_url, node_process

SMALL_DISK = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=20M none "$0" && exec "$@"')
FEW_INODES = (
    *("unshare", "-rm", "sh", "-c"),
    'mount -t tmpfs -o size=200m,nr_inodes=900 none "$0" && exec "$@"',
)
FILL = "for i in $(seq 2000); do : > f$i; done 2>/dev/null"
LEAST = 64 << 20
"""Free bytes below which an orchestrator sets a node aside."""
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


async def test_what_fills_the_disk_with_files_ends_can_be_ended_and_goes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with node_process(data, within=(*FEW_INODES, str(data))) as node:
        inside = Path(f"/proc/{inner(node.process.pid)}/root/{data}")
        assert await _free_disk(node) > LEAST
        keys = [f"{n:032x}" for n in range(30)]
        waiting = {"run.sh": b"touch up; until [ -e go ]; do sleep 0.02; done"}
        assert (await node.submit(dict.fromkeys(keys, waiting))).status_code == 200
        up = [inside / "payloads" / key / "work" / "up" for key in keys]
        await until(lambda: all(path.exists() for path in up), inside / "payloads")
        end = await node.run(f"{FILL}; exit 0")
        assert (end["status"], end["message"]) == ("Completed", "")
        # Whatever the reserve held is taken as well.
        for number in range(900):
            try:
                (inside / "incoming" / f"ballast-{number}").touch()
            except OSError:
                break
        assert await _free_disk(node) < LEAST
        answer = await node.submit({OTHER: {"run.sh": b"true"}})
        assert answer.status_code == 507
        for key in keys[:10]:
            os.rename(inside / "payloads" / key / "work" / "up", inside / "payloads" / key / "work" / "go")
        assert (await node.client.post("/v1/cancel", json={"keys": keys[10:20]})).status_code == 200
        assert (await node.client.post("/v1/release", json={"keys": keys[20:]})).status_code == 200
        for key in keys[:20]:
            assert (await node.end_of(key))["status"] == ("Completed" if key < keys[10] else "Killed")
        assert len((await node.client.post("/v1/collect", json={"keys": [KEY]})).content) > 0
        assert (await node.client.post("/v1/release", json={"keys": [KEY, *keys]})).status_code == 200
        await until(lambda: os.listdir(inside / "payloads") == [], inside / "payloads")
        for ballast in (inside / "incoming").glob("ballast-*"):
            ballast.unlink()
        assert await _free_disk(node) > LEAST
        assert (await node.run("true", OTHER))["status"] == "Completed"


async def test_a_node_begins_on_a_disk_that_takes_no_file_more(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    twice = (*FEW_INODES[:-1], FEW_INODES[-1].replace("exec", '{ "$@"; exec') + "; }")
    async with node_process(data, within=(*twice, str(data))) as node:
        first = inner(node.process.pid)
        inside = Path(f"/proc/{node.process.pid}/root/{data}")
        waiting = {"run.sh": b"touch up; until [ -e go ]; do sleep 0.02; done; exit 3"}
        assert (await node.submit({KEY: waiting, OTHER: waiting})).status_code == 200
        up = {key: inside / "payloads" / key / "work" / "up" for key in (KEY, OTHER)}
        await until(lambda: all(path.exists() for path in up.values()), inside / "payloads")
        assert (await node.run(FILL, THIRD))["status"] in ("Completed", "Failed")
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(60):
            url = await next_url(node.process)
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as client:
            again = NodeProcess(url, client, node.process)
            up[KEY].rename(up[KEY].with_name("go"))
            assert (await again.end_of(KEY))["message"] == "exit code 3"
            assert (await client.post("/v1/cancel", json={"keys": [OTHER]})).status_code == 200
            assert (await again.end_of(OTHER))["status"] == "Killed"
            keys = [KEY, OTHER, THIRD]
            assert (await client.post("/v1/release", json={"keys": keys})).status_code == 200
            await until(lambda: os.listdir(inside / "payloads") == [], inside / "payloads")


async def _free_disk(node: NodeProcess) -> int:
    """As it is now: what was measured before may stand in the first heartbeat."""
    async with node.events() as events:
        for _ in range(3):
            beat = (await events.next_of("heartbeat"))["heartbeat"]
    return int(beat["free_disk"])


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
        with trio.fail_after(60):
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
        assert (await node.run("true", OTHER))["peak_bytes"] < 12 << 20
        end = await node.run('python3 -c "b=bytearray(200<<20)"', THIRD)
        assert 200 << 20 <= end["peak_bytes"] < 230 << 20
