"""What is given out: built by scripts/build, and installed as somebody would."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def install(wheel: Path, into: Path, only: Iterable[str] | None = None) -> Path:
    """The directory of its commands: a wheel in a virtual environment of its own, without a package index.

    What it needs comes from this interpreter's packages: all of them, which stand behind its own, or `only`
    these. Raises PackagingFailed.
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
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(into)}))
    ours = Path(sysconfig.get_path("purelib"))
    if only is None:
        # The editable project is not found this way: files like this one count in the first directory alone.
        (packages / "beside.pth").write_text(f"{ours}\n", encoding="utf-8")
    for name in only or ():
        tops = {file.parts[0] for file in metadata.files(name) or ()}
        for top in tops - {".."}:
            (packages / top).symlink_to(ours / top)
    return into / "bin"


def requirements(distribution: metadata.Distribution) -> set[str]:
    """All that an installed distribution brings along, by its normal name, without any extra."""
    found: set[str] = set()
    waiting = list(distribution.requires or ())
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += metadata.requires(name) or ()
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise PackagingFailed(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
