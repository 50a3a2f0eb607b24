"""The console command as real processes: `server`, `up`, and the app under Hypercorn."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import trio
from support.processes.api_server import form
from support.processes.forked import ForkedProcess, can_be_forked, heeded
from support.processes.processes import promised

COMMAND = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
ENVIRONMENT = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | heeded(os.environ)
ENVIRONMENT["OPEN_LOCAL"] = "1"
START = 60


@dataclass
class Process:
    """`url` is where it said that it listens."""

    inner: trio.Process
    output: trio.abc.ReceiveStream
    url: str

    async def stop(self, number: signal.Signals) -> int:
        self.inner.send_signal(number)
        with trio.fail_after(60):
            return await self.inner.wait()


@asynccontextmanager
async def running(
    path: Path, *arguments: str, command: list[str] = COMMAND, errors: Any = None, **environ: str
) -> AsyncIterator[Process]:
    """The command until it listens, and then until the block ends."""
    inner = await trio.lowlevel.open_process(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**ENVIRONMENT, "XDG_STATE_HOME": str(path), **environ},
        cwd=path,
        start_new_session=True,
    )
    assert inner.stdout is not None
    try:
        said = b""
        with trio.fail_after(START):
            while b"\n" not in said:
                piece = await inner.stdout.receive_some()
                assert piece, f"ended before it listened: {said!r}"
                said += piece
        match = re.fullmatch(rb"listening on (http://\S+)\n", said)
        assert match is not None, said
        yield Process(inner, inner.stdout, match[1].decode())
    finally:
        if inner.returncode is None:
            inner.kill()
        with trio.CancelScope(shield=True):
            await inner.wait()
            await inner.stdout.aclose()


async def refused(path: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    """The exit status and standard error of a command that does not start: forked off one that has everything
    imported, which is most of what each of these costs."""
    environment = {**ENVIRONMENT, "XDG_STATE_HOME": str(path), **environ}
    forked = can_be_forked(environment)

    def run() -> tuple[int, str]:
        with (ForkedProcess if forked else subprocess.Popen)(
            ["orchestrator", *arguments] if forked else [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=path,
        ) as process:
            try:
                said, told = process.communicate(timeout=START)
            finally:
                process.kill()
        assert said == b""
        return process.returncode, told.decode()

    return await trio.to_thread.run_sync(run)


def children(pid: int, *, all_below: bool = False) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=all_below)]


def child(pid: int, command: str) -> int:
    """The one process that was started by `pid` with this command."""
    (found,) = (one.pid for one in psutil.Process(pid).children() if command in one.cmdline())
    return found


async def gone(*pids: int) -> None:
    """Wait until these processes have ended."""
    with trio.fail_after(60):
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)


async def submit(url: str, script: str) -> int:
    fields = ('name="user_id"|1', 'name="service"|example')
    body, content_type = form(f'name="file"; filename="run.sh"|{script}', *fields)
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=START) as client:
        answer = await client.post(f"{url}/upload", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def job(url: str, number: int, query: str = "wait=30&until=ended") -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as client:
        answer = await client.get(f"{url}/v1/jobs/{number}?{query}")
    body: dict[str, Any] = answer.json()
    return body


async def until_running(url: str, number: int) -> None:
    row = await job(url, number, "wait=0")
    with trio.fail_after(START):
        while row["status"] != "Running":
            row = await job(url, number, f"wait=5&after={row['version']}")


async def test_the_version_and_the_help_are_told(tmp_path: Path) -> None:
    commands = ((["--version"], b"orchestrator"), (["--help"], b"up"), (["server", "-h"], b"DB_PATH"))
    for arguments, told in commands:
        done = await trio.run_process([*COMMAND, *arguments], capture_stdout=True, env=ENVIRONMENT)
        assert told in done.stdout


async def test_up_runs_a_job_and_ends_with_everything_on_ctrl_c(tmp_path: Path) -> None:
    async with running(tmp_path, "up", "--port", "0", "--nodes", "2", "--slots", "1") as up:
        number = await submit(up.url, "echo hello > out.txt")
        done = await job(up.url, number)
        assert (done["status"], done["exit_code"]) == ("Completed", 0), done
        await until_running(up.url, await submit(up.url, "sleep 1000"))
        assert len(children(up.inner.pid)) == 3
        everything = children(up.inner.pid, all_below=True)
        with trio.fail_after(promised()):
            assert await up.stop(signal.SIGINT) == 0
        await gone(*everything)


async def test_when_up_is_killed_its_nodes_and_jobs_end_too(tmp_path: Path) -> None:
    async with running(tmp_path, "up", "--port", "0", "--slots", "1") as up:
        await until_running(up.url, await submit(up.url, "sleep 1000"))
        everything = children(up.inner.pid, all_below=True)
        up.inner.kill()
        await gone(*everything)


async def test_up_started_again_goes_on_where_it_was(tmp_path: Path) -> None:
    arguments = ("up", "--port", "0", "--slots", "1", "--data", "here")
    async with running(tmp_path, *arguments) as up:
        number = await submit(up.url, "echo hello")
        await job(up.url, number)
        await up.stop(signal.SIGTERM)
    async with running(tmp_path, *arguments) as up:
        assert (await job(up.url, number))["status"] == "Completed"
        assert await submit(up.url, "true") == number + 1


async def test_a_second_up_with_the_same_data_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, "up", "--port", "0", "--slots", "1"):
        status, told = await refused(tmp_path, "up", "--port", "0", "--slots", "1")
    assert status == 1
    assert told.count("\n") == 1 and "is used by another" in told and "--data" in told


async def test_a_node_of_up_that_dies_is_started_again(tmp_path: Path) -> None:
    with (tmp_path / "err").open("wb") as errors:
        async with running(tmp_path, "up", "--port", "0", "--slots", "1", errors=errors) as up:
            node = child(up.inner.pid, "node")
            os.kill(node, signal.SIGKILL)
            await gone(node)
            done = await job(up.url, await submit(up.url, "echo hello"))
            assert done["status"] == "Completed", done
    assert "started again" in (tmp_path / "err").read_text()


async def test_up_says_once_what_scripts_lack_and_its_nodes_are_given_what_it_is(tmp_path: Path) -> None:
    environ = {"MODULEPATH": "/m", "SCRIPT_ENV_FOR_ALL": "set", "READ": str(tmp_path / "none")}
    environ |= {"ALLOWED_ORIGINS": "*", "SERVICE_A_MAX_RUNS": "1", "OPEN_LOCAL": "1", "MAX_AGE": ""}
    with (tmp_path / "err").open("wb") as errors:
        arguments = ("up", "--port", "0", "--slots", "1", "--nodes", "2")
        async with running(tmp_path, *arguments, errors=errors, **environ) as up:
            done = await job(up.url, await submit(up.url, '[[ $FOR_ALL == set ]]; exit "$?"'))
            assert done["exit_code"] == 0, done
            done = await job(up.url, await submit(up.url, "no-such-program"))
            assert done["message"].startswith("exit code 127; 'no-such-program' was not found"), done
    said = (tmp_path / "err").read_text()
    assert (
        "the server of `up` ignores ALLOWED_ORIGINS, SERVICE_A_MAX_RUNS: `orchestrator server` reads them"
        in said
    )
    assert said.count("scripts do not get MODULEPATH") == 1
    assert said.count(f"there is no {tmp_path}/none, which scripts may read") == 1


async def test_all_mistakes_in_the_settings_are_told_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("prot = 5\n")
    environ = {"PORT": "high", "SERVICE_A_MAX_RUNS": "-1"}
    status, told = await refused(tmp_path, "server", "--config", "x.toml", **environ)
    assert status == 2
    lines = told.splitlines()
    assert len(lines) == 3
    assert "PORT" in lines[0] and "'high'" in lines[0]
    assert not (tmp_path / "data").exists()


async def test_settings_are_checked_without_a_start(tmp_path: Path) -> None:
    config, tokens = tmp_path / "server.toml", tmp_path / "tokens.toml"
    files = f'tokens_file = "{tokens}"\nnode_ca_file = "{tmp_path}/none"\ntls_key = "k.pem"\n'
    config.write_text(
        f'{files}callback_hosts = ["a.org"]\ncallback_secret_file = "{config}/s"\n[services.a]\n'
    )
    tokens.write_text('[[tokens]]\nrole = "king"\n')

    async def check() -> tuple[int, str]:
        command = ("server", "--check", "--config", str(config), "--data", str(tmp_path / "data"))
        return await refused(tmp_path, *command)

    status, told = await check()
    assert status == 2
    assert "node_ca_file" in told and "token 1: hash" in told, "all at once"
    assert "callback_secret_file has to name" in told and "k.pem is named" in told
    config.write_text("[services.a]\n")
    assert "service a: no node is in the settings" in (await check())[1]
    tokens.write_text("")
    config.write_text(f'tokens_file = "{tokens}"\n[services.a]\nnodes = ["http://127.0.0.1:1"]\n')
    assert (await check())[0] == 0
    assert set(os.listdir(tmp_path)) == {"server.toml", "tokens.toml"}, "nothing is made"


async def test_a_wrong_option_is_told_with_status_2(tmp_path: Path) -> None:
    status, told = await refused(tmp_path, "server", "--nope")
    assert status == 2 and "--nope" in told
    status, told = await refused(tmp_path, "up", "--nodes", "0")
    assert status == 2 and "at least 1 node, or --autoscale" in told


async def test_a_data_directory_in_use_is_refused(tmp_path: Path) -> None:
    environ = {"PORT": "0", "SERVICE_A_NODES": "http://127.0.0.1:9"}
    with (tmp_path / "err").open("wb") as errors:
        async with running(tmp_path, "server", errors=errors, **environ) as server:
            status, told = await refused(tmp_path, "server", **environ)
            assert status == 1
            assert told.count("\n") == 1 and "data directory" in told and "is used by another" in told
            status, told = await refused(tmp_path, "server", DATA_PATH="other", **environ)
            assert status == 1
            assert told.count("\n") == 1 and "ledger" in told and "is used by another" in told
            assert await server.stop(signal.SIGTERM) == 0


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, told = await refused(tmp_path, "server", PORT=port, SERVICE_A_NODES="http://127.0.0.1:9")
    assert status == 1
    assert told.count("\n") == 1 and port in told and "in use" in told


async def test_up_that_cannot_start_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, told = await refused(tmp_path, "up", "--port", port, "--slots", "1")
    assert status == 1
    assert told.splitlines()[-1].endswith("the port is in use") and "Traceback" not in told
    (tmp_path / "file").write_text("in the way")
    status, told = await refused(tmp_path, "up", "--port", "0", "--data", "file/x")
    assert status == 1
    assert told.count("\n") == 1 and "file/x" in told


async def test_a_database_that_is_no_ledger_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").write_bytes(b"not a database at all" * 100)
    status, told = await refused(tmp_path, "server", PORT="0", SERVICE_A_NODES="http://127.0.0.1:9")
    assert status == 1
    assert told.count("\n") == 1 and "db.sqlite" in told


async def test_the_app_runs_under_hypercorn_with_its_actors(tmp_path: Path) -> None:
    node = ("node", "--port", "0", "--slots", "1", "--on-stop", "kill", "--data", str(tmp_path / "node"))
    async with running(tmp_path, *node) as there:
        with socket.create_server(("127.0.0.1", 0)) as free:
            free.listen()
            command = [sys.executable, "-m", "hypercorn", "-k", "trio", "-b", f"fd://{free.fileno()}"]
            process = await trio.lowlevel.open_process(
                [*command, "orchestrator.asgi:app"],
                env={**ENVIRONMENT, "SERVICE_EXAMPLE_NODES": there.url},
                cwd=tmp_path,
                pass_fds=[free.fileno()],
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                url = f"http://127.0.0.1:{free.getsockname()[1]}"
                with trio.fail_after(START):
                    done = await job(url, await submit(url, "echo hello"))
                assert done["status"] == "Completed"
                process.terminate()
                with trio.fail_after(60):
                    assert await process.wait() == 0
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                with trio.CancelScope(shield=True):
                    await process.wait()
