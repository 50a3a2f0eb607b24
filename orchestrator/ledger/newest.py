"""How far a ledger had come, in a file beside it.

SQLite cannot tell that a part of its write-ahead log is gone, or that the log is another database's: it opens
what is left, as if the newest changes had never been. Jobs would run again that run, and ids be given twice.
So each commit is followed by a note of its last change, which a start holds against what the ledger says.

The note is not synced: it outlasts the process, which may be killed at any moment, and after a power cut it
says less than the ledger, never more.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from actors.store.kept_file import Damaged, read_kept
from actors.store.repair import set_aside

log: Final = logging.getLogger("orchestrator.ledger")

_NOTE: Final = re.compile(rb"([0-9a-f]{32}) ([0-9]{20})\n")
_LENGTH: Final = 32 + 1 + 20 + 1


class Note(NamedTuple):
    """Whose ledger it is, and the number of the newest change that it was seen to hold."""

    owner: str
    seq: int


class Newest:
    """The file. All of this blocks, and nothing of it raises: without the note less is found out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._owner = ""

    def read(self) -> Note | None:
        """What was noted; None where nothing was, or where it cannot be read any more, which is logged."""
        try:
            content = read_kept(self.path, _LENGTH)
        except OSError as error:
            content = Damaged(error.strerror or str(error))
        if content is None:
            return None
        found = _NOTE.fullmatch(content) if isinstance(content, bytes) else None
        if found is None:
            why = content.why if isinstance(content, Damaged) else "it is no note of a change"
            log.warning(
                "%s is damaged (%s) and written anew: whether the ledger has lost its newest changes "
                "cannot be told this time",
                self.path,
                why,
            )
            return None
        return Note(found[1].decode(), int(found[2]))

    def open(self, note: Note) -> None:
        """Begin to keep notes of this one's owner with it."""
        self._owner = note.owner
        try:
            set_aside(self.path)
            if self.path.is_symlink() or not self.path.is_file():
                self.path.unlink(missing_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, _LENGTH)
        except OSError as error:
            log.warning("%s cannot be written: %s", self.path, error.strerror)
        self.keep(note.seq)

    def keep(self, seq: int) -> None:
        """Note the newest change, after its commit and before anybody is told of it."""
        if self._fd is not None:
            try:
                os.pwrite(self._fd, f"{self._owner} {seq:020d}\n".encode(), 0)
            except OSError:
                return

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
