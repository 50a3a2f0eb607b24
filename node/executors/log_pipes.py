"""What a script prints, on its way through a pipe into its log.

A pipe cannot be cut short by a script that opens its own output (`echo x > /dev/stdout`), and it is where a
log that grows without a bound is stopped: then its head and its tail are kept, and a line between says how
much is missing. Imported by the shepherd, and by batch jobs, whose Python may be as old as 3.7.
"""

from __future__ import annotations

import fcntl
import os

_PIECE = 1 << 16
_F_GETPIPE_SZ = 1032
"""As in `fcntl` since Python 3.10."""
_LONGEST_TAIL = 1 << 20
"""Bytes. The tail is in memory until the end, and up to twice as much."""


class LogPipe:
    """One stream and its log, of which `limit` bytes are kept. Raises `OSError` if it cannot be opened."""

    def __init__(self, path: bytes, limit: int) -> None:
        # Appended to: what a script adds to this file itself is not overwritten.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._log = os.open(path, flags, 0o600)
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self._limit = limit
        self._tail = min(limit // 2, _LONGEST_TAIL)
        self._room = limit - self._tail
        """Bytes that the head may still take."""
        self._over = False
        """Whether the head is done, and the rest kept for the end."""
        self._held = bytearray()
        """Read and not written: what is over the limit, or what the disk does not take."""
        self._failing = False
        self._ended = False
        """Whether nobody can print any more."""
        self.left_out = 0
        """Bytes over the limit that are missing in the log."""
        self.unwritten = 0
        """Bytes missing in the log because the disk did not take them."""

    @property
    def pipe(self) -> str:
        """What `/proc/PID/fd` calls the pipe of who holds it."""
        return f"pipe:[{os.fstat(self.reader).st_ino}]"

    def close_writer(self) -> None:
        """From now on only the script, and what it starts, can print."""
        os.close(self.writer)

    @property
    def stuck(self) -> bool:
        """Whether something waits for room on the disk: now and then `keep(b"")` tries again."""
        return bool(self._held) and not self._over

    def take(self, most: int = _PIECE) -> int | None:
        """Move a piece of what is in the pipe into the log, and tell its bytes: 0 when nobody can print any
        more, None when there is nothing now."""
        try:
            piece = os.read(self.reader, min(most, _PIECE))
        except BlockingIOError:
            return None
        if not piece:
            self._ended = True
            return 0
        self.keep(piece)
        return len(piece)

    def keep(self, piece: bytes) -> None:
        """Write what belongs to the head, hold the rest, and forget what is too much to be held."""
        self._held += piece
        if self._held and not self._over:
            self._write_head()
        # Not at each piece: forgetting moves what stays.
        if len(self._held) > 2 * self._tail:
            self._forget(len(self._held) - self._tail)

    def finish(self) -> None:
        """Take what is in the pipe and write the tail, once nothing of the payload lives."""
        if not self._ended:
            # No more than a pipe holds: who was handed it and is none of the payload's might print for ever.
            left = fcntl.fcntl(self.reader, _F_GETPIPE_SZ)
            taken = self.take(left)
            while taken and taken < left:
                left -= taken
                taken = self.take(left)
        if self._over:
            self._begin_tail()
        if self._held:
            self.unwritten += len(self._held) - self._append(self._held)
            self._held.clear()

    def close(self) -> None:
        """Neither a byte comes in any more nor goes out."""
        os.close(self.reader)
        os.close(self._log)

    def _write_head(self) -> None:
        size = len(self._held)
        over = size > self._room
        if over:
            # Whole lines, if there are any.
            size = self._held.rfind(b"\n", 0, self._room) + 1 or self._room
        written = self._append(self._held[:size])
        del self._held[:written]
        self._room -= written
        self._failing = written < size
        if over and not self._failing:
            self._over = True
            self._say(f"this log has reached {self._limit} bytes: of what follows only the end is kept")

    def _forget(self, count: int) -> None:
        del self._held[:count]
        self._over = True
        if self._failing:
            self.unwritten += count
        else:
            self.left_out += count

    def _begin_tail(self) -> None:
        """Let the tail begin with a whole line, if there is one, and say what is missing before it."""
        excess = max(0, len(self._held) - self._tail)
        if excess or self.left_out or self.unwritten:
            self._forget(self._held.find(b"\n", max(0, excess - 1)) + 1 or excess)
        missing = self.left_out or self.unwritten
        if missing:
            why = "could not be written" if self._failing else "are left out"
            self._say(f"{missing} bytes {why} here")

    def _say(self, text: str) -> None:
        self._append(f"\n[{text}]\n".encode())

    def _append(self, data: bytes | bytearray) -> int:
        """How much of it the disk took."""
        view, written = memoryview(data), 0
        try:
            while written < len(view):
                written += os.write(self._log, view[written:])
        except OSError:
            pass
        finally:
            view.release()
        return written
