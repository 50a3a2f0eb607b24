"""What the command's exit status says, and what it writes where."""

from __future__ import annotations

import json
import os
import re
import select
import signal
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.processes.processes import COMMAND, Place, Refused, Started

from orchestrator.client import Client


class Terminal:
    """The command, as somebody gives it in a directory of jobs."""

    def __init__(self, here: Place, url: str) -> None:
        self.here = here
        self.url = url

    def environment(self, **more: str) -> dict[str, str]:
        return {"ORCHESTRATOR_URL": self.url, "ORCHESTRATOR_USER": "1", "XDG_CONFIG_HOME": "/nowhere", **more}

    def run(self, *arguments: str, **environment: str) -> Refused:
        return self.here.command(*arguments, environment=self.environment(**environment))

    def process(self, *arguments: str, command: Sequence[str] = COMMAND) -> Refused:
        """As a process, which has descriptors of its own."""
        return self.here.refused(*arguments, command=command, environment=self.environment())

    def job(self, script: str, name: str = "job") -> str:
        """A directory with this script."""
        directory = self.here.directory / name
        directory.mkdir(exist_ok=True)
        (directory / "input").write_text("x\n")
        (directory / "run.sh").write_text(script)
        return str(directory)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.status == 0, done
        return json.loads(done.out)


@pytest.fixture
def terminal(here: Place, shared: Started) -> Terminal:
    return Terminal(here, shared.url)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("true", 0),
        ("exit 1", 1),
        ("exit 2", 2),
        ("exit 125", 125),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
    ],
)
def test_the_status_is_that_of_the_job(terminal: Terminal, script: str, status: int) -> None:
    assert terminal.run("submit", terminal.job(script), "--wait").status == status


def test_the_status_is_that_of_the_job_that_is_followed_too(terminal: Terminal) -> None:
    assert terminal.process("submit", terminal.job("echo x; kill -9 $$"), "--follow").status == 137


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "said"),
    [
        (["submit"], {}, 2, "Missing argument 'FILES...'"),
        (["submit", "run.sh"], {"ORCHESTRATOR_USER": ""}, 2, "whose job is it?"),
        (["submit", "run.sh", "--follow", "--json"], {}, 2, "choose one"),
        (["status", "x"], {}, 2, "not a valid integer"),
        (["status", "0"], {}, 2, "0 is not in the range"),
        (["cancel"], {}, 2, "which jobs?"),
        (["cancel", "1", "--user", "1"], {}, 2, "not both"),
        (["ls"], {"ORCHESTRATOR_TOKEN_FILE": "/nowhere"}, 2, "/nowhere cannot be read"),
        (["ls"], {"ORCHESTRATOR_TOKEN_FILE": "empty"}, 2, "ORCHESTRATOR_TOKEN_FILE: empty is empty"),
        (["ls"], {"ORCHESTRATOR_TOKEN": "a\nb"}, 2, "characters that no token has"),
        (["ls"], {"ORCHESTRATOR_CA_FILE": "/nowhere"}, 2, "'/nowhere' cannot be read as certificates"),
        (["logs", "-f", "1"], {"ORCHESTRATOR_CA_FILE": "run.sh"}, 2, "a file in PEM format"),
        (["ls", "--watch"], {"ORCHESTRATOR_URL": "nonsense"}, 2, "looks like http://127.0.0.1:5000"),
        (["submit", "run.sh", "--wait", "--url", "ftp://x"], {}, 2, "looks like http://127.0.0.1:5000"),
        (["cancel", "1", "--url", "nonsense"], {}, 2, "looks like http://127.0.0.1:5000"),
        (["ls"], {"ORCHESTRATOR_URL": "http://127.0.0.1:1"}, 1, "check that the orchestrator runs"),
        (["submit", "run.sh", "--wait"], {"ORCHESTRATOR_URL": "http://127.0.0.1:1"}, 125, "nothing answers"),
        (["submit", "missing"], {}, 2, "No such file"),
        (["submit", "missing", "--wait"], {}, 2, "No such file"),
        (["submit", "empty", "--wait"], {}, 2, "there is no run.sh among the files"),
        (["submit", "run.sh", "-o", "full"], {}, 2, "'full' is not empty; name another directory"),
        (["submit", "run.sh", "-o", "empty"], {}, 2, "'empty' is a file; name a directory"),
        (["submit", "run.sh", "-o", "empty/new"], {}, 2, "'empty' is a file; name a directory"),
        (["get", "1", "-o", "full"], {}, 2, "'full' is not empty; name another directory"),
        (["get", "1", "-o", "empty"], {}, 2, "'empty' is a file; name a directory"),
        (["get", "1", "x", "-o", "empty"], {}, 2, "'empty' is a file; name a directory"),
        (["get", "1", "--zip", "-o", "full"], {}, 2, "'full' is a directory; name a file"),
        (["get", "1", "--zip", "-o", "empty"], {}, 2, "'empty' is there already"),
        (["get", "1", "--force"], {}, 2, "--force is for the file of --zip"),
        (["submit", "--each", "full", "--wait"], {}, 2, "goes without --wait"),
        (["submit", "--each", "run.sh"], {}, 2, "run.sh is no directory"),
        (["submit", "--each", "full"], {}, 2, "there is no run.sh in full"),
        (["submit", "run.sh", "--service", "nope"], {}, 1, "service 'nope' is unknown; known: example"),
        (["submit", "run.sh", "--cpus", "0"], {}, 2, "0 is not in the range"),
        (["status", "4000000000"], {}, 1, "there is no job 4000000000"),
        (["logs", "4000000000"], {}, 1, "there is no job 4000000000"),
        (["get", "4000000000"], {}, 1, "there is no job 4000000000"),
        (["cancel", "4000000000"], {}, 1, "there is no job 4000000000"),
        (["drain", "nobody"], {}, 1, "`orchestrator nodes` lists them"),
        (["ls", "--node", "nobody"], {}, 1, "`orchestrator nodes` lists them"),
    ],
)
def test_errors_are_one_line_on_standard_error_that_says_what_to_do(
    terminal: Terminal, arguments: list[str], environment: dict[str, str], status: int, said: str
) -> None:
    (terminal.here.directory / "run.sh").write_text("true")
    (terminal.here.directory / "empty").touch()
    (terminal.here.directory / "full").mkdir()
    (terminal.here.directory / "full" / "x").touch()
    done = terminal.run(*arguments, **environment)
    assert (done.status, done.out) == (status, "")
    assert said in done.lines[-1]
    assert len(done.lines) == 1 or status == 2  # click puts the usage above


def test_data_is_on_standard_output_and_all_else_on_standard_error(terminal: Terminal) -> None:
    job = terminal.job("echo out; echo err >&2; exit 3")
    followed = terminal.process("submit", job, "--follow", "--name", "first", "--quiet")
    assert followed.out == "out\n"
    number = followed.lines[0].removeprefix("job ")
    assert followed.lines[1:] == ["err"]
    waited = terminal.run("submit", job, "--wait")
    assert waited.out.strip().isdecimal() and "exit code 3" in waited.lines[-2]
    assert waited.lines[-1].endswith("last of stderr: err")
    assert terminal.run("logs", number).out == "out\n"
    assert terminal.run("logs", number, "--stream", "stderr", "--offset", "1").out == "rr\n"
    assert terminal.run("logs", number, "-n", "0").out == ""
    assert terminal.run("logs", number, "--tail", "1", "-f").out == "out\n"
    assert terminal.run("logs", number, "-n", "1", "--offset", "1").status == 2
    assert terminal.json("status", number)["exit_code"] == 3
    assert "exit code 3" in terminal.run("status", number).out
    assert [one["id"] for one in terminal.json("ls", "--status", "failed")][:2] == [
        int(waited.out),
        int(number),
    ]
    listed = terminal.run("ls", "--user", "1", NO_COLOR="1").out.splitlines()
    assert listed[0].split()[:3] == ["ID", "STATUS", "USER"] and "\x1b" not in "".join(listed)
    listed = ("ls", "--status", "failed", "--status", "killed", "--since", "2001-01-01", "--oldest")
    oldest_first = [one["id"] for one in terminal.json(*listed)]
    assert oldest_first == sorted(oldest_first) and oldest_first[-2:] == [int(number), int(waited.out)]
    assert [one["id"] for one in terminal.json(*listed, "--ended-since", "2001-01-01")] == oldest_first
    assert (
        terminal.json("ls", "--until", "2001-01-01")
        == terminal.json("ls", "--ended-since", "2999-01-01")
        == []
    )
    by_user = [one["user_id"] for one in terminal.json("ls", "--order", "user_descending")]
    assert by_user == sorted(by_user, reverse=True)
    assert terminal.run("ls", "--order", "user", "--oldest").status == 2
    assert terminal.json("services")[0]["name"] == "example"
    assert terminal.json("queue") == [] and terminal.json("queue", "--users") == []


def test_what_a_service_allows_nothing_of_is_told(terminal: Terminal) -> None:
    done = terminal.run("submit", terminal.job("true"), "--partition", "long", "--priority", "2")
    assert done.status == 0 and done.out.strip().isdecimal()
    (line,) = done.lines
    assert "service example allows no " in line and "which is ignored" in line
    assert "partition" in line and "priority" in line


def test_each_directory_is_a_job_and_a_refused_one_is_named(terminal: Terminal) -> None:
    jobs = [terminal.job("true", name) for name in ("first", "second", "third")]
    os.mkfifo(terminal.here.directory / "second" / "pipe")
    done = terminal.run("submit", "--each", *jobs, "--user", "24", "--tag", "batch")
    first, third = done.out.split()
    assert (done.status, len(done.lines)) == (1, 1)
    assert done.lines[0].startswith(f"{jobs[1]}: ") and "pipe' is no file" in done.lines[0]
    listed = {str(one["id"]): one for one in terminal.json("ls", "--user", "24")}
    assert {one: listed[one]["name"] for one in listed} == {first: "first", third: "third"}
    assert listed[first]["tags"] == ["batch"]
    named = terminal.json("submit", "--each", jobs[0], "--user", "24", "--name", "all")
    assert (named["name"], named["user_id"]) == ("all", 24)


def test_results_are_unpacked_whole_into_a_new_directory_only(terminal: Terminal) -> None:
    top = terminal.here.directory
    script = "mkdir d; echo made > d/out; ln -s d/out link; chmod +x run.sh"
    done = terminal.run("submit", terminal.job(script), "--output", "res")
    assert done.status == 0
    number = done.out.strip()
    assert (top / "res" / "d" / "out").read_text() == "made\n"
    assert os.readlink(top / "res" / "link") == "d/out"
    assert os.access(top / "res" / "run.sh", os.X_OK)
    again = terminal.run("get", number, "--output", "res")
    assert again.status == 2 and "name another directory" in again.lines[-1]
    (top / "empty").mkdir()
    assert terminal.run("get", number, "--output", "empty").out == "empty\n"
    assert sorted(os.listdir(top / "empty")) == sorted(os.listdir(top / "res"))
    assert terminal.run("get", number, "--zip").out == f"{number}.zip\n"
    assert terminal.run("get", number, "--zip").status == 2
    assert terminal.run("get", number, "--zip", "--force").out == f"{number}.zip\n"
    assert sorted(name for name in os.listdir(top) if name.startswith(".")) == []


def test_ctrl_c_leaves_the_job_running_and_says_how_to_stop_it(terminal: Terminal) -> None:
    job = terminal.job("echo begun; exec sleep 60")
    begun = terminal.here.begin("submit", job, "--follow", name="follow", environment=terminal.environment())
    stdout = begun.process.stdout
    assert stdout is not None
    readable, _, _ = select.select([stdout], [], [], 60)
    assert readable and os.read(stdout.fileno(), 100) == b"begun\n"
    begun.send(signal.SIGINT)
    assert begun.process.wait(30) == 130
    last = begun.errors().splitlines()[-1]
    number = last.split()[1]
    assert f"orchestrator cancel {number}" in last and f"orchestrator logs -f {number}" in last
    assert terminal.json("status", number)["status"] == "Running"
    assert terminal.run("cancel", number).status == 0
    with Client(terminal.url) as client:
        assert client.wait(int(number), 30).status == "Killed"


def test_many_are_counted_before_they_are_cancelled(terminal: Terminal) -> None:
    job = terminal.job("exec sleep 60")
    ids = [int(terminal.run("submit", job, "--user", "9").out) for _ in range(2)]
    asked = terminal.run("cancel", "--user", "9")
    assert asked.status == 2 and "2 jobs would be cancelled" in asked.lines[-1]
    done = terminal.run("cancel", "--user", "9", "--service", "example", "--yes")
    assert done.status == 0 and done.lines[0].startswith("2 jobs (")
    with Client(terminal.url) as client:
        assert {client.wait(number, 30).status for number in ids} == {"Killed"}
    nothing = terminal.run("cancel", "--user", "9", "--yes")
    assert (nothing.status, nothing.out, nothing.lines) == (0, "", ["0 jobs (none)"])


def test_nodes_are_drained_by_the_beginning_of_their_id(terminal: Terminal) -> None:
    (node,) = terminal.json("nodes")
    drained = terminal.json("drain", node["id"][:8], "--reason", "a new disk")
    assert drained["draining"] == "a new disk"
    assert re.search("drain(ing|ed): a new disk", terminal.run("nodes").out)
    assert "gets jobs again" in terminal.run("undrain", node["url"]).out
    assert terminal.json("nodes")[0]["draining"] is None


def test_a_drain_may_wait_until_the_node_has_none_of_its_jobs(terminal: Terminal) -> None:
    number = terminal.run("submit", terminal.job("echo begun; sleep 600")).out.strip()
    with Client(terminal.url) as client:
        with closing(client.logs(int(number), follow=True)) as log:
            assert next(log) == b"begun\n"
        (node,) = client.nodes()
        drain = terminal.here.begin(
            "drain", node.name, "--wait", "--json", name="drain", environment=terminal.environment()
        )
        while client.node(node.name).status != "draining":
            assert drain.process.poll() is None
        assert terminal.run("cancel", number).status == 0
        assert drain.process.stdout is not None
        drained = json.load(drain.process.stdout)
        assert (drain.process.wait(30), drained["status"], drained["held"]) == (0, "drained", 0)
        # There is nothing to wait for any more.
        assert "is drained" in terminal.run("drain", node.id, "--wait").out
        assert client.undrain(node.name).draining is None


def test_all_of_it_is_shown_once_what_is_wrong_first(terminal: Terminal) -> None:
    assert "waiting" in terminal.run("pause", "example", "--reason", "an upgrade").out
    try:
        shown = terminal.run("top", "--once").out.splitlines()
        assert shown[0].startswith("service example is paused: an upgrade")
        assert terminal.run("status").out.splitlines()[0] == shown[0]
        assert re.fullmatch(r"\d+ jobs? queued, \d+ under way; 1 of 1 node ready, .* in use", shown[1])
        (node,) = terminal.json("nodes")
        assert any(line.split()[:2] == [node["name"], "ready"] for line in shown)
        told = terminal.json("top", "-n", "1")
        assert [one["kind"] for one in told["troubles"]] == ["paused"]
        assert [one["name"] for one in told["services"]] == ["example"]
    finally:
        terminal.run("resume", "example")
    assert terminal.run("top", "--once").out.splitlines()[0] == "nothing is wrong"


def test_top_goes_on_with_what_happens(terminal: Terminal) -> None:
    top = terminal.here.begin("top", "--json", name="top", environment=terminal.environment())
    number = terminal.run("submit", terminal.job("echo begun; sleep 600")).out.strip()
    assert top.process.stdout is not None
    for line in top.process.stdout:
        if int(number) in [job["id"] for job in json.loads(line)["jobs"]]:
            break
    top.send(signal.SIGINT)
    assert top.process.wait(30) == 130
    assert top.errors() == ""
    assert terminal.run("cancel", number).status == 0


def test_the_file_of_settings_says_what_neither_flag_nor_environment_does(
    terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "orchestrator").mkdir()
    config = tmp_path / "orchestrator" / "config.toml"
    config.write_text(f'url = "{terminal.url}"\nuser = 12\nservice = "example"\n')
    told = {"XDG_CONFIG_HOME": str(tmp_path), "ORCHESTRATOR_URL": "", "ORCHESTRATOR_USER": ""}
    number = terminal.run("submit", terminal.job("true"), "--wait", "--quiet", **told).out.strip()
    assert terminal.json("status", number)["user_id"] == 12
    assert terminal.run("ls", "--url", "http://127.0.0.1:1", **told).status == 1
    config.write_text("uri = 1\n")
    wrong = terminal.run("ls", **told)
    assert wrong.status == 2 and "uri is unknown; known: url, token, token_file" in wrong.lines[-1]


def test_watching_shows_each_change_until_ctrl_c(terminal: Terminal) -> None:
    watched = terminal.here.begin(
        "ls", "--watch", "--json", "--user", "23", name="watch", environment=terminal.environment()
    )
    terminal.run("submit", terminal.job("exit 3"), "--user", "23", "--wait")
    assert watched.process.stdout is not None
    for line in watched.process.stdout:
        if json.loads(line)["status"] == "Failed":
            break
    watched.send(signal.SIGINT)
    assert watched.process.wait(30) == 130
    assert watched.errors() == ""


def test_a_job_is_begun_again_from_its_files(terminal: Terminal) -> None:
    number = terminal.run("submit", terminal.job("cat input; exit 3"), "--wait", "--name", "one").out.strip()
    again = terminal.json("rerun", number)
    assert (again["rerun_of"], again["name"]) == (int(number), "one")
    assert terminal.run("logs", "-f", str(again["id"])).out == "x\n"
    with Client(terminal.url) as client:
        assert client.wait(again["id"], 30).exit_code == 3
        assert client.delete(again["id"]).status == "Cleaned"
    gone = terminal.run("rerun", str(again["id"]))
    assert gone.status == 1 and len(gone.lines) == 1


def test_a_paused_service_takes_jobs_and_begins_none(here: Place) -> None:
    terminal = Terminal(here, here.server(SERVICE_EXAMPLE_RUNS_PER_USER="1").url)
    assert "waiting: 0 jobs" in terminal.run("pause", "example", "--reason", "an upgrade").out
    number = terminal.run("submit", terminal.job("true"), "--service", "example").out.strip()
    assert terminal.json("queue")[0]["waiting_for"] == "paused"
    assert "an upgrade" in terminal.run("status", number).out
    assert terminal.run("services").out.splitlines()[1].split()[:3] == ["example", "paused", "1"]
    assert "begins jobs again; waiting: 1 job" in terminal.run("resume", "example").out
    assert terminal.json("queue")[0]["waiting_for"] != "paused"


OUTPUT = [
    "ls",
    "ls --json",
    "ls --watch",
    "logs {}",
    "logs -f {}",
    "status {}",
    "nodes",
    "queue",
    "files {}",
    "--help",
]


@pytest.mark.parametrize(
    ("where", "why"), [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize("command", OUTPUT)
def test_output_that_cannot_be_written_is_told_in_a_line(
    terminal: Terminal, command: str, where: str, why: str
) -> None:
    job = terminal.json("submit", terminal.job("echo hello"), "--wait")
    shell = ("sh", "-c", f'exec "$0" "$@" {where}', *COMMAND)
    done = terminal.process(*command.format(job["id"]).split(), command=shell)
    assert (done.status, done.lines) == (1, [f"standard output cannot be written: {why}"])


@pytest.mark.parametrize("command", OUTPUT)
def test_a_reader_that_has_had_enough_ends_it_without_a_word(terminal: Terminal, command: str) -> None:
    job = terminal.json("submit", terminal.job("echo hello"), "--wait")
    shell = ("sh", "-c", '"$0" "$@" | true', *COMMAND)
    done = terminal.process(*command.format(job["id"]).split(), command=shell)
    assert (done.status, done.lines) == (0, [])


def test_the_present_level_of_the_log_is_printed(terminal: Terminal) -> None:
    assert terminal.run("log-level").out == "info\n"
    try:
        terminal.run("log-level", "warning")
        assert terminal.run("log-level").out == "warning\n"
    finally:
        terminal.run("log-level", "info")
