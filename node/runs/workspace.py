"""The directories of a node's payloads, and how files get into them and go away.

    DATA/payloads/KEY/     one payload (0700)
        record.json        what is known of it (see records.py)
        work/              the job's own directory, the script's working directory
        home/              the script's HOME and TMPDIR
        stdout.log stderr.log
        run ended          the executor's marks
        progress/          for the script to say how far it has come (see progress.py)
        ready              what `running` becomes when somebody sets out to start it (see ready_starts.py)
        withdrawn          what `ready` becomes at the next start of the node (see mark_files.py)
        running            somebody has set out to start it (see records.py)
        intent             what was changed in its script, to be said in its message; mostly there is nothing
        received.json      how large files of its input arrived (see received.py), if there are any
        manifest.json      what there is to be collected, frozen at its end
    DATA/incoming/         what is being received; nothing in it is a payload
    DATA/trash/            what is being deleted

A payload is visible once its directory was renamed from incoming to payloads, whole. It leaves by a rename
into the trash.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final

import trio

from actors.process.kept_threads import KeptThreads
from actors.store.durable import write_all
from actors.store.repair import make_directory
from actors.store.sync_disk import WriteBack
from actors.wire.errors import BadRequest
from actors.wire.files.names import PathSet, safe_path
from node.executors import mark_files
from node.executors.executor import SUPERVISION, WORK
from node.executors.slurm.batch_program import ORDER
from node.runs.received import LARGE, Arriving, ReceivedFile, changes_are_told, note_received

READY: Final = mark_files.READY
WITHDRAWN: Final = mark_files.WITHDRAWN
RUNNING: Final = mark_files.WORD
INTENT: Final = "intent"
MANIFEST: Final = "manifest.json"

_DEEP: Final = 32
"""Directories within each other that are deleted where they are; what is deeper is moved up before."""
_AT_ONCE: Final = 4096
"""Names that are held while a directory is emptied."""
_FLUSH: Final = 256 * 1024
"""Bytes that are gathered before a thread writes them: many small files cost one thread call."""

TRANSFERS: Final = 16
"""Threads that transfers may take at once. They have their own: however many are under way on a slow disk,
what starts and ends finds a thread."""


class Workspace:
    """The directories below one data directory. `prepare` before use."""

    def __init__(self, data: Path) -> None:
        self.payloads = data / "payloads"
        self._directory = lru_cache(maxsize=256)(self.payloads.joinpath)
        self._payloads = os.fspath(self.payloads)
        self._incoming, self._trash = os.fspath(data / "incoming"), os.fspath(data / "trash")
        """As text, which is joined at no cost."""
        self._readers: dict[str, int] = {}
        self._refused: set[str] = set()
        self._discarded: list[str] = []
        """What of the trash came there since it was emptied last."""
        self._sweeper = KeptThreads("trash", 1)
        self._changes_are_told = False
        self.transfers = trio.CapacityLimiter(TRANSFERS)
        """For all that reads results and writes what arrives in threads."""
        self.freed: Callable[[], None] = lambda: None
        """Called when nobody reads any more what was to be discarded meanwhile."""
        self.emptied: Callable[[], object] = lambda: None
        """Called in a thread when there may be more room on the disk."""

    def prepare(self) -> None:
        """Make the directories; what an earlier process was receiving goes into the trash. Blocks."""
        for directory in (self.payloads, Path(self._incoming), Path(self._trash)):
            if not directory.is_dir():
                make_directory(directory)
        # Who runs as somebody else gets through to what is their own. Each of these is closed to all others.
        self.payloads.chmod(0o711)
        self._changes_are_told = changes_are_told(Path(self._incoming))
        for entry in list(os.scandir(self._incoming)):
            os.rename(entry.path, f"{self._trash}/{entry.name}-{os.urandom(4).hex()}")

    def directory(self, key: str) -> Path:
        return self._directory(key)

    def work(self, key: str) -> Path:
        return self.directory(key) / WORK

    def is_intended(self, key: str) -> bool:
        """Whether somebody has set out to start this payload."""
        directory = f"{self._payloads}/{key}"
        return any(os.path.lexists(f"{directory}/{name}") for name in (RUNNING, INTENT, SUPERVISION, ORDER))

    def settle_intended(self, key: str) -> bool:
        """The same at the start of a node, for good: who was asked by an earlier process and has not come to
        it does not start it any more. Blocks."""
        directory = f"{self._payloads}/{key}"
        try:
            os.rename(f"{directory}/{READY}", f"{directory}/{WITHDRAWN}")
        except FileNotFoundError:
            pass
        except OSError:
            return True  # it may come; the executor finds that out
        return self.is_intended(key)

    def may_be_starting(self, key: str) -> bool:
        """The same of one for which the executor was asked: it leaves that word itself where one is ready."""
        return self.is_intended(key) or os.path.lexists(f"{self._payloads}/{key}/{READY}")

    # ------------------------------------------------------------------ receiving

    def receive(self) -> Incoming:
        """A place for files that arrive; they are written by tasks, see `Incoming`."""
        root = f"{self._incoming}/{os.urandom(16).hex()}"
        return Incoming(root, self.transfers, noted=self._changes_are_told)

    # ------------------------------------------------------------------ reading and deleting

    @contextmanager
    def reading(self, key: str) -> Iterator[Path]:
        """While it is open the payload's directory is not discarded."""
        self._readers[key] = self._readers.get(key, 0) + 1
        try:
            yield self.directory(key)
        finally:
            self._readers[key] -= 1
            if not self._readers[key]:
                del self._readers[key]
                if key in self._refused:
                    self._refused.discard(key)
                    self.freed()

    def discard(self, key: str) -> bool:
        """Move a payload's directory into the trash; False while somebody reads it. True too when there is
        none. Blocks for a rename."""
        if key in self._readers:
            self._refused.add(key)
            return False
        place = f"{self._trash}/{key}-{os.urandom(4).hex()}"
        try:
            os.rename(f"{self._payloads}/{key}", place)
        except FileNotFoundError:
            return True
        self._discarded.append(place)
        return True

    async def delete_discarded(self) -> None:
        """Delete what was discarded since this was called last, all of it in one thread call. Raises
        `OSError`; what it could not delete stays in the trash."""
        discarded, self._discarded = self._discarded, []
        await self._sweeper.run(self._delete, discarded)

    async def empty_trash(self) -> None:
        """Delete all that is in the trash, whoever has left it there. Raises `OSError`."""
        self._discarded = []
        await self._sweeper.run(self._empty)

    def _empty(self) -> None:
        self._delete([f"{self._trash}/{name}" for name in os.listdir(self._trash)])

    def _delete(self, paths: Iterable[str]) -> None:
        _delete_all(paths)
        self.emptied()


class Incoming:
    """Files of one payload or of several, as they arrive. Owned by one task. `limiter` for its threads.

    `add` the payloads, `open` a file, `write` its bytes; when all have arrived `write_out` what is still
    gathered (it blocks), and `directory(name)` may be taken away by a rename: tell `taken`. `close` deletes
    what was not. Large files are `noted`, if so wanted.
    """

    def __init__(self, root: str, limiter: trio.CapacityLimiter, *, noted: bool = False) -> None:
        self._root = root
        self._noted = noted
        self._arriving, self._write_back = Arriving(), WriteBack()
        self._large: dict[str, ReceivedFile] = {}
        self._limiter = limiter
        self._paths: dict[str, PathSet] = {}
        self._made: set[str] = set()
        self._deeper: list[str] = []
        """Directories within those of the payloads that are still to be made."""
        self._whole: list[tuple[str, bytes]] = []
        """Small files that are here as a whole."""
        self._pending: list[tuple[str, bytes, bool]] = []
        self._size = 0
        self._current: str | None = None
        self._failed: OSError | None = None
        """Why something that was gathered is not there, or not whole."""
        self._closed = False

    def directory(self, name: str) -> str:
        return f"{self._root}-{name}"

    def add(self, *names: str) -> None:
        """Begin payloads. Their directories are made when the first bytes are written out."""
        for name in names:
            self._paths[name] = PathSet()

    def open(self, name: str, path: str) -> None:
        """The next bytes are those of the file `path` of payload `name`. Raises `BadRequest` for what is no
        safe path, or one that stands there already."""
        self._current = None
        self._current = self._add(name, path)
        self._pending.append((self._current, b"", True))

    def put(self, name: str, path: str, content: bytes) -> None:
        """A whole file, small, and gathered with the others until `write_out`. Raises as `open` does."""
        self._whole.append((self._add(name, path), content))

    def _add(self, name: str, path: str) -> str:
        """Where a file of this payload is to be."""
        safe = safe_path(path)
        self._paths[name].add(safe)
        where = f"{self._root}-{name}/{WORK}/{safe}"
        if "/" in safe:
            self._deeper.append(where.rpartition("/")[0])
        return where

    async def write(self, chunk: bytes) -> None:
        """More bytes of the file that is open. Raises `OSError`."""
        if self._current is None:
            raise BadRequest("bytes without a file")
        self._pending.append((self._current, bytes(chunk), False))
        self._size += len(chunk)
        if self._size >= _FLUSH or len(self._pending) >= 1024:
            await trio.to_thread.run_sync(self._write_gathered, limiter=self._limiter)

    def write_out(self) -> None:
        """Make the directories, and write what was gathered. Blocks. Raises `OSError`, from then on each
        time; `RuntimeError` once it is closed: a payload without its files must never be taken over."""
        self._write_gathered(last=True)
        for name in self._paths if self._large else ():
            directory = Path(self.directory(name))
            work = directory / WORK
            large = {Path(path): file for path, file in self._large.items()}
            mine = {path: file for path, file in large.items() if path.is_relative_to(work)}
            if mine:
                note_received(directory, mine, work)

    def _write_gathered(self, *, last: bool = False) -> None:
        if self._closed:
            raise RuntimeError("what was being received has been given up")
        if self._failed is not None:
            raise self._failed
        try:
            self._write_here(last)
        except OSError as error:
            self._failed = error
            raise

    def _write_here(self, last: bool) -> None:
        """What is here, which is gathered no more."""
        pending, self._pending, self._size = self._pending, [], 0
        whole, self._whole = self._whole, []
        for name in self._paths:
            if name not in self._made:
                self._made.add(name)
                _make_payload(f"{self._root}-{name}")
        deeper, self._deeper = self._deeper, []
        for directory in deeper:
            os.makedirs(directory, exist_ok=True)
        for path, content in whole:
            fd = os.open(path, _NEW, 0o644)
            try:
                write_all(fd, content)
            finally:
                os.close(fd)
        if pending:
            self._write(pending, last)

    def _write(self, pending: list[tuple[str, bytes, bool]], last: bool) -> None:
        """Write gathered bytes, opening each file once for a run of pieces. With the last of them the disk is
        not waited for: that is where all other payloads wait, too."""
        opened = ""
        fd = -1
        try:
            for path, chunk, first in pending:
                if path != opened:
                    if fd >= 0:
                        self._leave(opened, fd)
                        os.close(fd)
                        fd = -1
                    fd = os.open(path, _NEW if first else _MORE, 0o644)
                    opened = path
                if first:
                    self._arriving, self._write_back = Arriving(), WriteBack()
                write_all(fd, chunk)
                self._arriving.add(chunk)
                if not last:
                    # Else the next small sync of somebody else's would wait for all of it.
                    self._write_back.note(fd, self._arriving.size)
            if fd >= 0:
                self._leave(opened, fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def _leave(self, path: str, fd: int) -> None:
        """More of this file may come; if not, it is as it is now."""
        if self._noted and self._arriving.size > LARGE:
            self._large[path] = self._arriving.as_written(fd)

    def hand_over(self, name: str) -> None:
        """Somebody else has the directory now."""
        self._paths.pop(name, None)
        self._made.discard(name)

    async def drop(self, name: str) -> None:
        """Delete one payload's directory, with what was gathered for it."""
        mine = self.directory(name)
        self._pending = [item for item in self._pending if not item[0].startswith(f"{mine}/")]
        self._whole = [item for item in self._whole if not item[0].startswith(f"{mine}/")]
        self._deeper = [directory for directory in self._deeper if not directory.startswith(f"{mine}/")]
        self._current = None
        self._paths.pop(name, None)
        if name in self._made:
            self._made.discard(name)
            await trio.to_thread.run_sync(_delete, mine, limiter=self._limiter)

    async def close(self) -> None:
        """Delete what is still there. Idempotent; finishes even when cancelled."""
        self._closed = True
        self._pending.clear()
        self._whole.clear()
        self._deeper.clear()
        self._paths.clear()
        made, self._made = self._made, set()
        if made:
            with trio.CancelScope(shield=True):
                mine = [self.directory(name) for name in made]
                await trio.to_thread.run_sync(_delete_all, mine, limiter=self._limiter)


def _make_payload(directory: str) -> None:
    work = f"{directory}/{WORK}"
    os.mkdir(directory, 0o700)
    os.mkdir(work)
    os.chmod(work, 0o755)


_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MORE: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def _delete_all(paths: Iterable[str]) -> None:
    """Raises `OSError` for the first that could not be deleted, the others deleted all the same."""
    failed: list[OSError] = []
    for path in paths:
        try:
            _delete(path)
        except OSError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _delete(path: str) -> None:
    """Delete a file or a tree, whatever modes a script has left on its directories."""
    try:
        # What is no directory is none to be read either; links below are not followed, and nobody lives who
        # could put one there.
        _remove_tree(path, 0)
    except OSError:
        _delete_stubborn(path)


def _remove_tree(name: str, depth: int) -> None:
    """A tree as most are. Raises `OSError` for what is none, and where anything stands in the way."""
    if depth > _DEEP:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    while True:
        with os.scandir(name) as found:
            entries = list(islice(found, _AT_ONCE))
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            try:
                os.rmdir(entry.path)  # Many are empty, and need not be read.
            except OSError:
                _remove_tree(entry.path, depth + 1)
        if len(entries) < _AT_ONCE:
            os.rmdir(name)
            return


def _delete_stubborn(path: str) -> None:
    """However deep it is, and whatever its directories' modes: what is deep is moved up, so that neither the
    stack nor descriptors run out."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        top = _open_directory(path, None)
        try:
            while names := os.listdir(top):
                _empty(top, names, top, 0)
        finally:
            os.close(top)
        os.rmdir(path)
    except FileNotFoundError:
        return


def _empty(handle: int, names: list[str], top: int, depth: int) -> None:
    for name in names:
        if not stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=handle)
            continue
        inner = _open_directory(name, handle)
        try:
            if depth < _DEEP:
                _empty(inner, os.listdir(inner), top, depth + 1)
                os.rmdir(name, dir_fd=handle)
            else:
                os.rename(name, secrets.token_hex(16), src_dir_fd=handle, dst_dir_fd=top)
        finally:
            os.close(inner)


def _open_directory(name: str, above: int | None) -> int:
    """Open to its owner from here on: without that permission nothing in it can be deleted."""
    if os.stat(name, dir_fd=above, follow_symlinks=False).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, stat.S_IRWXU, dir_fd=above)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
