"""A node that has too few descriptors or processes: what it cannot do waits, and it lives."""

from __future__ import annotations

import os
import re
import resource
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import trio
from support.data.directories import until
from support.peers.node_clients import KEY, OTHER
from support.processes.node_processes import NodeProcess, node_process
from support.processes.processes import PATIENCE, limited, promised

FEW = ("sh", "-c", 'ulimit -n 256; exec "$0" "$@"')
ROUNDS = 60
"""Of a 2.x server's polling: half a minute of it, without the waiting."""
THIRD = "c" * 32
MEMORY = "memory.limit_in_bytes"
EAT = "python3 -c 'bytearray(1 << 30)'"


async def test_a_node_stays_as_it_is_under_a_server_that_asks_on_new_connections(tmp_path: Path) -> None:
    async with node_process(tmp_path / "data", within=FEW) as node:
        script = b"until [ -e go ]; do sleep 0.1; done"
        ids, keys = [], []
        for _ in range(15):
            answer = await node.client.post("/submit", files=[("file", ("run.sh", script))])
            ids.append(answer.json()["id"])
            keys.append(Path(answer.json()["loc"]).parent.name)
            await node.until(keys[-1], "Running")
        address = ("127.0.0.1", int(node.url.rsplit(":", 1)[1]))
        await trio.to_thread.run_sync(_poll, address, ids)
        before = psutil.Process(node.process.pid).num_fds()
        for _ in range(ROUNDS):
            await trio.to_thread.run_sync(_poll, address, ids)
        assert node.process.poll() is None
        await _back(node, before)
        for payload in (tmp_path / "data" / "payloads").iterdir():
            (payload / "work" / "go").touch()
        # Whoever has not looked yet would wait for ever: the directory goes with the test.
        for key in keys:
            await node.end_of(key)


def _poll(address: tuple[str, int], ids: list[int]) -> None:
    for number in ids:
        with socket.create_connection(address, timeout=60) as connection:
            connection.sendall(f"GET /retrieve/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


async def _back(node: NodeProcess, before: int) -> None:
    """Descriptors have no event to wait for; each answer is a turn of the node's own loop."""
    deadline = time.monotonic() + promised()
    while psutil.Process(node.process.pid).num_fds() > before + 2:
        assert time.monotonic() < deadline
        await node.client.get("/v1/info")


async def test_what_finds_no_descriptor_waits_and_goes_on_when_there_are_some(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    async with node_process(data, "--slots", "2") as node, node.events() as events:
        await events.next()
        scripts = {
            KEY: "mkdir d; touch d/f; read x < go; exit 3",
            OTHER: "trap '' TERM; touch up; read x < go",
            THIRD: "echo third",
        }
        for key, script in scripts.items():
            await node.submit({key: {"run.sh": f"mkfifo go; {script}".encode()}})
        for key, name in ((KEY, "d/f"), (OTHER, "up")):
            await until(lambda path=data / "payloads" / key / "work" / name: path.exists(), data / "payloads")
        go = data / "payloads" / KEY / "work" / "go"
        capfd.readouterr()
        with limited(node.process.pid, resource.RLIMIT_NOFILE, 3):
            await trio.to_thread.run_sync(go.write_text, "\n")  # it ends, its manifest is to be made
            answer = await node.client.get(f"/v1/attempts/{KEY}/files")
            assert answer.status_code == 503 and "too little" in answer.json()["detail"], answer.text
            for _ in range(4):
                beat = await events.next_of("heartbeat")  # the node lives
        relieved = time.monotonic()
        assert (await node.end_of(KEY))["message"] == "exit code 3"
        assert time.monotonic() - relieved < promised(6)
        files = (await node.client.get(f"/v1/attempts/{KEY}/files")).json()
        assert {entry["path"] for entry in files["entries"]} >= {"d", "d/f", "stdout.log"}
        assert (await node.end_of(THIRD))["status"] == "Completed"
        assert beat["heartbeat"]["free_disk"]
        await node.client.post("/v1/cancel", json={"keys": [OTHER]})
    said = capfd.readouterr().err
    assert len(said.splitlines()) < 8 and "Traceback" not in said, said


async def test_a_start_and_an_order_to_end_without_descriptors_are_carried_out_later(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with node_process(data, "--slots", "1", "--grace", "0.2") as node, node.events() as events:
        await events.next()
        await node.submit({KEY: {"run.sh": b"touch up; sleep 600"}, OTHER: {"run.sh": b"echo other"}})
        await until((data / "payloads" / KEY / "work" / "up").exists, data / "payloads")
        with limited(node.process.pid, resource.RLIMIT_NOFILE, 3):
            answer = await node.client.post("/v1/cancel", json={"keys": [KEY]})
            assert answer.status_code in (200, 503)
            shepherd = _shepherd(data / "payloads" / KEY)
            os.kill(shepherd, signal.SIGTERM)  # so that the next one is to be started now
            for _ in range(3):
                await events.next_of("heartbeat")
        assert (await node.end_of(OTHER))["status"] == "Completed"
        assert (await node.end_of(KEY))["status"] in ("Killed", "Failed")


def _shepherd(payload: Path) -> int:
    found = re.search(r"^pid ([0-9]+)$", (payload / "run").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of its own that counts processes."""
    with own_group("pids", "pids.max") as made:
        yield made
        (made / "pids.max").write_text("max")


@pytest.fixture
def memory() -> Iterator[Path]:
    """One that counts memory."""
    with own_group("memory", MEMORY) as made:
        yield made


@contextmanager
def own_group(kind: str, limit: str) -> Iterator[Path]:
    made = GROUPS / kind / f"test-{secrets.token_hex(8)}"
    try:
        made.mkdir()
        (made / limit).read_text()
    except OSError:
        pytest.skip(f"there are no control groups for {kind} here")
    yield made
    while left := (made / "cgroup.procs").read_text().split():
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    made.rmdir()


@pytest.mark.parametrize("room", [0, 1])
async def test_what_finds_no_process_is_started_when_there_is_one(
    tmp_path: Path, group: Path, capfd: pytest.CaptureFixture[str], room: int
) -> None:
    """Neither the shepherd nor, where there is room for that alone, its script."""
    data = tmp_path / "data"
    within = ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$0" "$@"')
    async with node_process(data, within=within) as node, node.events() as events:
        await events.next()
        await node.submit({KEY: {"run.sh": b"touch up; sleep 600"}})
        await until((data / "payloads" / KEY / "work" / "up").exists, data / "payloads")
        capfd.readouterr()
        (group / "pids.max").write_text(str(int((group / "pids.current").read_text()) + room))
        await node.submit({OTHER: {"run.sh": b"echo other"}})
        for _ in range(4):
            await events.next_of("heartbeat")
        view = (await node.client.get(f"/v1/attempts/{OTHER}")).json()["payload"]
        assert view["status"] == "Prepared", view
        (group / "pids.max").write_text("max")
        relieved = time.monotonic()
        end = await node.end_of(OTHER)
        assert (end["status"], end["message"]) == ("Completed", "")
        assert time.monotonic() - relieved < promised(6)
        await node.client.post("/v1/cancel", json={"keys": [KEY]})
        await node.end_of(KEY)
    said = capfd.readouterr().err
    assert len(said.splitlines()) < 8 and "Traceback" not in said, said
    with trio.fail_after(60):
        while (group / "pids.current").read_text() != "0\n":
            await trio.lowlevel.checkpoint()


async def test_who_eats_all_memory_is_killed_and_the_node_goes_on(tmp_path: Path, memory: Path) -> None:
    data = tmp_path / "data"
    within = ("sh", "-c", f'echo $$ > {memory}/cgroup.procs; exec "$0" "$@"')
    async with node_process(data, within=within) as node:
        await node.submit({KEY: {"run.sh": b"touch up; read x < /dev/zero"}})
        await until((data / "payloads" / KEY / "work" / "up").exists, data / "payloads")
        used = int((memory / "memory.usage_in_bytes").read_text())
        (memory / MEMORY).write_text(str(used + (100 << 20)))
        end = await node.run(EAT, OTHER)
        assert (end["status"], end["message"]) == ("Failed", "exit code 137"), end
        # The shepherd may be the victim: nothing of its job is left then.
        script = f"touch up; until [ -e go ]; do sleep 0.1; done; sleep 600 & {EAT}; sleep 600"
        await node.submit({THIRD: {"run.sh": script.encode()}})
        work = data / "payloads" / THIRD / "work"
        await until((work / "up").exists, data / "payloads")
        shepherd = psutil.Process(_shepherd(data / "payloads" / THIRD))
        family = [shepherd, *shepherd.children(recursive=True)]
        (Path("/proc") / str(shepherd.pid) / "oom_score_adj").write_text("1000")
        (work / "go").touch()
        end = await node.end_of(THIRD)
        assert (end["status"], end["message"]) == ("Failed", "supervision was killed"), end
        assert psutil.wait_procs(family, timeout=PATIENCE)[1] == []
        assert (await node.client.get(f"/v1/attempts/{KEY}")).json()["payload"]["status"] == "Running"
        await node.client.post("/v1/cancel", json={"keys": [KEY]})
        await node.end_of(KEY)


async def test_without_memory_for_a_thread_a_node_refuses_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    async with node_process(data, "--slots", "2") as node:
        await node.submit({KEY: {"run.sh": b"mkfifo go; touch up; read x < go; exit 3"}})
        work = data / "payloads" / KEY / "work"
        await until((work / "up").exists, data / "payloads")
        capfd.readouterr()
        size = psutil.Process(node.process.pid).memory_info().vms
        answers: dict[str, int] = {}
        with limited(node.process.pid, resource.RLIMIT_AS, size + (2 << 20)):
            await trio.to_thread.run_sync((work / "go").write_text, "\n")

            async def submit(key: str) -> None:
                answers[key] = (await node.submit({key: {"run.sh": b"true"}})).status_code

            async with trio.open_nursery() as nursery:
                for n in range(12):
                    nursery.start_soon(submit, f"{n:032x}")
        relieved = time.monotonic()
        assert (await node.end_of(KEY))["message"] == "exit code 3"
        assert time.monotonic() - relieved < promised()
        assert set(answers.values()) <= {200, 503}, answers
        for key, status in answers.items():
            if status == 200:
                assert (await node.end_of(key))["status"] == "Completed"
            else:
                assert (await node.client.get(f"/v1/attempts/{key}")).status_code == 404
    said = capfd.readouterr().err
    assert len(said.splitlines()) < 8 and "Traceback" not in said, said
