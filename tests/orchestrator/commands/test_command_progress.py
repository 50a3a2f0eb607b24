"""What a script says of its progress, where a job is shown at a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.processes.gates import gate
from support.processes.processes import COMMAND, PATIENCE, Place, Started

from orchestrator.client import Client, Job
from orchestrator.commands.console.job_row import row
from orchestrator.commands.console.output import share

_ON_TERMINAL = (
    "import os, sys; os.dup2(os.open(sys.argv[1], os.O_RDWR), 2); os.execv(sys.argv[2], sys.argv[2:])"
)
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Screen:
    """What a command writes on a terminal as its standard error."""

    def __init__(self, master: int, name: str) -> None:
        self.command = (sys.executable, "-c", _ON_TERMINAL, name, *COMMAND)
        self.raw = ""
        self._master = master

    def until(self, text: str) -> None:
        """Wait until this has been written, by and by."""
        end = time.monotonic() + PATIENCE
        while text not in _STEERING.sub("", self.raw):
            assert select.select([self._master], [], [], end - time.monotonic())[0], self.raw
            self.raw += os.read(self._master, 65536).decode()


@contextmanager
def screen() -> Iterator[Screen]:
    master, slave = pty.openpty()
    try:
        yield Screen(master, os.ttyname(slave))
    finally:
        os.close(master)
        os.close(slave)


def script(wait: str) -> str:
    said = 'printf "0.42 align\\033]0;owned\\007[red]ing" > "$ORCHESTRATOR_PROGRESS"'
    return f'echo begun; {said}; {wait}; echo "1 done" > "$ORCHESTRATOR_PROGRESS"; exit 3'


@pytest.mark.parametrize("how", ["--wait", "--follow"])
def test_it_is_shown_while_one_stays_with_a_job(
    here: Place, shared: Started, tmp_path: Path, how: str
) -> None:
    environment = {
        "ORCHESTRATOR_URL": shared.url,
        "ORCHESTRATOR_USER": "1",
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    with gate(tmp_path / "gate") as shut, screen() as shown, Client(shared.url) as client:
        (here.directory / "run.sh").write_text(script(shut.wait))
        begun = here.begin(
            "submit", "run.sh", how, name="submit", environment=environment, command=shown.command
        )
        shown.until("42%")
        shown.until("[red]ing")
        job = next(iter(client.jobs(limit=1)))
        # Among the lines of a log, it is a line.
        assert (f"job {job.id}: 42%" in shown.raw) == (how == "--follow")
        assert (job.status, job.progress) == ("Running", 0.42)
        assert job.progress_message == "align\ufffd]0;owned\ufffd[red]ing"
        listed = here.command("ls", environment=environment)
        assert "42% align\ufffd]0;owned\ufffd[red]ing" in listed.out
        shut.open()
        shown.until(f"job {job.id}: Failed: exit code 3")
        assert begun.process.wait(30) == 3
        assert "\x1b]" not in shown.raw and "\x07" not in shown.raw
        job = client.job(job.id)
        assert (job.progress, job.progress_message) == (1.0, "done")
        told = here.command("status", str(job.id), environment=environment)
        assert "progress  100% done\n" in told.out


def test_all_of_it_is_all_of_it_only() -> None:
    assert [share(n) for n in (None, 0.0, 0.29, 0.999, 1.0)] == ["", "0%", "29%", "99%", "100%"]


def test_of_a_job_that_is_ended_or_has_ended_the_end_is_the_news() -> None:
    job = Job(1, 1, "x", "Running", "runs on node n", 1, progress=0.5, progress_message="half")
    assert row(job)[-1] == "50% half"
    assert row(Job(1, 1, "x", "Failed", "exit code 3", 1, progress=0.5))[-1] == "exit code 3"
    assert row(Job(1, 1, "x", "Locked", "being terminated", 1, progress=0.5))[-1] == "being terminated"
    assert row(Job(1, 1, "x", "Running", "runs on node n", 1))[-1] == "runs on node n"
