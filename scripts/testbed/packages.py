"""What is given out: built by scripts/build, and installed as somebody would."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class PackagingFailed(Exception):
    """What could not be built or installed, with what the program has said."""


def build(into: Path) -> None:
    """The wheels and the sdist, into a directory. Raises PackagingFailed."""
    _run([str(ROOT / "scripts" / "build"), str(into)])


def find(directory: Path, pattern: str) -> Path:
    """The one file there. Raises PackagingFailed."""
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        raise PackagingFailed(f"{directory} has {len(found)} of {pattern}")
    return found[0]


def install(wheel: Path, into: Path, *, beside: bool = True) -> Path:
    """The directory of its commands: a wheel in a virtual environment of its own, without a package index.

    What it needs comes from this interpreter's own packages, which are `beside` it; what stands in the new
    environment goes first. Raises PackagingFailed.
    """
    venv.create(into, symlinks=True)
    python = into / "bin" / "python"
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--no-index",
            "--no-deps",
            str(wheel),
        ]
    )
    if beside:
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(into)}))
        # The editable project is not found this way: files like this one count in the first directory alone.
        (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return into / "bin"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise PackagingFailed(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
