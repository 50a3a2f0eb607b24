"""What is looked at before `run.sh` is started: that it is there, can be read, and is a script for bash."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from actors.wire.files.names import printable
from node.runs.first_line import FirstLineError, read_first_line

CONVERTED: Final = "run.sh had Windows line endings; they were converted"
CONVERTED_CR: Final = "run.sh had line endings of CR alone; they were converted"
WITHOUT_BOM: Final = "run.sh began with a byte order mark; it was removed"

_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")

_SIMILAR: Final = 0.65
"""Of 1: `run.py` and `run.sh.txt` are similar enough, `main.sh` is not."""
_MOST_LOOKED_AT: Final = 10_000
_MOST_NAMED: Final = 3

_PIECE: Final = 64 * 1024
"""Bytes in memory at once: a script that unpacks itself may be as large as an upload. The first line must end
in the first piece for its end to count."""


@dataclass(frozen=True, slots=True)
class ScriptCheck:
    """`invalid` says why it cannot be run; `note` what was changed so that it can, and what was not heeded.
    `options` are those that its first line has for bash."""

    invalid: str = ""
    note: str = ""
    options: tuple[str, ...] = ()


def make_ready(script: Path) -> ScriptCheck:
    """Look at a script and mend what editors on other systems do to it. Blocks.

    A byte order mark of UTF-8 goes. If the first line ends in CR LF, all of it does so by its editor, and the
    script is converted: bash would take each CR for a part of a word. So it is if it has CRs and no LF at
    all. A script whose first line ends in LF runs as it is, whatever CRs it holds. Raises `OSError` when it
    cannot be looked at now.
    """
    try:
        checked, mending = _look(script)
    except FileNotFoundError:
        if not script.parent.is_dir():
            raise
        return ScriptCheck(invalid="run.sh not found" + _name_similar(script.parent))
    if mending is not None:
        _convert(script, *mending)
    return checked


def look_at(script: Path | str) -> tuple[str, ...] | None:
    """The options that a script has for bash; None if more is to be said of it, or it is to be mended first.
    Blocks. Raises `OSError`, also where there is none."""
    checked, _ = _look(script)
    return None if checked.invalid or checked.note else checked.options


_Mending: TypeAlias = tuple[int, bytes, int]
"""The bytes that go from its begin, the ending of its lines, and its mode."""


def _look(script: Path | str) -> tuple[ScriptCheck, _Mending | None]:
    """What is said of it once it is mended, and how."""
    mode = os.lstat(script).st_mode
    if stat.S_ISDIR(mode):
        return ScriptCheck(invalid="run.sh is a directory; it must be a bash script"), None
    if not stat.S_ISREG(mode):
        return ScriptCheck(invalid="run.sh is no regular file; it must be a bash script"), None
    head = _read_head(script)
    if head.startswith(_UTF16_BOMS) or _is_wide(head[:64]):
        return ScriptCheck(invalid="run.sh is encoded in UTF-16; save it as UTF-8"), None
    skip = len(_UTF8_BOM) if head.startswith(_UTF8_BOM) else 0
    line, newline, _ = head.partition(b"\n")
    ending = b""
    if newline and line.endswith(b"\r"):
        ending = b"\r\n"
    elif not newline and b"\r" in head and not _holds_newline(script):
        ending = b"\r"
    try:
        first = read_first_line(line[skip:].partition(b"\r")[0] if ending else line[skip:])
    except FirstLineError as why:
        return ScriptCheck(invalid=str(why)), None
    notes = [
        WITHOUT_BOM if skip else "",
        {b"\r\n": CONVERTED, b"\r": CONVERTED_CR}.get(ending, ""),
        first.note,
    ]
    mending = (skip, ending, stat.S_IMODE(mode)) if skip or ending else None
    return ScriptCheck(note="; ".join(filter(None, notes)), options=first.options), mending


def _read_head(script: Path | str) -> bytes:
    descriptor = os.open(script, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _PIECE)
    finally:
        os.close(descriptor)


def _is_wide(head: bytes) -> bool:
    """Whether each character has two bytes, one of them 0, as Latin text in UTF-16 does."""
    ones, others = head[::2], head[1::2]
    return len(head) >= 4 and ((not any(ones) and all(others)) or (not any(others) and all(ones)))


def _name_similar(directory: Path) -> str:
    """What there is whose name was perhaps meant to be run.sh."""
    found: list[str] = []
    looked = 0
    for where, directories, files in os.walk(directory):
        below = os.path.relpath(where, directory)
        for name in sorted(files):
            if below == ".":
                if SequenceMatcher(None, name.lower(), "run.sh").ratio() > _SIMILAR:
                    found.append(name)
            elif name.lower() == "run.sh":
                found.append(os.path.join(below, name))
        directories.sort()
        looked += len(files) + len(directories)
        if looked > _MOST_LOOKED_AT or len(found) >= _MOST_NAMED:
            break
    return f", but there is {', '.join(map(printable, found[:_MOST_NAMED]))}" if found else ""


def _holds_newline(script: Path | str) -> bool:
    with open(script, "rb") as file:
        return any(b"\n" in piece for piece in _pieces(file))


def _convert(script: Path, skip: int, ending: bytes, mode: int) -> None:
    # Beside the job's directory, not in it: nothing of ours is left there if this is interrupted.
    beside = script.parent.parent / f".run.sh.{secrets.token_hex(4)}"
    try:
        with script.open("rb") as source, beside.open("xb") as target:
            source.seek(skip)
            for piece in _unix_lines(source, ending) if ending else _pieces(source):
                target.write(piece)
        beside.chmod(mode)
        os.replace(beside, script)
    finally:
        beside.unlink(missing_ok=True)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece


def _unix_lines(source: BinaryIO, ending: bytes) -> Iterator[bytes]:
    """What is left of a file, each `ending` an LF: CR LF or CR."""
    kept = b""
    for piece in _pieces(source):
        gathered = kept + piece
        # The last CR may belong to an LF that comes with the next piece.
        kept = b"\r" if ending == b"\r\n" and gathered.endswith(b"\r") else b""
        yield gathered[: len(gathered) - len(kept)].replace(ending, b"\n")
    yield kept
