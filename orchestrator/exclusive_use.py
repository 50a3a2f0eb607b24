"""A directory or a ledger for one process alone."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from actors.store.repair import set_aside
from orchestrator.errors import StartError

log: Final = logging.getLogger("orchestrator")


@contextmanager
def locked(path: Path, what: str, setting: str) -> Iterator[None]:
    """`what` for this process alone, by a lock on the file `path`. Raises StartError that names `setting`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (aside := set_aside(path)) is not None:
            log.warning("%s was a directory, and is %s now", path, aside)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
    except OSError as error:
        raise StartError(f"{what}: {error.strerror}; set {setting} to a place that can be written") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"{what} is used by another orchestrator; stop it, or set {setting} to another place"
            ) from None
        yield
    finally:
        os.close(fd)
