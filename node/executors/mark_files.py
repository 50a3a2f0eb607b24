"""The two small files that outlive everybody: the run mark (it has begun, once) and the end mark.

    DATA/payloads/KEY/run      exists as soon as it has started or was given up
    DATA/payloads/KEY/ended    how it ended

Both are written by the shepherd, complete or not at all, and both carry the nonce of the start they
belong to: an end mark that does not match its run mark is nobody's word. Also imported by the shepherd.

Neither is synced: they tell what became of processes, which end with the machine, as does all that is not
said elsewhere of what ran on it.

A script of another user reaches neither, as they lie in a directory closed to others. One of the same user
does where no namespace hides them; even then its shepherd has the last word, unless the script kills it.

Earlier versions had them in a directory `run`, as `run/started` and `run/ended`, with `run/grace`. They are
read there, too; and whoever creates `run` first, as either, has decided.
"""

from __future__ import annotations

import os
import signal

from node.executors.log_pipes import LogPipe

TYPE_CHECKING = False
if TYPE_CHECKING:  # A batch job would import it for longer than all the rest.
    from collections.abc import Iterable

RUN = "run"
END = "ended"
EARLIER = {RUN: "run/started", END: "run/ended"}
GRACE = "grace"
"""The seconds of grace of the latest request to stop."""
READY = "ready"
WORD = "running"
"""The word that somebody has set out to start a payload, before and once it counts."""
WITHDRAWN = "withdrawn"
"""What becomes of the first of them when its agent has ended: who was asked by that one and comes late starts
nothing, as the next one may have told by then that the payload never runs."""
STARTING = "+"
"""Before the key in the name of a shepherd, until the run mark is there; from then on the key is its name.
So it is known whose a shepherd is that serves one payload after another."""
IDLE = "idle shepherd"
"""Its name between two of them."""
ABANDONED = b"abandoned\n"
"""Content of the run mark of a payload that will never start."""

STARTED, ENDED = b"started\n", b"ended\n"
"""What a shepherd says to its agent before a run mark, and before an end mark."""
BRIEF = 0.03
"""Seconds within which a script may be over before a shepherd has said that it runs: it says both at once."""

HOLD = 0.5
"""Seconds for which an end is held back that SIGKILL or SIGTERM made and nobody of ours ordered. Who takes a
machine away, or an allocation of one, kills all that runs there in any order: then who watches it dies, too,
or is told to end, and it was not the script that failed."""

MOST = 8192
"""Bytes of a mark."""

_COMPLETE = "complete"


def pack(values: dict[str, str]) -> bytes:
    lines = [f"{name} {value}\n" for name, value in values.items()]
    return ("".join(lines) + _COMPLETE + "\n").encode("utf-8", "surrogateescape")


def pack_end(
    key: str,
    nonce: str,
    logs: Iterable[LogPipe],
    *,
    status: int | None,
    started: float,
    ended: float,
    wall: float,
    cpu: float,
    peak: int,
    asked: bool,
    **more: str,
) -> bytes:
    """The end mark of a script that has run. `status` as `wait` tells it, times in seconds, `peak` in bytes;
    `asked`: whether its end was asked for; `more`: what only one executor knows."""
    left_out = unwritten = 0
    for log in logs:
        left_out += log.left_out
        unwritten += log.unwritten
    values = {
        "key": key,
        "nonce": nonce,
        "status": str(status),
        "started": repr(started),
        "ended": repr(ended),
        "wall": repr(wall),
        "cpu": repr(cpu),
        "peak": str(peak),
        "asked": str(int(asked)),
        "left_out": str(left_out),
        "unwritten": str(unwritten),
        **more,
    }
    return pack(values)


def was_killed(status: int) -> bool:
    """Whether SIGKILL or SIGTERM has ended it, or the program that it waited for. `status` as `wait` tells
    it."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status) - 128
    return number in (signal.SIGKILL, signal.SIGTERM)


def unpack(data: bytes) -> dict[str, str] | None:
    """None when it is not complete."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if lines[-2:] != [_COMPLETE, ""]:
        return None
    values = {}
    for line in lines[:-2]:
        name, _, value = line.partition(" ")
        values[name] = value
    return values


def create(name: str, content: bytes, directory: int) -> None:
    """Make it exist with all of its content; `FileExistsError` when somebody was first."""
    draft = f"{name}.{os.urandom(8).hex()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        os.write(descriptor, content)
        # A link, not a rename: it refuses to replace, so this file decides who was first.
        os.link(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(descriptor)
        os.unlink(draft, dir_fd=directory)


def leave_word(directory: int) -> None:
    """Make the word count that somebody has set out to start a payload, if it was not left before. Raises
    `FileNotFoundError` where it was withdrawn, and not left anew."""
    try:
        os.rename(READY, WORD, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        names = os.listdir(directory)
        if WITHDRAWN in names and WORD not in names:
            raise


def add(name: str, content: bytes, directory: int) -> None:
    """Say more in a mark that is there."""
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


class Draft:
    """A mark to be, with its space already on the disk, so that a full disk cannot swallow it."""

    def __init__(self, name: str, directory: int) -> None:
        self._name, self._directory = name, directory
        self._begin()

    def _begin(self) -> None:
        self._draft = f"{self._name}.{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._draft, flags, 0o600, dir_fd=self._directory)
        os.write(self._descriptor, b" " * 1024)

    def publish(self, content: bytes) -> None:
        """Fill it and give it its name, whatever has that name. Once."""
        if not self._is_there():
            os.close(self._descriptor)
            self._begin()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))
        os.rename(self._draft, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.close(self._descriptor)

    def _is_there(self) -> bool:
        """Whether nobody has taken it away, or put something else in its place."""
        try:
            found = os.stat(self._draft, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def discard(self) -> None:
        os.close(self._descriptor)
        os.unlink(self._draft, dir_fd=self._directory)
