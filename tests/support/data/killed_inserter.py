"""A process that inserts jobs as fast as it can, and is killed amid that."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]


def insert_until_killed(path: Path, program: str, jobs: int) -> dict[int, str]:
    """What `program`, which is given the ledger's path, had printed when it was killed, after so many jobs:
    an id and a word of each that was acknowledged."""
    command = [sys.executable, "-c", program, str(path)]
    environment = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(jobs)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return {int(line.split()[0]): line.split()[1] for line in lines if line.endswith("\n")}
