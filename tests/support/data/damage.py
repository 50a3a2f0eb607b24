"""What can become of a file, whatever is in it. `other` is a file of the same kind, of which few make use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

HUGE = 3 << 30
"""Bytes, which are holes: read whole, they would fill the memory."""


def missing(path: Path, other: Path | None = None) -> None:
    path.unlink()


def empty(path: Path, other: Path | None = None) -> None:
    os.truncate(path, 0)


def half(path: Path, other: Path | None = None) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeros(path: Path, other: Path | None = None) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def a_directory(path: Path, other: Path | None = None) -> None:
    path.unlink()
    (path / "in").mkdir(parents=True)


def huge(path: Path, other: Path | None = None) -> None:
    os.truncate(path, HUGE)


def no_utf8(path: Path, other: Path | None = None) -> None:
    path.write_bytes(b"\xff\xfe\x80")


def of_another(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)
