"""The directories of a node's payloads, and how files get into them and go away.

    DATA/payloads/KEY/     one payload (0700)
        record.json        what is known of it (see records.py)
        work/              the job's own directory, the script's working directory
        stdout.log stderr.log
        run/               the executor's own
        intent             somebody has set out to start it; holds what is to be said in its message
        manifest.json      what there is to be collected, frozen at its end
    DATA/incoming/         what is being received; nothing in it is a payload
    DATA/trash/            what is being deleted

A payload is visible once its directory was renamed from incoming to payloads, whole. It leaves by a rename
into the trash.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from actors.wire.errors import BadRequest
from actors.wire.paths import PathSet, safe_path

WORK: Final = "work"
INTENT: Final = "intent"
MANIFEST: Final = "manifest.json"

_FLUSH: Final = 256 * 1024
"""Bytes that are gathered before a thread writes them: many small files cost one thread call."""


class Workspace:
    """The directories below one data directory. `prepare` before use."""

    def __init__(self, data: Path) -> None:
        self.payloads = data / "payloads"
        self._incoming = data / "incoming"
        self._trash = data / "trash"
        self._readers: dict[str, int] = {}
        self._swept = trio.Lock()

    def prepare(self) -> None:
        """Make the directories; what an earlier process was receiving goes into the trash. Blocks."""
        for directory in (self.payloads, self._incoming, self._trash):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in list(os.scandir(self._incoming)):
            os.rename(entry.path, self._trash / f"{entry.name}-{secrets.token_hex(4)}")

    def directory(self, key: str) -> Path:
        return self.payloads / key

    def work(self, key: str) -> Path:
        return self.payloads / key / WORK

    def intended(self, key: str) -> bool:
        """Whether somebody has set out to start this payload."""
        return (self.payloads / key / INTENT).exists()

    # ------------------------------------------------------------------ receiving

    def receive(self) -> Incoming:
        """A place for files that arrive; they are written by tasks, see `Incoming`."""
        return Incoming(self._incoming / secrets.token_hex(16))

    # ------------------------------------------------------------------ reading and deleting

    @contextmanager
    def reading(self, key: str) -> Iterator[Path]:
        """While it is open the payload's directory is not discarded."""
        self._readers[key] = self._readers.get(key, 0) + 1
        try:
            yield self.payloads / key
        finally:
            self._readers[key] -= 1
            if not self._readers[key]:
                del self._readers[key]

    def discard(self, key: str) -> bool:
        """Move a payload's directory into the trash; False while somebody reads it. True too when there is
        none. Blocks for a rename."""
        if key in self._readers:
            return False
        try:
            os.rename(self.payloads / key, self._trash / f"{key}-{secrets.token_hex(4)}")
        except FileNotFoundError:
            return True
        return True

    async def empty_trash(self) -> None:
        """Delete what was discarded."""
        async with self._swept:
            for entry in await trio.to_thread.run_sync(os.listdir, self._trash):
                await trio.to_thread.run_sync(_delete, self._trash / entry)


class Incoming:
    """Files of one payload or of several, as they arrive, below a directory of their own. Owned by one task.

    `open` a file, `write` its bytes, and when all have arrived `flush`; then `directory(name)` may be taken
    away by a rename. `close` deletes whatever is still there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: dict[str, PathSet] = {}
        self._pending: list[tuple[Path, bytes, bool]] = []
        self._size = 0
        self._current: Path | None = None

    def directory(self, name: str) -> Path:
        return self._root / name

    async def add(self, *names: str) -> None:
        """Begin payloads' directories. Raises `OSError`."""
        self._paths.update({name: PathSet() for name in names})
        await trio.to_thread.run_sync(_make_payloads, [self._root / name for name in names])

    def open(self, name: str, path: str) -> None:
        """The next bytes are those of the file `path` of payload `name`. Raises `BadRequest` for what is no
        safe path, or one that stands there already."""
        self._current = None
        safe = safe_path(path)
        self._paths[name].add(safe)
        self._current = self._root / name / WORK / safe
        self._pending.append((self._current, b"", True))

    async def write(self, chunk: bytes) -> None:
        """More bytes of the file that is open. Raises `OSError`."""
        if self._current is None:
            raise BadRequest("bytes without a file")
        self._pending.append((self._current, bytes(chunk), False))
        self._size += len(chunk)
        if self._size >= _FLUSH or len(self._pending) >= 1024:
            await self.flush()

    async def flush(self) -> None:
        """Write out what was gathered. Raises `OSError`."""
        pending, self._pending, self._size = self._pending, [], 0
        if pending:
            await trio.to_thread.run_sync(_write, pending)

    async def drop(self, name: str) -> None:
        """Delete one payload's directory, with what was gathered for it."""
        mine = self._root / name
        self._pending = [item for item in self._pending if not item[0].is_relative_to(mine)]
        self._current = None
        await trio.to_thread.run_sync(_delete, mine)

    async def close(self) -> None:
        """Delete what is still there. Idempotent; finishes even when cancelled."""
        self._pending.clear()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_delete, self._root)


def _make_payloads(directories: list[Path]) -> None:
    for directory in directories:
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700)
        work = directory / WORK
        work.mkdir()
        work.chmod(0o755)


def _write(pending: list[tuple[Path, bytes, bool]]) -> None:
    """Write gathered bytes, opening each file once for a run of pieces."""
    opened: Path | None = None
    fd = -1
    try:
        for path, chunk, first in pending:
            if path != opened:
                if fd >= 0:
                    os.close(fd)
                    fd = -1
                if first:
                    path.parent.mkdir(parents=True, exist_ok=True)
                how = os.O_CREAT | os.O_EXCL if first else os.O_APPEND
                fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | how, 0o644)
                opened = path
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
    finally:
        if fd >= 0:
            os.close(fd)


def _delete(path: Path) -> None:
    """Delete a file or a tree, whatever modes a script has left on its directories."""

    def again(function: object, name: str, error: object) -> None:
        del function, error
        # A directory without write permission keeps its entries from its owner: give it back and go on.
        for stubborn in (os.path.dirname(name), name):
            if not os.path.islink(stubborn) and os.path.isdir(stubborn):
                os.chmod(stubborn, 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name)
        else:
            os.unlink(name)

    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, onerror=again)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
