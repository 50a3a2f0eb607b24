"""What the OpenAPI document says is what a running server does: requests made up from it, good and bad."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_api.py"


def test_no_answer_is_another_than_the_document_says(tmp_path: Path) -> None:
    """A few requests of each kind; the script goes on for as long as it is told."""
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--seed", "1", "--examples", "2"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    selected = re.search(r"Operations: +(\d+) selected / (\d+) total", ended.stdout)
    assert selected is not None and selected[1] == selected[2], ended.stdout
    generated = re.search(r"(\d+) generated", ended.stdout)
    assert generated is not None and int(generated[1]) > 500, ended.stdout
    assert list(tmp_path.iterdir()) == []
