"""The short form of an operator's day, from the wheel to a restore elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "operators_day.py"
STEPS = (
    "from its wheel",
    "with tokens for its nodes and for Prometheus",
    "with a node it was done",
    "its alert fires, and clears",
    "a backup was made under load",
    "a node, the server and the other node were upgraded under load",
    "each took one attempt",
    "a quota was changed under load",
    "the server was killed",
    "and their results are the same",
    "new jobs run",
    "no difference",
)


def test_a_day_passes_without_a_difference(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--jobs", "3", "--pause", "0.5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(STEPS)
    for line, step in zip(lines, STEPS, strict=True):
        assert line.endswith(step), line
