"""Both sides against peers that know only the published contract, and in the place of what they replace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trio
from support.peers.portals import portal
from support.processes.gates import gate
from support.processes.processes import PATIENCE, Place, Started, gone, place

FAKES = Path(__file__).parents[1] / "support" / "peers"
MARK = "trap 'echo \"$?\" > .orchestrator.exit' EXIT\n"
"""What scripts for foreign nodes begin with."""


def foreign_node(here: Place, port: str = "0") -> Started:
    command = (sys.executable, str(FAKES / "foreign_node_program.py"))
    return here.start(port, str(here.directory / "foreign"), name="foreign", command=command)


def routes(node: Started) -> dict[str, str]:
    """As a compose file of the Rust program names a node."""
    names = {"UPLOAD": "submit", "DOWNLOAD": "retrieve", "TERMINATE": "kill"}
    return {f"SERVICE_EXAMPLE_{name}_URL": f"{node.url}/{route}" for name, route in names.items()}


# ------------------------------------------------------------------ the compose file


async def test_the_environment_of_the_rust_programs_compose_file_does_the_same_job(here: Place) -> None:
    environment = {
        "PORT": "0",
        "HOST": "127.0.0.1",
        "DATA_PATH": str(here.directory / "n"),
        "MAX_AGE": "172800",
    }
    node = here.start("client", name="node", environment=environment)
    limits = {"SERVICE_EXAMPLE_RUNS_PER_USER": "3", "SERVICE_EXAMPLE_MAX_RUNS": "7", "MAX_AGE": "172800"}
    server = here.server(**routes(node), **limits)
    async with portal(server.url) as user:
        job = await user.run(MARK + "cat sub/in > out\n", files={"sub/in": b"ATOM"})
        assert job["status"] == "Completed"
        assert (await user.contents(f"/download/{job['id']}"))["out"] == b"ATOM"
        failed = await user.run(MARK + "exit 3\n")
        assert (failed["status"], failed["message"]) == ("Failed", "exit code 3")
        (service,) = (await user.json("/v1/services"))["items"]
        assert (service["name"], service["runs_per_user"], service["max_runs"]) == ("example", 3, 7)
        (found,) = (await user.json("/v1/nodes"))["items"]
        assert found["kind"] == "own"
    assert "WARNING" not in server.errors()


# ------------------------------------------------------------------ a foreign node


@pytest.fixture(scope="module")
def foreign() -> Iterator[Started]:
    """A server with a foreign node."""
    with tempfile.TemporaryDirectory(prefix="system-") as directory, place(Path(directory)) as there:
        yield there.server(**routes(foreign_node(there)))


@pytest.fixture(scope="module")
def ours() -> Iterator[Started]:
    """A node of ours."""
    with tempfile.TemporaryDirectory(prefix="system-") as directory, place(Path(directory)) as there:
        yield there.node()


async def test_a_foreign_node_runs_our_jobs(foreign: Started) -> None:
    async with portal(foreign.url) as user:
        script = MARK + "wc -c < big.bin > size; echo done > result.txt\n"
        job = await user.run(script, files={"deep/er/big.bin": bytes(range(256)) * 4000})
        assert (job["status"], job["attempt"]) == ("Completed", 1)
        found = await user.contents(f"/download/{job['id']}")
        assert found["size"].strip() == b"1024000" and found["result.txt"] == b"done\n"
        assert len(found["big.bin"]) == 1_024_000
        (node,) = (await user.json("/v1/nodes"))["items"]
        assert (node["kind"], node["status"]) == ("foreign", "ready")


async def test_a_job_that_fails_on_a_foreign_node_has_its_code_and_files(foreign: Started) -> None:
    async with portal(foreign.url) as user:
        failed, invalid = await user.upload(MARK + "echo part > part; exit 3\n"), await user.upload(None)
        job = await user.ended(failed)
        assert (job["status"], job["message"]) == ("Failed", "exit code 3")
        assert (await user.contents(failed))["part"] == b"part\n"
        assert (await user.ended(invalid))["status"] == "Invalid"


async def test_a_job_on_a_foreign_node_is_terminated(foreign: Started, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with portal(foreign.url) as user:
        job = await user.upload(MARK + f"echo $$ > {fifo}; sleep 600\n")
        pid = int(await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True))
        await user.until(job, "Running")
        answer = await user.http.post(f"/terminate/{job}")
        assert answer.status_code == 200
        # Such a node may take its time; the order stands.
        assert answer.json()["status"] in ("Killed", "Locked")
        assert (await user.ended(job))["status"] == "Killed"
        again = (await user.http.post(f"/terminate/{job}")).json()
        assert again == {"id": job, "status": "Killed", "message": "job terminated"}
    await gone([pid])


# ------------------------------------------------------------------ a foreign orchestrator


def driven(
    here: Place, node: Started, files: dict[str, str], *flags: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a foreign orchestrator saw of one job on our node, and the files in its zip."""
    directory, result = here.directory / "sent", here.directory / "result.zip"
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    program = str(FAKES / "foreign_orchestrator_program.py")
    said = json.loads(here.run(sys.executable, program, node.url, str(directory), str(result), *flags))
    with zipfile.ZipFile(result) as archive:
        return said, {name: archive.read(name) for name in archive.namelist()}


async def test_a_foreign_orchestrator_runs_a_job_on_our_node(here: Place, ours: Started) -> None:
    files = {"run.sh": MARK + "cat sub/in.txt > out.txt\n", "sub/in.txt": "ATOM"}
    said, found = driven(here, ours, files)
    assert said["submitted"]["status"] == "Prepared" and said["seen"][-1] == "Completed"
    assert said["submitted"]["pid"] == 0 and said["submitted"]["killed"] is False
    assert found["out.txt"] == b"ATOM" and found["sub/in.txt"] == b"ATOM"
    assert found[".orchestrator.exit"] == b"0\n"
    assert said["unknown"] == [404, 404, 404]


async def test_a_foreign_orchestrator_sees_a_failure_and_has_its_files(here: Place, ours: Started) -> None:
    said, found = driven(here, ours, {"run.sh": "echo part > part\nexit 3\n"})
    assert said["seen"][-1] == "Failed"
    assert found["part"] == b"part\n"


def _directory_of(pid: int) -> str:
    # Some are gone meanwhile, and some are deeper than a path can say.
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd")
    return ""


async def test_a_foreign_orchestrator_kills_a_job_on_our_node(here: Place, ours: Started) -> None:
    said, found = driven(here, ours, {"run.sh": "echo begun > begun\nsleep 600 & wait\n"}, "--kill")
    assert said["killed"] == [200, ""]
    assert said["seen"][-1] == "Killed"
    assert "run.sh" in found
    inside = said["submitted"]["loc"]
    assert not [pid for pid in psutil.pids() if _directory_of(pid) == inside]


# ------------------------------------------------------------------ ids that begin at 1 again


async def submitted_by_hand(node: Started, line: str = "echo B > who\n") -> int:
    async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=PATIENCE) as http:
        script = (MARK + line).encode()
        answer = await http.post("/submit", files=[("run.sh", ("run.sh", script))])
        assert answer.status_code == 200
        return int(answer.json()["id"])


@pytest.mark.parametrize("kind", ["own", "foreign"])
async def test_a_node_that_forgot_its_ids_never_gives_somebody_elses_results(here: Place, kind: str) -> None:
    """Job A is payload 1 of a node that is killed and started again while the orchestrator is stopped; then B
    is submitted by hand."""
    fifo = here.directory / "fifo"
    os.mkfifo(fifo)
    node = foreign_node(here) if kind == "foreign" else here.node("node")
    server = here.server(**(routes(node) if kind == "foreign" else {"SERVICE_EXAMPLE_NODES": node.url}))
    with gate(here.directory / "gate") as shut:
        async with portal(server.url) as user:
            begins = f'{MARK}[ "$(cat in)" = A ] || exit 9; [ -p {fifo} ] && echo $$ > {fifo}; '
            script = f"{begins}{shut.wait}; echo A > who\n"
            job = await user.upload(script, files={"in": b"A"})
            first = int(await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True))
            fifo.unlink()
            await user.until(job, "Running")
            server.send(signal.SIGSTOP)
            await node.end(signal.SIGKILL)
            if kind == "foreign":
                os.killpg(first, signal.SIGKILL)
                foreign_node(here, node.port)
            else:
                here.node("node", port=node.port)
            number = await submitted_by_hand(node)
            assert (number == 1) is (kind == "foreign")
            server.send(signal.SIGCONT)
            shut.open()
            end = await user.ended(job)
            assert end["status"] == "Completed"
            assert (await user.contents(job))["who"] == b"A\n"
            # A lost attempt is made again; one that was found again is not.
            assert end["attempt"] == (2 if kind == "foreign" else 1)
    async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=PATIENCE) as http:
        answer = await http.get(f"/retrieve/{number}")
        assert answer.headers["content-type"] == "application/zip"


async def test_terminating_a_lost_job_leaves_the_stranger_with_its_id_alone(here: Place) -> None:
    begun, go_on, done = (here.directory / name for name in ("begun", "go-on", "done"))
    for fifo in (begun, go_on, done):
        os.mkfifo(fifo)
    node = foreign_node(here)
    server = here.server(**routes(node))
    async with portal(server.url) as user:
        job = await user.upload(f"{MARK}echo $$ > {begun}; sleep 600\n")
        first = int(await trio.to_thread.run_sync(begun.read_text, abandon_on_cancel=True))
        await user.until(job, "Running")
        server.send(signal.SIGSTOP)
        await node.end(signal.SIGKILL)
        os.killpg(first, signal.SIGKILL)
        foreign_node(here, node.port)
        assert await submitted_by_hand(node, f"read x < {go_on}; echo $x > {done}\n") == 1
        server.send(signal.SIGCONT)
        assert (await user.http.post(f"/terminate/{job}")).json()["status"] == "Locked"
        with trio.fail_after(PATIENCE):
            await trio.to_thread.run_sync(go_on.write_text, "alive\n", abandon_on_cancel=True)
            assert await trio.to_thread.run_sync(done.read_text, abandon_on_cancel=True) == "alive\n"
        # While a payload runs under its id nothing proves that it is another's: scripts may remove markers.
        assert (await user.ended(job))["status"] == "Killed"
