"""Writing into the directory of a payload, whatever its script has done there: one that runs as the same user
as the node can lock it, take it away, or put something else in its place."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from actors.store.durable import is_full

T = TypeVar("T")


def retry_repaired(path: Path, work: Callable[[], T]) -> T:
    """Do what reads or writes `path`, a file of the node's in a payload's directory. If that fails, make the
    directory fit for it and do it once more. Blocks. Raises what the work raises, `OSError` at last."""
    try:
        return work()
    except OSError as error:
        if is_full(error):
            raise
    _make_fit(path)
    return work()


def _make_fit(path: Path) -> None:
    where = path.parent
    try:
        if stat.S_ISDIR(where.lstat().st_mode):
            where.chmod(0o700)
        else:
            where.unlink()
            where.mkdir(mode=0o700)
    except FileNotFoundError:
        where.mkdir(mode=0o700)
    if path.is_dir() and not path.is_symlink():
        # It goes with the payload, as all that is there does.
        os.rename(path, where / f".{path.name}.{secrets.token_hex(4)}")
