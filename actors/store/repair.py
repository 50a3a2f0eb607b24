"""Writing files of ours whatever has been done to the directory they are in: a script that runs as the same
user can lock it, take it away, or put something else in its place."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from actors.store.durable import is_full, is_passing

T = TypeVar("T")


def retry_repaired(path: Path | str, work: Callable[[], T]) -> T:
    """Do what writes `path`, a file of ours. If that fails, make its directory fit for it and do it
    once more. Blocks. Raises what the work raises, `OSError` at last."""
    try:
        return work()
    except OSError as error:
        if is_full(error) or is_passing(error):
            raise
    _make_fit(Path(path))
    return work()


def make_directory(path: Path) -> None:
    """Make a directory of ours that this user can use, whatever stands in its place. Blocks."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
                path.chmod(0o700)
            return
        path.unlink()
    except FileNotFoundError:
        pass
    path.mkdir(mode=0o700)


def deny_others(path: Path) -> None:
    """Leave a file or directory of ours to its owner and its group, if it is there. Blocks."""
    with suppress(FileNotFoundError, PermissionError):  # of another owner it is theirs to say
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o007:
            path.chmod(mode & ~0o007)


def set_aside(path: Path | str) -> Path | None:
    """Free the name of a file of ours that a directory has taken, if one has; what was there stays beside it,
    where the answer says. Blocks."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with suppress(FileNotFoundError, NotADirectoryError):
        # As a directory: a file that somebody has made there meanwhile stays.
        os.rename(f"{path}/", aside)
        return aside
    return None


def _make_fit(path: Path) -> None:
    make_directory(path.parent)
    set_aside(path)
