"""What is given out: built by scripts/build, and installed as somebody would."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
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


def find_earlier() -> str | None:
    """What to upgrade from: the newest tag of a version before this commit, else this version's first commit.

    None where there is neither: in a tree without git, or in a clone of its newest commit alone.
    """
    if not (ROOT / ".git").exists():
        return None
    head = _git("rev-parse", "HEAD")
    for tag in _git("tag", "--merged", "HEAD", "--list", "v*", "--sort=-version:refname").split():
        if _git("rev-parse", f"{tag}^{{commit}}") != head:
            return tag
    version = re.escape(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    )
    # A clone that does not go back so far has its oldest commit there.
    commits = _git("log", "--format=%H", f"-G^version = .{version}.$", "--", "pyproject.toml").split()
    return commits[-1][:12] if commits and commits[-1] != head else None


def build_commit(commit: str, into: Path) -> Path:
    """The wheel of an earlier commit, or of a tag, in a directory that this makes. Raises PackagingFailed."""
    tree = into / "tree"
    tree.mkdir(parents=True)
    _git("archive", f"--output={into / 'tree.tar'}", commit)
    # tarfile can do so without a warning only from 3.11.4 on; Debian 12 has 3.11.2.
    _run(["tar", "-xf", str(into / "tree.tar"), "-C", str(tree)])
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)], tree)
    return find(into, "job_orchestrator-*.whl")


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


def _git(*arguments: str) -> str:
    return _run(["git", "-C", str(ROOT), *arguments]).strip()


def _run(command: list[str], directory: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        raise PackagingFailed(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
