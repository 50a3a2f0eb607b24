"""What is looked at before `run.sh` is started: that it is there, can be read, and is a script for bash."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

CONVERTED: Final = "run.sh had Windows line endings; they were converted"

_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")

_PIECE: Final = 64 * 1024
"""Bytes in memory at once: a script that unpacks itself may be as large as an upload. The first line must end
in the first piece for its end to count."""


@dataclass(frozen=True, slots=True)
class ScriptCheck:
    """`invalid` says why it cannot be run; `note` what was changed so that it can."""

    invalid: str = ""
    note: str = ""


def make_ready(script: Path) -> ScriptCheck:
    """Look at a script and mend what editors on other systems do to it. Blocks.

    A byte order mark of UTF-8 goes. If the first line ends in CR LF, all of it does so by its editor, and the
    script is converted: bash would take each CR for a part of a word. A script whose first line ends in LF
    runs as it is, whatever CRs it holds.
    """
    try:
        mode = script.lstat().st_mode
        if stat.S_ISDIR(mode):
            return ScriptCheck(invalid="run.sh is a directory; it must be a bash script")
        if not stat.S_ISREG(mode):
            return ScriptCheck(invalid="run.sh is no regular file; it must be a bash script")
        with script.open("rb") as file:
            head = file.read(_PIECE)
    except FileNotFoundError:
        return ScriptCheck(invalid="run.sh not found")
    except OSError as why:
        return ScriptCheck(invalid=f"run.sh cannot be read: {why.strerror}")
    if head.startswith(_UTF16_BOMS):
        return ScriptCheck(invalid="run.sh is encoded in UTF-16; save it as UTF-8")
    skip = len(_UTF8_BOM) if head.startswith(_UTF8_BOM) else 0
    windows = head.partition(b"\n")[0].endswith(b"\r") and b"\n" in head
    if skip or windows:
        _convert(script, skip, windows, stat.S_IMODE(mode))
    return ScriptCheck(note=CONVERTED if windows else "")


def _convert(script: Path, skip: int, windows: bool, mode: int) -> None:
    # Beside the job's directory, not in it: nothing of ours is left there if this is interrupted.
    beside = script.parent.parent / f".run.sh.{secrets.token_hex(4)}"
    try:
        with script.open("rb") as source, beside.open("xb") as target:
            source.seek(skip)
            for piece in _unix_lines(source) if windows else _pieces(source):
                target.write(piece)
        beside.chmod(mode)
        os.replace(beside, script)
    finally:
        beside.unlink(missing_ok=True)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece


def _unix_lines(source: BinaryIO) -> Iterator[bytes]:
    """What is left of a file, each CR LF an LF."""
    kept = b""
    for piece in _pieces(source):
        gathered = kept + piece
        # The last CR may belong to an LF that comes with the next piece.
        kept = b"\r" if gathered.endswith(b"\r") else b""
        yield gathered[: len(gathered) - len(kept)].replace(b"\r\n", b"\n")
    yield kept
