"""A node that a filter of packets lets nobody connect to, over a link that is cut: the script, in small."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "dial_out.py"
NEEDED = ("ip", "ss", "nft", "nsenter", "curl")


@pytest.mark.skipif(
    os.getuid() != 0 or not all(map(shutil.which, NEEDED)),
    reason=f"it makes a network: root is needed, and {', '.join(NEEDED)}",
)
def test_nothing_is_lost_or_begun_twice_where_nobody_is_let_in() -> None:
    small = ["--jobs", "12", "--cuts", "5", "--pairs", "1"]
    done = subprocess.run([sys.executable, SCRIPT, *small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 cuts" in done.stdout and "0 wrong" in done.stdout
