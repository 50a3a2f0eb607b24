"""A short run of the simulation: real processes, mixed jobs, everything checked by the script itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate.py"


def test_short_simulation_holds_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--nodes", "2", "--slots", "3", "--jobs", "40", "--users", "4"]
    command += ["--seed", "7", "--longest", "0.5", "--largest", "2000000", "--runs-per-user", "2"]
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path), "COLUMNS": "200"},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAILS" not in ended.stdout
    for question in (
        "every job ended as it should",
        "none was lost",
        "none ran twice",
        "the results are right",
    ):
        assert re.search(rf"^holds +{question}", ended.stdout, re.MULTILINE), ended.stdout
    assert re.search(r"at most [12] of 2", ended.stdout), ended.stdout
    assert re.search(r"at most [1-6] of 6", ended.stdout), ended.stdout
    assert list(tmp_path.iterdir()) == []
