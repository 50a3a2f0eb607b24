"""From upload to results through server, node and bash: how scripts end and what is left of them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import trio
from support.peers.portals import portal
from support.processes.processes import Started, promised

WITHOUT_BOM = "run.sh began with a byte order mark; it was removed"
CONVERTED = "run.sh had Windows line endings; they were converted"
CONVERTED_CR = "run.sh had line endings of CR alone; they were converted"
LOGS = {"stdout.log", "stderr.log"}


async def test_exit_3_is_failed_with_its_outputs_and_logs(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run("echo out; echo err >&2; echo data > result.txt; exit 3", files={"in": b"x"})
        assert (job["status"], job["message"]) == ("Failed", "exit code 3")
        assert (job["exit_code"], job["signal"]) == (3, None)
        found = await user.contents(job["id"])
        assert found.keys() == {"run.sh", "in", "result.txt"} | LOGS
        assert found["result.txt"] == b"data\n" and found["stderr.log"] == b"err\n"
        assert await user.log(job["id"]) == b"out\n"
        assert await user.log(job["id"], "stderr") == b"err\n"
        told = await user.json(f"/download/{job['id']}")
        assert told == {"id": job["id"], "status": "Failed", "message": "exit code 3"}


@pytest.mark.parametrize(
    ("script", "end", "left"),
    [
        ("#!/bin/bash -e\nfalse\necho wrong > o\n", ("Failed", "exit code 1"), None),
        (
            "#!/usr/bin/env -S bash -eo pipefail\nfalse | true\n: > o\n",
            ("Failed", "exit code 1"),
            None,
        ),
        ("#!/bin/bash\recho hi > o\r", ("Completed", CONVERTED_CR), b"hi\n"),
        ("\ufeff#!/bin/bash -e\r\nfalse\r\n", ("Failed", f"exit code 1; {WITHOUT_BOM}; {CONVERTED}"), None),
    ],
)
async def test_the_first_line_and_line_endings_of_a_script_are_heeded(
    shared: Started, script: str, end: tuple[str, str], left: bytes | None
) -> None:
    async with portal(shared.url) as user:
        job = await user.run(script)
        assert (job["status"], job["message"]) == end
        assert (await user.contents(job["id"])).get("o") == left


async def test_kill_9_inside_is_failed_by_the_signal_at_once(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run("echo before; kill -9 $$; sleep 600")
        assert (job["status"], job["message"]) == ("Failed", "killed by signal 9")
        assert (job["exit_code"], job["signal"]) == (None, 9)
        assert job["wall_seconds"] < promised(5)
        assert (await user.contents(job["id"]))["stdout.log"] == b"before\n"


async def test_an_upload_without_run_sh_is_invalid_and_says_why(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run(None, files={"data.txt": b"kept"})
        assert job["status"] == "Invalid"
        assert "run.sh not found" in job["message"]
        assert (await user.contents(job["id"]))["data.txt"] == b"kept"


async def test_completed_is_a_zip_by_both_routes(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run("mkdir -p a/b; echo 42 > a/b/c", files={"sub/in.pdb": b"ATOM"})
        assert job["status"] == "Completed"
        found = await user.contents(f"/download/{job['id']}")
        assert found == await user.contents(job["id"])
        assert found["a/b/c"] == b"42\n" and found["sub/in.pdb"] == b"ATOM"


@pytest.mark.parametrize(
    ("script", "message", "logs"),
    [
        ("echo a; sleep 600 & echo b; exit 0\n", "", b"a\nb\n"),
        ("(sleep 600; echo late) & disown; exit 3\n", "exit code 3", b""),
        ("exec 1>&- 2>&-; sleep 1; exit 0\n", "", b""),
        ("exit 0 | sleep 600 &\nexit 4\n", "exit code 4", b""),
    ],
)
async def test_a_child_that_holds_the_output_holds_no_job(
    shared: Started, script: str, message: str, logs: bytes
) -> None:
    async with portal(shared.url) as user:
        job = await user.run(script)
        assert job["status"] == ("Failed" if message else "Completed")
        assert message in job["message"]
        assert job["wall_seconds"] < promised(10)
        assert await user.log(job["id"]) == logs
    assert not _sleeping(shared)


def _sleeping(shared: Started) -> list[psutil.Process]:
    """What is left of scripts that started `sleep` in the background."""
    top = str(shared.log.parent)
    found = psutil.process_iter(["cwd", "cmdline", "status"])
    return [
        process
        for process in found
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and (process.info["cwd"] or "").startswith(top)
        and "sleep" in (process.info["cmdline"] or [])
    ]


async def test_terminate_ends_what_ignores_it_and_says_the_same_each_time(
    shared: Started, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with portal(shared.url) as user:
        job = await user.upload(f"(trap '' TERM; echo > {fifo}; sleep 600) & wait\n")
        await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True)
        await user.until(job, "Running")
        answer = await user.http.post(f"/terminate/{job}")
        # Locked is for a kill that takes longer than a client should wait.
        assert answer.status_code == 200 and answer.json()["status"] in ("Killed", "Locked")
        assert (await user.ended(job))["message"] == "terminated"
        for _ in range(2):
            answer = await user.http.post(f"/terminate/{job}")
            assert answer.status_code == 200
            assert answer.json() == {"id": job, "status": "Killed", "message": "job terminated"}
        assert not _sleeping(shared)
        done = await user.run("true")
        answer = await user.http.post(f"/terminate/{done['id']}")
        assert (answer.status_code, answer.json()["status"]) == (409, "Completed")


@pytest.mark.parametrize(
    ("script", "name", "content"),
    [
        (
            b"#!/bin/bash\r\nset -e\r\nmkdir -p out\r\necho hi > out/res.txt\r\nexit 0\r\n",
            "out/res.txt",
            b"hi\n",
        ),
        (b"#!/bin/bash\r\necho hi > res.txt\r\n", "res.txt", b"hi\n"),
    ],
)
async def test_a_script_with_windows_line_ends_runs_converted_and_says_so(
    shared: Started, script: bytes, name: str, content: bytes
) -> None:
    async with portal(shared.url) as user:
        job = await user.run(script, files={"other.txt": b"a\r\n"})
        found = await user.contents(job["id"])
        assert not any("\r" in member for member in found)
        assert found["other.txt"] == b"a\r\n"
        assert job["status"] == "Completed" and "line end" in job["message"].lower()
        assert found[name] == content


async def test_a_cr_that_is_meant_stays(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run(b"cat <<X > data.txt\na\r\nX\n")
        assert job["status"] == "Completed"
        assert (await user.contents(job["id"]))["data.txt"] == b"a\r\n"


@pytest.mark.parametrize(
    ("script", "printed", "made"),
    [
        (
            "echo first; for i in 1 2 3; do echo line $i; done; : > stdout.log; echo after\n",
            b"first\nline 1\nline 2\nline 3\nafter\n",
            b"",
        ),
        ("echo hello; echo mine > stdout.log; echo world\n", b"hello\nworld\n", b"mine\n"),
        ("rm -f stdout.log; echo x\n", b"x\n", b"x\n"),
    ],
)
async def test_a_script_may_do_what_it_likes_to_stdout_log(
    shared: Started, script: str, printed: bytes, made: bytes
) -> None:
    async with portal(shared.url) as user:
        job = await user.run(script)
        assert job["status"] == "Completed"
        assert await user.log(job["id"]) == printed
        assert (await user.contents(job["id"]))["stdout.log"] == made


async def test_a_link_named_stdout_log_is_not_followed(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run("ln -sf /etc/hostname stdout.log; echo x\n")
        assert job["status"] == "Completed"
        assert await user.log(job["id"]) == b"x\n"
        assert (await user.contents(job["id"])).get("stdout.log", b"x\n") == b"x\n"


async def test_an_uploaded_stdout_log_is_an_input_like_any_other(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run("cat stdout.log; echo >> stderr.log", files={"stdout.log": b"my input"})
        assert job["status"] == "Completed"
        assert await user.log(job["id"]) == b"my input"
        assert (await user.contents(job["id"]))["stdout.log"] == b"my input"
        # Said of what is missing in the results, which nothing is of a log without a word.
        (left_out,) = job["files_left_out"]
        assert left_out["path"] == "stdout.log" and "in the job's log" in left_out["reason"]


DATES = (
    "echo a > a; touch -d @0 a; echo b > b; touch -d 2150-01-01 b; touch -d 1901-01-01 c; "
    "mkdir d; touch -d @0 d\n"
)


async def test_times_that_no_zip_can_tell_are_clamped(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run(DATES)
        assert job["status"] == "Completed"
        assert await user.contents(f"/download_partial/{job['id']}") == await user.contents(job["id"])
        archive = await user.zip(job["id"])
        years = {member.filename: member.date_time[0] for member in archive.infolist()}
        assert (years["a"], years["b"], years["c"], years["d/"]) == (1980, 2107, 1980, 1980)
        assert (archive.read("a"), archive.read("b"), archive.read("c")) == (b"a\n", b"b\n", b"")


async def test_a_running_jobs_files_are_fetched_whatever_their_times(shared: Started, tmp_path: Path) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    for fifo in (begun, go_on):
        os.mkfifo(fifo)
    async with portal(shared.url) as user:
        job = await user.upload(f"{DATES}echo > {begun}; read x < {go_on}\n")
        await trio.to_thread.run_sync(begun.read_text, abandon_on_cancel=True)
        await user.until(job, "Running")
        found = await user.contents(f"/download_partial/{job}")
        assert (found["a"], found["b"], found["c"]) == (b"a\n", b"b\n", b"")
        answer = await user.http.get(f"/v1/jobs/{job}/results")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_ended")
        await trio.to_thread.run_sync(go_on.write_text, "now\n")
        assert (await user.ended(job))["status"] == "Completed"


ODD_NAMES = (
    r"echo x > $(printf 'r\xe9sultat.txt'); echo y > ok.txt; "
    r"mkdir $(printf 'd\xff'); echo z > $(printf 'd\xff/z')"
    "\n"
)


async def test_a_name_that_is_no_utf_8_costs_no_file(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run(ODD_NAMES)
        assert job["status"] == "Completed"
        found = await user.contents(job["id"])
        assert found["ok.txt"] == b"y\n"
        assert sorted(found.values()).count(b"x\n") == 1 and list(found.values()).count(b"z\n") == 1
        assert len(found) == 6, sorted(found)


SPECIAL = (
    "echo ok > ok.txt; mkfifo p; ln -s nowhere dang; ln -s loop loop; ln -s . self; ln -s /etc/passwd leak; "
    "ln -s ok.txt fine; ln /etc/hostname hard 2>/dev/null; "
    """python3 -c "import socket;socket.socket(socket.AF_UNIX).bind('sock')"; """
    "mknod dev c 1 5 2>/dev/null; true\n"
)


async def test_special_files_and_links_that_lead_out_are_left_out_and_named(shared: Started) -> None:
    async with portal(shared.url) as user:
        job = await user.run(SPECIAL)
        assert job["status"] == "Completed"
        found = await user.contents(job["id"])
        assert found["ok.txt"] == b"ok\n" and found["fine"] in (b"ok.txt", b"ok\n")
        assert not found.keys() & {"p", "sock", "dev", "leak"}
        assert not any(b"root:" in content for content in found.values())
        left_out = {one["path"] for one in (await user.job(job["id"]))["files_left_out"]}
        assert {"p", "sock", "leak", "dang", "loop"} <= left_out


async def test_peak_memory_is_the_jobs_own(shared: Started) -> None:
    """Whatever the node has handled before; the arrays' size is in the figure. Without a control group it is
    at least what the shepherd has when it forks: 9.7 to 10.9 MB, from one run to the next."""
    async with portal(shared.url) as user:
        big = await user.run("head -c 100M /dev/urandom > big\n")
        assert big["status"] == "Completed" and big["output_bytes"] > 100 << 20
        small = await user.run("true\n")
        large = await user.run('python3 -c "b=bytearray(200<<20)"\n')
        assert 0 < small["peak_bytes"] < 12 << 20
        assert 200 << 20 <= large["peak_bytes"] < 230 << 20
