"""What the command makes of answers, against a peer that gives exactly these."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result
from support.peers.peer import Hangup, Peer, Request, problem, send, serving

from orchestrator.cli import main
from orchestrator.client import Retries
from orchestrator.commands import connection as connecting
from orchestrator.commands import watch

JOB: Mapping[str, Any] = {
    "id": 24,
    "user_id": 1,
    "service": "docking",
    "status": "Completed",
    "message": "exit code 0",
    "version": 7,
    "exit_code": 0,
}
LACKS = [{"path": "pipe", "reason": "it is no file"}, {"path": "out", "reason": "it leads out"}]


class Orchestrator:
    """Its answers by method and path; what is not among them is refused as unknown. A JSON body is a 200."""

    def __init__(self, **job: Any) -> None:
        self.job = {**JOB, **job}
        self.answers: dict[str, Any] = {"POST /upload": {"id": 24, "status": "Queued", "message": ""}}
        self.answers["GET /v1/services"] = {"items": [_service("docking"), _service("example")]}
        self.peer = Peer(self._answer)

    async def _answer(self, request: Request, stream: trio.SocketStream) -> None:
        call = f"{request.method} {request.path.partition('?')[0]}"
        if call == "GET /v1/jobs/24":
            await send(stream, 200, self.job)
        elif call == "GET /v1/jobs":
            await send(stream, 200, {"items": [self.job], "next": None})
        elif isinstance(found := self.answers.get(call), tuple):
            await problem(stream, *found)
        elif call == "GET /v1/jobs/24/logs" and found is not None:
            await send(stream, 200, found, "text/plain\r\nlog-offset: 0")  # and where it begins
        elif found is not None:
            await send(
                stream, 200, found, "application/zip" if isinstance(found, bytes) else "application/json"
            )
        else:
            await problem(stream, 404, "unknown_job")

    def calls(self) -> list[str]:
        return [f"{request.method} {request.path.partition('?')[0]}" for request in self.peer.requests]


def _service(name: str) -> dict[str, Any]:
    return {"name": name, "runs_per_user": 1, "max_runs": 1, "jobs": {}}


def _zip(**files: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


async def run(server: Orchestrator, directory: Path, *arguments: str) -> Result:
    """The command in this directory, with a run.sh in it."""
    (directory / "run.sh").write_text("true")
    environment = {"ORCHESTRATOR_USER": "1", "XDG_CONFIG_HOME": "/nowhere", "ORCHESTRATOR_TOKEN": ""}
    async with serving(server.peer) as peer:
        told = {**environment, "ORCHESTRATOR_URL": peer.url}
        with contextlib.chdir(directory):
            return await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, arguments, env=told))


async def test_of_a_failed_job_the_last_line_of_its_standard_error_is_told(tmp_path: Path) -> None:
    server = Orchestrator(status="Failed", message="exit code 3", exit_code=3, failure="exit_code")
    server.answers["GET /v1/jobs/24/logs"] = b"begun\ngmx: no such \x1b[1mforce field\n\n"
    arguments = ("submit", "run.sh", "--service", "docking", "--wait")
    done = await run(server, tmp_path, *arguments)
    assert (done.exit_code, done.stderr.splitlines()[-2:]) == (
        3,
        ["job 24: Failed: exit code 3", "job 24: last of stderr: gmx: no such \\x1b[1mforce field"],
    )
    done = await run(server, tmp_path, *arguments, "--quiet")
    assert (done.exit_code, done.stderr) == (3, "")
    del server.answers["GET /v1/jobs/24/logs"]
    done = await run(server, tmp_path, *arguments)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (3, "job 24: Failed: exit code 3")


@pytest.mark.parametrize(
    ("end", "status"),
    [({}, 125), ({"status": "Failed", "exit_code": 3}, 3), ({"exit_code": None, "signal": 9}, 137)],
)
async def test_the_end_of_a_job_stands_when_its_results_cannot_be_fetched(
    tmp_path: Path, end: dict[str, Any], status: int
) -> None:
    server = Orchestrator(**end)
    server.answers["GET /v1/jobs/24/results"] = (404, "nothing_left")
    done = await run(server, tmp_path, "submit", "run.sh", "--service", "docking", "-o", "a b/res")
    assert (done.exit_code, done.stdout) == (status, "24\n")
    told = "it is nothing_left; get the results: orchestrator get 24 --output 'a b/res'"
    assert done.stderr.splitlines()[-1] == told


@pytest.mark.parametrize("how", ["full", "file", "locked"])
async def test_nothing_is_sent_when_results_have_no_place(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Orchestrator()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: may(path, mode) and mode != os.W_OK | os.X_OK)
    done = await run(server, tmp_path, "submit", "run.sh", "--service", "docking", "-o", how)
    assert (done.exit_code, done.stdout, server.calls()) == (2, "", [])


async def test_a_job_needs_its_script_and_one_of_several_services(tmp_path: Path) -> None:
    server = Orchestrator()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "run.sh").touch()
    (tmp_path / "input").touch()
    done = await run(server, tmp_path, "submit", "sub", "input", "--wait")
    assert done.exit_code == 2 and "there is no run.sh among the files" in done.stderr
    assert server.calls() == []
    done = await run(server, tmp_path, "submit", "sub")
    assert done.exit_code == 2 and "name one with --service: docking, example" in done.stderr
    assert server.calls() == ["GET /v1/services"]


async def test_what_results_lack_is_told_wherever_they_are_looked_at(tmp_path: Path) -> None:
    server = Orchestrator(files_left_out=LACKS)
    server.answers["GET /v1/jobs/24/results"] = _zip(out="x")
    server.answers["GET /v1/jobs/24/files"] = {"items": [], "next": None}
    server.answers["GET /v1/jobs/24/history"] = {"items": [], "next": None}
    told = "not in the results of job 24: pipe (it is no file), out (it leads out)"
    done = await run(server, tmp_path, "get", "24")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "job-24\n", f"{told}\n")
    assert (await run(server, tmp_path, "files", "24")).stderr == f"{told}\n"
    assert "left out  pipe (it is no file), out" in (await run(server, tmp_path, "status", "24")).stdout
    done = await run(server, tmp_path, "submit", "run.sh", "--service", "docking", "-o", "res")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (0, told)
    assert (tmp_path / "res" / "out").read_text() == "x"


@pytest.mark.parametrize(("by", "said"), [("operator", "by operator at "), (None, "at ")])
async def test_status_tells_when_a_job_was_cancelled_and_by_whom(
    tmp_path: Path, by: str | None, said: str
) -> None:
    at = "2026-11-25T10:00:00Z"
    server = Orchestrator(status="Killed", cancelled={"at": at, "by": by})
    server.answers["GET /v1/jobs/24/history"] = {"items": [], "next": None}
    assert f"cancelled {said}{at}" in (await run(server, tmp_path, "status", "24")).stdout


async def test_status_tells_what_was_asked_for_and_when_a_callback_is_tried_again(tmp_path: Path) -> None:
    at = "2026-11-25T10:00:00Z"
    called = {"url": "https://p.example", "status": "pending", "tries": 1, "last_error": "503", "next_at": at}
    server = Orchestrator(
        status="Cleaned",
        outcome="Failed",
        exit_code=3,
        requires="gpu=a100",
        max_runtime_seconds=90.0,
        limits={"cpu_seconds": 5.0, "memory_bytes": 3 << 29},
        batch_request={"partition": "long", "cpus": 8},
        callback=called,
        position=0,
    )
    server.answers["GET /v1/jobs/24/history"] = {"items": [], "next": None}
    lines = (await run(server, tmp_path, "status", "24")).stdout.splitlines()
    assert {
        "end       Failed, exit code 3",
        "requires  gpu=a100",
        "limit     run time 1m30s, memory 1.5 GiB, cpu time 5 s",
        "asks for  partition long, cpus 8",
        "place     1 in the queue",
    } < set(lines)
    assert f"callback  https://p.example pending after 1 try: 503; next try at {at}" in lines


async def test_status_tells_which_job_it_repeats_and_what_differs(tmp_path: Path) -> None:
    server = Orchestrator(rerun_of=7)
    server.answers["GET /v1/jobs/24/history"] = {"items": [], "next": None}
    told = (await run(server, tmp_path, "status", "24")).stdout
    assert "rerun of  7 (inputs cannot be compared: it is unknown_job)" in told
    ways = ("changed", "new", "left_out", "not_compared")
    items = [{"path": f"{n}.pdb", "change": way} for n, way in enumerate(ways)]
    server.answers["GET /v1/jobs/24/input-changes"] = {"rerun_of": 7, "items": items, "more": 3}
    told = (await run(server, tmp_path, "status", "24")).stdout
    assert "of  7: 0.pdb changed, 1.pdb new, 2.pdb left out, 3.pdb as long as before, not compar" in told
    assert "ed, 3 more\n" in told
    server.answers["GET /v1/jobs/24/input-changes"] = {"rerun_of": 7, "items": [], "more": 0}
    assert "rerun of  7: the same inputs" in (await run(server, tmp_path, "status", "24")).stdout


async def test_a_job_is_handed_in_as_a_change_of_an_earlier_one(tmp_path: Path) -> None:
    server = Orchestrator()
    done = await run(server, tmp_path, "submit", "run.sh", "--service", "docking", "--rerun-of", "7")
    assert done.exit_code == 0, done.output
    sent = b"".join(request.body for request in server.peer.requests)
    assert b'name="rerun_of"\r\n\r\n7\r\n' in sent
    done = await run(server, tmp_path, "submit", "run.sh", "--service", "docking", "--rerun-of", "0")
    assert done.exit_code == 2


async def test_refusals_name_commands_in_place_of_routes(tmp_path: Path) -> None:
    server = Orchestrator(status="Queued", exit_code=None)
    done = await run(server, tmp_path, "get", "24")
    told = "job 24 is Queued; `orchestrator get 24 --partial` takes what is there\n"
    assert (done.exit_code, done.stderr) == (1, told)
    server.answers["GET /v1/jobs/24/files/x"] = (404, "unknown_file")
    done = await run(server, tmp_path, "get", "24", "x")
    told = "job 24 has no file 'x'; `orchestrator files 24` lists those it has\n"
    assert (done.exit_code, done.stderr) == (1, told)
    server.answers["DELETE /v1/jobs/24"] = (409, "not_ended")
    done = await run(server, tmp_path, "delete", "24", "--yes")
    told = "job 24 has not ended; cancel it first: orchestrator cancel 24\n"
    assert (done.exit_code, done.stderr) == (1, told)
    server.answers["DELETE /v1/jobs/24"] = (409, "locked")
    done = await run(server, tmp_path, "delete", "24", "--yes")
    assert (done.exit_code, done.stderr) == (1, "job 24: it is locked\n")


async def test_a_job_that_moves_on_while_jobs_are_counted_is_one(tmp_path: Path) -> None:
    """It is in the list of each status that is asked for."""
    done = await run(Orchestrator(status="Running"), tmp_path, "cancel", "--user", "1")
    assert done.exit_code == 2 and "1 job would be cancelled (1 Running)" in done.stderr


async def test_a_zip_is_written_over_when_that_is_meant_only(tmp_path: Path) -> None:
    server = Orchestrator()
    server.answers["GET /v1/jobs/24/results"] = _zip(out="x")
    (tmp_path / "24.zip").write_text("mine")
    done = await run(server, tmp_path, "get", "24", "--zip")
    assert done.exit_code == 2 and "'24.zip' is there already; name another file" in done.stderr
    assert (tmp_path / "24.zip").read_text() == "mine"
    assert (await run(server, tmp_path, "get", "24", "--zip", "--force")).stdout == "24.zip\n"
    assert zipfile.ZipFile(tmp_path / "24.zip").read("out") == b"x"


async def test_a_list_goes_on_when_the_orchestrator_is_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connecting, "_retries", lambda: Retries(tries=2, first=0.001, longest=0.001))
    monkeypatch.setattr(watch, "OFTEN", 0.001)
    monkeypatch.setattr(watch, "SELDOM", 0.001)
    looks, back = 0, trio.Event()

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        nonlocal looks
        if not request.path.startswith("/v1/jobs"):
            raise Hangup
        looks += 1
        if 1 < looks < 12:
            if looks % 2:
                raise Hangup
            await problem(stream, 503, "unavailable")
            return
        await send(stream, 200, {"items": [{**JOB, "version": looks}], "next": None})
        if looks == 14:
            back.set()

    async with serving(Peer(answer)) as peer:
        connection = connecting.Connection(peer.url, None, None, None)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch._watch, connection, {}, True)
                await back.wait()
                nursery.cancel_scope.cancel()
    told = capsys.readouterr()
    assert [json.loads(line)["version"] for line in told.out.splitlines()][:3] == [1, 12, 13]
    assert told.err.count("; it goes on as soon as it answers") == 1
    assert len(told.err.splitlines()) == 1
