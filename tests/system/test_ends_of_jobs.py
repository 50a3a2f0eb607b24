"""How a job ended is what happened to its process, whatever its files say; and no job outlives its time."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
import trio
from support.peers.portals import Portal, portal
from support.processes.gates import gate
from support.processes.processes import PATIENCE, Place, Started, promised

TRAP = "trap 'echo \"$?\" > .orchestrator.exit' EXIT\n"
MARK = ".orchestrator.exit"


async def begun(fifo: Path) -> None:
    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "begun"
    os.mkfifo(path)
    return path


async def timed(user: Portal, script: str, seconds: str | None) -> int:
    fields = [] if seconds is None else [f'name="max_runtime"|{seconds}']
    answer = await user.post(f'name="file"; filename="run.sh"|{script}', *fields)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


# ------------------------------------------------------------------ the exit mark


async def test_a_mark_of_success_does_not_hide_a_run_over_its_time(shared: Started) -> None:
    async with portal(shared.url) as user:
        # Time enough to come to its sleep.
        limit = round(promised(1))
        job = await user.ended(await timed(user, TRAP + "echo part > part; sleep 600\n", str(limit)))
        assert (job["status"], job["message"]) == ("Failed", f"timed out after {limit} s")
        assert (await user.contents(job["id"]))["part"] == b"part\n"


async def test_a_mark_of_success_does_not_hide_a_kill(shared: Started, fifo: Path) -> None:
    async with portal(shared.url) as user:
        job = await user.upload(f"{TRAP}echo > {fifo}; sleep 600\n")
        await begun(fifo)
        assert (await user.http.post(f"/terminate/{job}")).status_code == 200
        end = await user.ended(job)
        assert (end["status"], end["message"]) == ("Killed", "terminated")


async def test_a_mark_of_success_does_not_hide_a_signal_from_outside(here: Place, fifo: Path) -> None:
    server = here.server(nodes=[here.node("node").url])
    async with portal(server.url) as user:
        job = await user.upload(f"{TRAP}echo > {fifo}; sleep 600\n")
        await begun(fifo)
        (bash,) = (process for process in here.left() if _runs_the_script(process))
        bash.send_signal(signal.SIGTERM)
        end = await user.ended(job)
        assert (end["status"], end["message"]) == ("Failed", "killed by signal 15")


def _runs_the_script(process: psutil.Process) -> bool:
    return process.name() == "bash" and process.cmdline()[-1].endswith("/run.sh")


async def test_an_uploaded_mark_neither_ends_a_job_nor_makes_it_a_success(
    shared: Started, fifo: Path, tmp_path: Path
) -> None:
    async with portal(shared.url) as user:
        with gate(tmp_path / "gate") as shut:
            job = await user.upload(f"echo > {fifo}; {shut.wait}; exit 3", files={MARK: b"0"})
            await begun(fifo)
            await user.until(job, "Running")
            # A second is time enough for whoever would look for it.
            running = await user.job(job)
            assert await user.job(job, f"?wait=1&after={running['version']}") == running
        end = await user.ended(job)
        assert (end["status"], end["message"]) == ("Failed", "exit code 3")
        assert (await user.contents(job))[MARK] == b"0"


async def test_a_script_that_marks_its_success_and_kills_itself_has_failed(shared: Started) -> None:
    async with portal(shared.url) as user:
        end = await user.run(f"echo 0 > {MARK}; kill -9 $$")
        assert (end["status"], end["message"]) == ("Failed", "killed by signal 9")


# ------------------------------------------------------------------ the time limit


async def test_the_services_limit_holds_for_all_and_an_uploads_own_below_it(here: Place) -> None:
    node = here.node("node", grace="0.5")
    # Time enough for all that the script does before its sleep.
    own, most = round(promised(0.5), 1), round(promised(2), 1)
    server = here.server(nodes=[node.url], config=f"[services.example]\nmax_runtime = {most}\n")
    script = "echo part > part; echo said; trap '' TERM; sleep 600 & wait; sleep 600"
    async with portal(server.url) as user:
        jobs = {most: await timed(user, script, None), own: await timed(user, script, str(own))}
        for limit, job in jobs.items():
            end = await user.ended(job)
            assert (end["status"], end["message"]) == ("Failed", f"timed out after {limit:g} s")
            assert limit <= end["wall_seconds"] < most + promised(0.5 + 2)
            assert (await user.contents(job))["part"] == b"part\n"
            assert await user.log(job) == b"said\n"
        assert (await user.run("true"))["status"] == "Completed"
        answer = await user.post('name="file"; filename="run.sh"|true', f'name="max_runtime"|{most + 1}')
        assert answer.status_code == 400 and "max_runtime" in answer.json()["message"]


async def test_a_job_over_a_limit_of_its_service_or_its_own_fails_and_says_which(here: Place) -> None:
    node = here.node("node")
    config = '[services.example]\nmemory = "200M"\ncpu_time = 100\n'
    server = here.server(nodes=[node.url], config=config)
    told = {
        "head -c 400M /dev/zero | tail -c 390M | sleep 600": (
            (),
            "out of memory: its limit is 200 MiB",
        ),
        "echo part > part; while :; do :; done": (
            ('name="cpu_time"|0.3',),
            "over its limit of CPU time: 0.3 s",
        ),
        "head -c 9M /dev/zero > big; sleep 600": (('name="disk"|5M',), "over its limit of disk: 5 MiB"),
        "exec head -c 9M /dev/zero > big": (
            ('name="file_size"|1M',),
            "over its limit of the size of a file: 1 MiB",
        ),
    }
    async with portal(server.url) as user:
        for script, (fields, message) in told.items():
            answer = await user.post(f'name="file"; filename="run.sh"|{script}', *fields)
            assert answer.status_code == 201, answer.text
            end = await user.ended(answer.json()["id"])
            assert (end["status"], end["message"]) == ("Failed", message)
        answer = await user.post('name="file"; filename="run.sh"|true', 'name="memory"|201M')
        assert answer.status_code == 400 and "at most 200 MiB" in answer.json()["message"]


async def test_the_time_that_a_node_was_down_counts_as_run_time(here: Place, fifo: Path) -> None:
    node = here.node("node", on_stop="leave")
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        job = await timed(user, f"echo > {fifo}; echo part > part; sleep 600", "2")
        await begun(fifo)
        await node.end(signal.SIGKILL)
        here.node("node", port=node.port, on_stop="leave")
        end = await user.ended(job)
        assert (end["status"], end["message"], end["attempt"]) == ("Failed", "timed out after 2 s", 1)
        assert end["wall_seconds"] < promised(10)
        assert (await user.contents(job))["part"] == b"part\n"
