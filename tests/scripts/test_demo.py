"""What scripts/demo refuses, before anything is started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_demo(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "run_demo.py"), *arguments],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_port_that_is_taken_is_said_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_demo(tmp_path, "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == f"scripts/demo: port {port}: Address already in use; type: scripts/demo\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_port_is_refused(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--port", "65536")
    assert done.returncode == 2
    assert "'65536' is no port: expected 0 to 65535" in done.stderr


def test_help_is_shown_without_setting_up(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "demo"
    script.parent.mkdir()
    script.write_bytes((SCRIPTS / "demo").read_bytes())
    done = subprocess.run(["bash", str(script), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--keep" in done.stdout
    assert "--port N" in done.stdout
