"""Directories of jobs, copied from one data directory to another. All of it blocks, and raises OSError."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from actors.store.durable import sync_directory

PARTS: Final = ("input", "result")
"""Of a job's directory: each comes there as a whole."""

Listing: TypeAlias = frozenset[tuple[str, int, int]]
"""Files below a directory: path, bytes, and when it was written in nanoseconds since the epoch."""


def list_tree(top: Path) -> Listing:
    """FileNotFoundError: it is not there, or went away meanwhile."""
    return frozenset(_listed(top, ""))


def _listed(top: Path, below: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(top / below) as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _listed(top, f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                yield path, found.st_size, found.st_mtime_ns


def plain_files(directory: Path) -> list[str]:
    """The names of those that are right in it."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]


def copy_file(source: Path, target: Path) -> int:
    """Its bytes; synced, and with the same time and mode. Whatever was there is replaced."""
    aside = target.with_name(f".{target.name}.copy")
    aside.unlink(missing_ok=True)
    shutil.copyfile(source, aside, follow_symlinks=False)
    shutil.copystat(source, aside, follow_symlinks=False)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, target)
    return target.stat().st_size


def copy_job(source: Path, target: Path) -> int:
    """Have a job's directory at `target` as it is at `source`; how many bytes had to be copied. What is there
    already, with the same sizes and times, is left. FileNotFoundError: it is not there, or went away."""
    files = plain_files(source)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    copied = sum(_copy_part(source, target, part) for part in PARTS)
    for name in files:
        if not _same(source / name, target / name):
            copied += copy_file(source / name, target / name)
    if copied:
        sync_directory(target)
        sync_directory(target.parent)
    return copied


def _same(one: Path, other: Path) -> bool:
    found = one.stat()
    try:
        there = other.stat()
    except FileNotFoundError:
        return False
    return (found.st_size, found.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _copy_part(source: Path, target: Path, part: str) -> int:
    copied = 0
    while True:
        try:
            wanted = list_tree(source / part)
            if not copied and (target / part).is_dir() and list_tree(target / part) == wanted:
                return 0
            copied += _copy_tree(source / part, target / part, wanted)
            # Results may be replaced by those of a later attempt while they are copied.
            if list_tree(source / part) == wanted:
                return copied
        except FileNotFoundError:
            if not source.is_dir():
                raise
            if not (source / part).is_dir():
                return copied  # it has none


def _copy_tree(source: Path, target: Path, wanted: Listing) -> int:
    aside, older = (target.with_name(f".{target.name}.{what}") for what in ("copy", "older"))
    for left in (aside, older):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(mode=0o700)
    copied = 0
    for path, _, _ in sorted(wanted):
        place = aside / path
        place.parent.mkdir(parents=True, exist_ok=True)
        copied += copy_file(source / path, place)
    for directory, _, _ in os.walk(aside):
        sync_directory(Path(directory))
    if target.exists():
        target.rename(older)
    aside.rename(target)
    shutil.rmtree(older, ignore_errors=True)
    return copied
