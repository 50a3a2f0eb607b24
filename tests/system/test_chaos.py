"""A short chaos run: real processes, killed, cut off and short of what they need; the script itself checks
everything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos.py"


def test_short_chaos_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--jobs", "20", "--kills", "6", "--nodes", "2", "--users", "4"]
    command += ["--seed", "11", "--seconds", "9", "--longest", "2", "--longest-outage", "1.5"]
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAILS" not in ended.stdout
    for question in (
        "files were torn, inodes and descriptors ran out",
        "no job is lost, and none is there twice",
        "every job ended as it should",
        "no attempt ran twice",
        "no job ran twice at once",
        "no restart of a node cost an attempt",
        "the results are right",
        "no process is left of any job",
        "nothing is left on the nodes",
        "each job has its files in one place",
    ):
        assert re.search(rf"^holds +{question}", ended.stdout, re.MULTILINE), ended.stdout
    assert "20 jobs, 6 kills" in ended.stdout
    assert "inodes were not used up" not in ended.stdout
    assert list(tmp_path.iterdir()) == []
