"""What a failed script said last, and the reason that is told of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from node.confinement.grants import Grants
from node.confinement.visible import Unseen, View
from node.runs.hints import explain, read_tail
from node.runs.sight import Sight

OWN = Path("/var/lib/node/payloads/k")
VIEW = View(
    read=("/usr", "/etc", "/opt"),
    links=(),
    binds=(),
    covered=(),
    left_out=(),
    private=frozenset(("/home", "/root", "/tmp", "/var/tmp")),
)
CONDA = Unseen("/home/ada/conda/bin", ("gmx", "python3"), "/home/ada/conda")
CONFINED = Sight(VIEW, Grants(read=(Path("/home/shared"),), write=(Path("/scratch"),)), (CONDA,))
FREE = Sight()


def hint(said: str, sight: Sight = CONFINED, exit_code: int = 1) -> str:
    return explain(exit_code, said, OWN, sight)


@pytest.mark.parametrize(
    "said",
    [
        "/var/lib/node/payloads/k/work/run.sh: line 3: gmx: command not found",
        "sh: 1: gmx: not found",
        "env: ‘gmx’: No such file or directory",
        "/usr/bin/env: 'gmx': No such file or directory",
        "zsh:1: command not found: gmx",
        "FileNotFoundError: [Errno 2] No such file or directory: 'gmx'",
    ],
)
def test_a_program_that_scripts_do_not_see_is_named_with_the_setting_that_shows_it(said: str) -> None:
    assert hint(f"first\n{said}\n", exit_code=127) == (
        "'gmx' was not found: it is in '/home/ada/conda/bin', and scripts do not see it there:"
        ' read = ["/home/ada/conda"] in the node\'s settings would allow it'
    )


def test_a_program_that_is_nowhere_is_named() -> None:
    said = "run.sh: line 3: cns: command not found"
    assert hint(said, exit_code=127) == "'cns' was not found in what scripts see of PATH"
    assert hint(said, FREE, 127) == "'cns' was not found in PATH"
    assert hint("FileNotFoundError: [Errno 2] No such file or directory: 'input.pdb'") == ""
    assert "environment modules" in hint("run.sh: line 1: module: command not found", FREE, 127)


def test_a_status_by_which_bash_tells_it_is_explained_without_a_word() -> None:
    assert "does not find a program" in hint("", exit_code=127)
    assert "may not be run" in hint("", exit_code=126)
    assert hint("") == ""


def test_a_library_that_is_missing_is_named_and_the_variable_that_does_not_pass() -> None:
    said = (
        "x: error while loading shared libraries: libcudart.so.12: cannot open shared object file:"
        " No such file or directory"
    )
    assert (
        hint(said, exit_code=127) == "the library 'libcudart.so.12' was not found where programs look for one"
    )
    assert 'env = ["LD_LIBRARY_PATH"]' in hint(said, replace(FREE, unpassed=("LD_LIBRARY_PATH",)), 127)


def test_an_interpreter_that_is_not_seen_is_named() -> None:
    said = (
        "run.sh: line 1: /opt/t/tool: /home/ada/conda/bin/python: bad interpreter: No such file or directory"
    )
    assert 'read = ["/home/ada/conda"]' in hint(said, exit_code=126)
    assert hint(said.replace("/home/ada/conda", "/opt"), exit_code=126) == (
        "a script's interpreter was not found: '/opt/bin/python'"
    )


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ("cat: /home/ada/db: No such file or directory", 'read = ["/home/ada/db"]'),
        ("cat: '/home/ada/my db': No such file or directory", 'read = ["/home/ada/my db"]'),
        ("bash: /home/ada/conda/envs/x/bin/activate: Permission denied", 'read = ["/home/ada/conda"]'),
        ("run.sh: line 2: /scratch/x: Permission denied", "but its mode, or one of a directory above"),
        ("opal_ifinit: socket() failed with errno=97", "network = true"),
        ("PermissionError: [Errno 13] Permission denied: '/root/x'", 'read = ["/root/x"]'),
        ("run.sh: line 2: /opt/out: Read-only file system", 'write = ["/opt/out"]'),
        ("run.sh: line 2: /opt/out: Permission denied", 'write = ["/opt/out"]'),
        ("chmod: changing permissions of '/opt/x': Operation not permitted", 'write = ["/opt/x"]'),
        ("cp: cannot create regular file '/home/ada/x': Read-only file system", 'write = ["/home/ada/x"]'),
        ("ls: cannot access '/tmp/x': No such file or directory", "scripts have $TMPDIR in its place"),
        ("cat: /etc/shadow: Permission denied", "which scripts are kept from"),
        ("mkdir: cannot create directory ‘/home/a/x’: No such file or directory", 'write = ["/home/a/x"]'),
        ("Error: open /opt/x.lock: read-only file system", 'write = ["/opt/x.lock"]'),
        ("dial unix /var/run/docker.sock: connect: permission denied", "which scripts are kept from"),
        ("cat: /var/lib/node/payloads/other/x: Permission denied", "which scripts are kept from"),
        ("psycopg2: connection to localhost port 5432 failed: Connection refused", "network = true"),
        ('sudo: The "no new privileges" flag is set, which prevents it', "no program gains rights"),
        ("connect: Network is unreachable", "network = true"),
        ("curl: (6) Could not resolve host: example.org", "network = true"),
        ("unshare: unshare failed: Operation not permitted", "containers = true"),
    ],
)
def test_what_the_tier_refuses_is_told_with_the_setting_that_allows_it(said: str, setting: str) -> None:
    assert setting in hint(said)
    assert hint(said, FREE) == ""


@pytest.mark.parametrize(
    "said",
    [
        "cat: /opt/none: No such file or directory",
        "cat: missing.txt: No such file or directory",
        "cat: /home/shared/none: No such file or directory",
        f"cat: {OWN}/work/x: Permission denied",
        "ValueError: no",
    ],
)
def test_what_has_another_reason_is_left_alone(said: str) -> None:
    assert hint(said) == ""


@pytest.mark.parametrize(
    ("said", "refusal", "path"),
    [
        ("/k/work/run.sh: line 1: ./prog: No such file or directory", "No such file or directory", "./prog"),
        ("cat: data/in.pdb: No such file or directory", "No such file or directory", "data/in.pdb"),
        ("bash: ./steps/01.sh: No such file or directory", "No such file or directory", "./steps/01.sh"),
        ("cat: ../x.pdb: No such file or directory", "No such file or directory", "../x.pdb"),
        ("cat: 'my data/x': Permission denied", "Permission denied", "my data/x"),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'data/in.pdb'",
            "No such file or directory",
            "data/in.pdb",
        ),
        ("couldn't open ./x, don't know: Permission denied", "Permission denied", "./x"),
    ],
)
def test_a_path_in_the_jobs_directory_is_told_whole_and_without_a_setting(
    said: str, refusal: str, path: str
) -> None:
    assert hint(said) == hint(said, FREE) == f"it said {refusal!r} of {path!r}"


def test_a_file_of_the_job_that_is_not_executable_is_told_so(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "steps").mkdir(parents=True)
    for name, mode in (("tool.sh", 0o644), ("steps/model", 0o644), ("runs.sh", 0o755), ("closed", 0o444)):
        (work / name).touch()
        (work / name).chmod(mode)
    (tmp_path / "secret").touch(0o644)
    (work / "away").symlink_to(tmp_path)

    def told(path: str) -> str:
        return explain(126, f"run.sh: line 1: {path}: Permission denied", tmp_path, CONFINED)

    lacking = "is not executable, as no uploaded file is: chmod +x it in run.sh"
    assert told("./tool.sh") == f"'./tool.sh' {lacking}, or say bash tool.sh"
    assert told(f"{work}/tool.sh") == f"'{work}/tool.sh' {lacking}, or say bash tool.sh"
    assert told("steps/model") == f"'steps/model' {lacking}"
    for other in ("./runs.sh", "./closed", "./none", "./steps", "./away/secret"):
        assert told(other) == f"it said 'Permission denied' of '{other}'"


def test_what_is_granted_is_told_of_no_more() -> None:
    all_of_it = Sight(VIEW, Grants(network=True, containers=True))
    assert hint("connect: Network is unreachable", all_of_it) == ""
    assert hint("unshare: unshare failed: Operation not permitted", all_of_it) == ""


def test_the_last_of_what_was_said_counts_and_of_much_only_the_end() -> None:
    said = "a: command not found\nb: command not found\n"
    assert hint(said).startswith("'b'")
    assert hint(said + "fine\n" * 20) == ""


def test_names_that_a_script_made_up_are_escaped_and_short() -> None:
    assert hint("\x1b[31m\x07gmx: command not found").startswith(r"'\x1b[31m\x07gmx' was")
    odd = "cat: /home/a\\\x1b[0m\u202e: No such file or directory"
    assert hint(odd).isprintable() and "…" in hint(odd)
    assert len(hint(f"cat: /home/{'x' * 5000}: No such file or directory")) < 800


def test_whether_there_is_something_out_of_sight_is_not_told(tmp_path: Path) -> None:
    secret = Sight(replace(VIEW, private=frozenset((str(tmp_path),))), Grants())
    there, absent, leading = "that-is-there", "that-is-not", "that-leads-on"
    (tmp_path / there).touch()
    (tmp_path / leading).symlink_to("/opt")
    told = {
        hint(f"cat: {tmp_path}/{name}: No such file or directory", secret).replace(name, "")
        for name in (there, absent, leading)
    }
    assert len(told) == 1


def test_the_end_of_a_log_is_read_and_nothing_else_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 100_000 + b"\xff end")
    assert read_tail(tmp_path / "log").endswith("x\N{REPLACEMENT CHARACTER} end")
    assert len(read_tail(tmp_path / "log")) == 16 * 1024
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "log")
    assert [read_tail(tmp_path / name) for name in ("fifo", "link", "none")] == ["", "", ""]
