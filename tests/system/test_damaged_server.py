"""Every file that a server writes and reads again, damaged while jobs wait, run and have ended: killed and
started again, it ends each job with a reason or goes on with it, runs none twice and leaves nothing. Only of
a ledger that lacks something no server starts, before it is restored."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.data.damage import a_directory, empty, half, missing, no_utf8, zeros
from support.data.directories import all_files, until
from support.peers.portals import portal
from support.processes.gates import Gate, gate
from support.processes.processes import Place, Started

HUGE = 100 << 20


def huge(path: Path) -> None:
    os.truncate(path, HUGE)


def of_the_future(path: Path) -> None:
    path.write_text('{"version": 99}')


WAYS = [missing, empty, half, zeros, a_directory, huge, no_utf8, of_the_future]
LEDGER = ("db.sqlite", "db.sqlite-wal")
OF_THE_SERVER = (
    *("data/last_id", "db.sqlite.newest", "db.sqlite.reserve/space", "db.sqlite-shm"),
    *("data/orchestrator.lock", "db.sqlite.lock", "data/callback.secret"),
)
OF_JOBS = (
    *("job.json", "job_id", "input/run.sh"),
    *("result/result.zip", "result/manifest.json", "result/stdout.log"),
)


@pytest.fixture
def shut(here: Place) -> Iterator[Gate]:
    with gate(here.directory / "gate") as found:
        yield found


def times_run(ran: Path, number: int) -> int:
    return ran.read_text().split().count(str(number)) if ran.exists() else 0


def _server(here: Place, node: Started) -> Started:
    quotas = {"SERVICE_EXAMPLE_RUNS_PER_USER": "50", "SERVICE_EXAMPLE_MAX_RUNS": "50"}
    return here.server(nodes=[node.url], config="small_files = 0", CALLBACK_HOSTS="portal.test", **quotas)


async def test_what_a_killed_server_finds_damaged_stops_neither_it_nor_a_job(here: Place, shut: Gate) -> None:
    data, ran, many = here.directory / "server", here.directory / "ran", range(len(WAYS) + 1)
    node = here.node("node", "--slots", str(len(many)))
    server = _server(here, node)
    script = f"echo $ORCHESTRATOR_JOB_ID >> {ran}; echo out; echo done > result; "
    async with portal(server.url) as user:
        ended = [await user.upload(script) for _ in many]
        for number in ended:
            assert (await user.ended(number))["status"] == "Completed"
        running = [await user.upload(script + shut.wait) for _ in many]
        for number in running:
            await user.until(number, "Running")
        await until(lambda: all(times_run(ran, number) for number in running), ran.parent)
        queued = [await user.upload(script) for _ in many]
    await server.end(signal.SIGKILL)
    homes = {int((path / "job_id").read_text()): path for path in (data / "data" / "jobs").glob("*/*")}
    assert homes.keys() == {*ended, *running, *queued}
    # Of each state, a job for each way, and one that is left as it is.
    for kind in (ended, running, queued):
        for number, way in zip(kind, WAYS, strict=False):
            for path in (homes[number] / name for name in OF_JOBS):
                if path.exists():
                    way(path)
    for path, way in zip([data / name for name in OF_THE_SERVER], WAYS * 2, strict=False):
        way(path)

    server = _server(here, node)
    async with portal(server.url) as user:
        for number in running:
            assert (await user.job(number))["status"] == "Running"
        shut.open()
        for number in (*ended, *running, queued[-1]):
            end = await user.ended(number)
            assert (end["status"], end["attempt"]) == ("Completed", 1), (number, end)
            assert times_run(ran, number) == 1
        for number, way in zip(queued, WAYS, strict=False):
            end = await user.ended(number)
            # What has kept its length is taken for what it was.
            assert end["status"] == "Failed" or way is zeros, (number, end)
            assert times_run(ran, number) == 0
        for number in running:
            assert (await user.contents(number))["result"] == b"done\n"
        assert (await user.run("true"))["id"] > max(homes)
        for number in homes:
            assert (await user.http.delete(f"/v1/jobs/{number}")).status_code == 200
    await until(lambda: not all_files(here.directory / "node" / "payloads"), here.directory / "node")
    assert not [path for path in homes.values() if path.exists()]
    assert not all_files(data / "data" / "incoming") and not all_files(data / "data" / "spool")
    assert "Traceback" not in server.errors(), server.errors()


async def test_a_damaged_ledger_is_refused_in_a_line_and_restored_all_goes_on(
    here: Place, shut: Gate
) -> None:
    data, ran, copies = here.directory / "server", here.directory / "ran", here.directory / "copies"
    node = here.node("node", "--slots", "1")
    server = _server(here, node)
    script = f"echo $ORCHESTRATOR_JOB_ID >> {ran}; "
    async with portal(server.url) as user:
        ended = await user.run(script)
        running = await user.upload(script + shut.wait)
        await user.until(running, "Running")
        queued = await user.upload(script)
    await server.end(signal.SIGKILL)
    copies.mkdir()
    for name in LEDGER:
        shutil.copyfile(data / name, copies / name)
    environment = {"DB_PATH": str(data / "db.sqlite"), "DATA_PATH": str(data / "data"), "PORT": "0"}
    for name, way in ((LEDGER[0], missing), (LEDGER[1], half)):
        way(data / name)
        refused = here.refused("server", environment={**environment, "SERVICE_EXAMPLE_NODES": node.url})
        assert refused.status == 1 and len(refused.lines) == 1, refused
        assert refused.lines[0].startswith(str(data / "db.sqlite")) and "restore" in refused.lines[0].lower()
        for one in LEDGER:
            shutil.copyfile(copies / one, data / one)
    server = _server(here, node)
    async with portal(server.url) as user:
        assert (await user.job(running))["status"] == "Running"
        shut.open()
        for number in (ended["id"], running, queued):
            assert (await user.ended(number))["status"] == "Completed"
            assert times_run(ran, number) == 1
