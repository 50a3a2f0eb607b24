"""The node as a process of its own, with its real executor: what a user of the command sees."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from support.peers.node_clients import KEY, OTHER
from support.processes.node_processes import NODE, node_process
from support.processes.processes import promised


async def _opened(path: Path) -> str:
    """What a script writes into a FIFO: returns when it has done so."""
    return await trio.to_thread.run_sync(path.read_text, abandon_on_cancel=True)


async def test_a_job_by_the_contract_from_submit_to_zip(tmp_path: Path) -> None:
    script = b'echo out; echo err >&2; echo "$ORCHESTRATOR_ATTEMPT $PORT $MINE" > env; pwd > where'
    async with node_process(tmp_path) as node:
        answer = await node.client.post("/submit", files=[("file", ("run.sh", script))])
        payload = answer.json()
        await node.until(Path(payload["loc"]).parent.name, "Completed")
        zipped = zipfile.ZipFile(io.BytesIO((await node.client.get(f"/retrieve/{payload['id']}")).content))
        assert zipped.namelist() == ["env", "run.sh", "where", "stdout.log", "stderr.log"]
        assert zipped.read("stdout.log") == b"out\n" and zipped.read("stderr.log") == b"err\n"
        assert zipped.read("env") == b"1  \n"  # neither what is the node's own, nor what nobody passed
        assert zipped.read("where").decode() == f"{payload['loc']}\n"


ENDS = [
    ("exit 0", "Completed", ""),
    ("exit 3", "Failed", "exit code 3"),
    ("kill -9 $$", "Failed", "killed by signal 9"),
    ("(sleep 600; echo late) & disown; exit 4", "Failed", "exit code 4"),
    ('rm -rf "$PWD"; exit 0', "Completed", "removed by the script: its directory with all that it left"),
    ("chmod 0 .; exit 0", "Completed", ""),
    (
        "trap 'echo $? > .orchestrator.exit' EXIT; echo 0 > .orchestrator.exit; exit 5",
        "Failed",
        "exit code 5",
    ),
]


async def test_how_scripts_end(tmp_path: Path) -> None:
    async with node_process(tmp_path) as node:
        for number, (script, status, message) in enumerate(ENDS):
            end = await node.run(script, f"{number:032x}")
            assert (end["status"], end["message"]) == (status, message), script
            assert end["wall_seconds"] < promised(10), script


async def test_a_script_over_its_time_and_one_that_ignores_sigterm(tmp_path: Path) -> None:
    async with node_process(tmp_path, "--grace", "0.2") as node:
        end = await node.run("trap '' TERM; sleep 600", max_runtime=0.5)
        assert (end["status"], end["message"]) == ("Failed", "timed out after 0.5 s")
        os.mkfifo(tmp_path / "fifo")
        await node.submit({OTHER: {"run.sh": f"trap '' TERM; echo up > {tmp_path}/fifo; sleep 600".encode()}})
        assert await _opened(tmp_path / "fifo") == "up\n"
        await node.client.post("/v1/cancel", json={"keys": [OTHER]})
        end = await node.end_of(OTHER)
        assert (end["status"], end["message"], end["signal"]) == ("Killed", "terminated", 9)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_of_the_node_ends_no_job(tmp_path: Path, how: int) -> None:
    for name in ("fifo", "go-a", "go-b"):
        os.mkfifo(tmp_path / name)
    scripts = {
        key: f"echo $ORCHESTRATOR_ATTEMPT > {tmp_path}/fifo; read x < {tmp_path}/go-{key[0]}; exit {code}"
        for key, code in ((KEY, 0), (OTHER, 3))
    }
    async with node_process(tmp_path / "data", how=how) as node:
        for key, script in scripts.items():
            await node.submit({key: {"run.sh": script.encode()}})
            assert await _opened(tmp_path / "fifo") == "2\n"
            await node.until(key, "Running")
    await trio.to_thread.run_sync((tmp_path / "go-b").write_text, "go\n")
    async with node_process(tmp_path / "data") as node:
        assert (await node.end_of(OTHER))["message"] == "exit code 3"
        assert (await node.client.get(f"/v1/attempts/{KEY}")).json()["payload"]["status"] == "Running"
        await trio.to_thread.run_sync((tmp_path / "go-a").write_text, "go\n")
        assert (await node.end_of(KEY))["status"] == "Completed"


async def test_a_node_that_kills_on_stop_leaves_no_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    async with node_process(tmp_path / "data", "--on-stop", "kill", "--grace", "0.5") as node:
        await node.submit({KEY: {"run.sh": f"exec 3> {tmp_path}/fifo; echo up >&3; sleep 600".encode()}})
        reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        await node.until(KEY, "Running")
        await trio.lowlevel.wait_readable(reading)
        assert os.read(reading, 10) == b"up\n"
    # The end of what it has open is the end of the process.
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(reading)
    assert os.read(reading, 10) == b""
    os.close(reading)


async def test_a_second_sigterm_does_not_keep_a_node_from_ending_its_jobs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    async with node_process(tmp_path / "data", "--on-stop", "kill", "--grace", "1") as node:
        script = f"exec 3> {tmp_path}/fifo; trap 'echo asked >&3' TERM; echo up >&3"
        script += "; while true; do sleep 600; done"
        await node.submit({KEY: {"run.sh": script.encode()}})
        for said in (b"up\n", b"asked\n"):
            await trio.lowlevel.wait_readable(reading)
            assert os.read(reading, 10) == said
            if said == b"up\n":
                await node.until(KEY, "Running")
                os.kill(node.process.pid, signal.SIGTERM)
        # Another one comes as the block ends: the script is amid its grace.
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(reading)
    assert os.read(reading, 10) == b""
    os.close(reading)


async def test_a_script_that_ignores_sigterm_does_not_hold_the_end_of_the_node(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    # The helper waits 5 s for the end; a grace of 60 s is cut short.
    async with node_process(tmp_path / "data", "--on-stop", "kill", "--grace", "60") as node:
        script = f"trap '' TERM; echo up > {tmp_path}/fifo; sleep 600"
        for key in (KEY, OTHER):
            await node.submit({key: {"run.sh": script.encode()}})
            assert await _opened(tmp_path / "fifo") == "up\n"
        # One of them is being stopped already, with all of its grace.
        await node.client.post("/v1/cancel", json={"keys": [OTHER]})
    async with node_process(tmp_path / "data") as node:
        ends = {key: await node.end_of(key) for key in (KEY, OTHER)}
    assert (ends[KEY]["status"], ends[KEY]["message"]) == ("Failed", "the node was stopped")
    assert ends[OTHER]["status"] == "Killed" and ends[OTHER]["signal"] == 9


async def test_scripts_see_what_the_file_and_pass_env_say(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('pass_env = ["MI*"]\n[job_env]\nOMP_NUM_THREADS = "4"\n')
    async with node_process(tmp_path / "data", "--config", str(tmp_path / "node.toml")) as node:
        await node.run("env | sort > env")
        seen = (await node.client.get(f"/v1/attempts/{KEY}/files/env")).text
    names = {line.partition("=")[0] for line in seen.splitlines()} - {"PWD", "SHLVL", "_", "OLDPWD"}
    assert {name for name in names if not name.startswith("ORCHESTRATOR_")} == {
        *("PATH", "LANG", "PYTHONUNBUFFERED", "SHELL", "HOME", "TMPDIR"),
        *("MINE", "OMP_NUM_THREADS"),
    }
    assert "ORCHESTRATOR_JOB_ID" in names


async def _refused(arguments: Sequence[str], environment: dict[str, str]) -> tuple[int, str]:
    with trio.fail_after(60):
        done = await trio.run_process(
            [*NODE, *arguments],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
            env={**os.environ, **environment},
        )
    return done.returncode, done.stderr.decode()


async def test_settings_that_make_no_sense_end_the_start_with_a_line_each(tmp_path: Path) -> None:
    code, said = await _refused(["--slots", "none"], {"PORT": "http"})
    assert code == 2 and [line.split(":")[0] for line in said.splitlines()] == ["PORT", "--slots"]


async def test_a_directory_or_a_port_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    async with node_process(tmp_path / "data") as node:
        code, said = await _refused(["--port", "0", "--data", str(tmp_path / "data")], {})
        assert code == 1 and len(said.splitlines()) == 1 and "in use by another node" in said
        port = node.url.rsplit(":", 1)[1]
        code, said = await _refused(["--port", port, "--data", str(tmp_path / "other")], {})
        assert code == 1 and "the port is in use" in said.splitlines()[-1] and "Traceback" not in said


def test_the_help_names_every_flag() -> None:
    done = subprocess.run([*NODE, "--help"], capture_output=True, text=True, check=True, timeout=60)
    for flag in (
        "--port",
        "--host",
        "--data",
        "--max-age",
        "--slots",
        "--on-stop",
        "--grace",
        "--upload-limit",
        "--config",
        "PASS_ENV",
        "[job_env]",
    ):
        assert flag in done.stdout
