"""What is looked at before `run.sh` is started: that it is there, can be read, and is a script for bash."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONVERTED: Final = "run.sh had Windows line endings; they were converted"

_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Checked:
    """`invalid` says why it cannot be run; `note` what was changed so that it can."""

    invalid: str = ""
    note: str = ""


def make_ready(script: Path) -> Checked:
    """Look at a script and mend what editors on other systems do to it. Blocks.

    A byte order mark of UTF-8 goes. If the first line ends in CR LF, all of it does so by its editor, and the
    script is converted: bash would take each CR for a part of a word. A script whose first line ends in LF
    runs as it is, whatever CRs it holds.
    """
    try:
        mode = script.lstat().st_mode
        if stat.S_ISDIR(mode):
            return Checked(invalid="run.sh is a directory; it must be a bash script")
        if not stat.S_ISREG(mode):
            return Checked(invalid="run.sh is no regular file; it must be a bash script")
        content = script.read_bytes()
    except FileNotFoundError:
        return Checked(invalid="run.sh not found")
    except OSError as why:
        return Checked(invalid=f"run.sh cannot be read: {why.strerror}")
    if content.startswith(_UTF16_BOMS):
        return Checked(invalid="run.sh is encoded in UTF-16; save it as UTF-8")
    mended = content.removeprefix(_UTF8_BOM)
    note = ""
    if mended.partition(b"\n")[0].endswith(b"\r"):
        mended = mended.replace(b"\r\n", b"\n")
        note = CONVERTED
    if mended != content:
        _replace(script, mended, stat.S_IMODE(mode))
    return Checked(note=note)


def _replace(script: Path, content: bytes, mode: int) -> None:
    # Beside the job's directory, not in it: nothing of ours is left there if this is interrupted.
    beside = script.parent.parent / f".run.sh.{secrets.token_hex(4)}"
    try:
        beside.write_bytes(content)
        beside.chmod(mode)
        os.replace(beside, script)
    finally:
        beside.unlink(missing_ok=True)
