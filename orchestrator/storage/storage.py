"""Job directories, and the small files that the ledger keeps in their place.

    DATA/jobs/<2 characters>/<storage key>/
        job.json            whose files these are: key, user, service
        job_id              the id that the ledger gave; 0 where it is not known any more
        input/...           the files as they were uploaded
        result/             result.zip, manifest.json, stdout.log, stderr.log; there as a whole or not at all
    DATA/incoming/          uploads and results on their way in
    DATA/trash/             on its way out

What is in `jobs` came there by one rename of something complete and synced. So a crash leaves rubbish only in
`incoming` and `trash`, which a start empties. A job whose input is small has no directory before its results
are large; a small result is not in it.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from actors.domain.ids import MAX_ID, is_key
from actors.kernel.courtesy import Courtesy
from actors.ports.storage import Part, StorageError
from actors.ports.world import Clock
from actors.store.durable import free_space, read_small
from actors.store.repair import deny_others
from orchestrator.storage.bundle import Bundle, unpack
from orchestrator.storage.disk import Disk, StorageFull, StorageGone, Trace
from orchestrator.storage.result_sink import DiskResultSink
from orchestrator.storage.stored_file import FileInMemory, StoredFile, open_on_disk
from orchestrator.storage.upload import StoredInput, Upload

log: Final = logging.getLogger("orchestrator.storage")

T = TypeVar("T")

_LONGEST_NUMBER: Final = 32


class SmallFiles(Protocol):
    """Who keeps small files: the ledger."""

    async def small_files(self, storage_key: str, part: Part) -> bytes | None:
        """What was given to it, packed; None if it has none. Raises LedgerError."""
        ...


_PLENTY: Final = 1 << 30
_FREE_IS_KNOWN: Final = 1.0
"""Seconds for which free space that was found is taken as it was, when there is plenty."""


class _Reading(AbstractContextManager[None]):
    """One more who reads, while inside."""

    def __init__(self, readers: dict[str, int], storage_key: str) -> None:
        self._readers, self._key = readers, storage_key

    def __enter__(self) -> None:
        self._readers[self._key] = self._readers.get(self._key, 0) + 1

    def __exit__(self, *_: object) -> None:
        left = self._readers[self._key] - 1
        if left:
            self._readers[self._key] = left
        else:
            del self._readers[self._key]


class DiskStorage:
    """See the module. One process at a time owns a data directory: the caller holds its lock."""

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        keep_free: int = 0,
        trace: Trace | None = None,
        small: int = 0,
        courtesy: Courtesy | None = None,
    ) -> None:
        """Use `root`, once `open` has been called. Uploads are refused while fewer than `keep_free` bytes
        would stay free. Inputs, and results, of at most `small` bytes are for a ledger to keep, once there is
        one. `courtesy`: for what copies of large files leave time."""
        self.root = root
        self._jobs = root / "jobs"
        self._incoming = root / "incoming"
        self._clock = clock
        self._keep_free = keep_free
        self._ledger: SmallFiles | None = None
        self._keep_small = small
        self._disk = Disk(root, trace, courtesy)
        self._reading: dict[str, int] = {}
        """How many read what is kept of a job, by its storage key."""
        self._numbers = count()
        self._free: tuple[int, float] = (0, float("-inf"))
        self._receiving: set[str] = set()

    def keep_small_in(self, ledger: SmallFiles) -> None:
        """From here on, small files are read from there, and not stored here."""
        self._ledger = ledger

    @property
    def _small_limit(self) -> int:
        return 0 if self._ledger is None else self._keep_small

    async def open(self) -> None:
        """Create what is missing and delete what an earlier life left on its way in or out."""
        await self.thread(self._open, what=f"data directory {self.root}")

    async def run(self) -> None:
        """Delete what could not be deleted at once, until cancelled."""
        await self._disk.discard_left()

    async def thread(self, work: Callable[[], T], *, what: str) -> T:
        """Run `work` in one of the storage's threads. Raises StorageError that begins with `what`."""
        return await self._disk.thread(work, what=what)

    # ------------------------------------------------------------------ in

    @asynccontextmanager
    async def receive(self, expected: int = 0) -> AsyncIterator[Upload]:
        """A place for an upload. Whatever was not committed when the block ends is deleted.

        Raises StorageFull when `expected` bytes would leave less free than has to stay.
        """
        await self.require(expected)
        key = secrets.token_hex(16)
        place, target = partial(self._incoming.joinpath, key), partial(self.job, key)
        upload = Upload(self._disk, key, place, target, clock=self._clock, small=self._small_limit)
        self._receiving.add(key)
        try:
            yield upload
        finally:
            self._receiving.discard(key)
            if not upload.committed:
                with trio.CancelScope(shield=True):
                    try:
                        await upload.remove()
                    except StorageError as error:
                        log.warning("an upload that was given up is not let go of: %s", error)

    def receive_result(self, storage_key: str, attempt_key: str) -> DiskResultSink:
        """A place for what an attempt left. Nothing is visible before its `commit`."""
        if not is_key(attempt_key):
            raise StorageError(f"{attempt_key!r} is no key of an attempt")
        if not is_key(storage_key):
            raise StorageError(f"{storage_key!r} is no storage key")
        name = f"result-{storage_key}-{attempt_key}-{next(self._numbers)}"
        place, job = partial(self._incoming.joinpath, name), partial(self.job, storage_key)
        return DiskResultSink(self._disk, place, job, clock=self._clock, small=self._small_limit)

    async def note_id(self, storage_key: str, job_id: int) -> None:
        """Write the ledger's id beside the files, so that a person, or a repair, finds the two together. The
        ledger is the truth of it, so nobody waits for the disk here."""
        path = self.job(storage_key) / "job_id"
        await self.thread(
            lambda: self._disk.write_file(path, f"{job_id}\n".encode(), durable=False), what=f"job {job_id}"
        )

    async def note_last_id(self, reserved: int, last: int | None = None) -> None:
        """Keep up to which id ids may be given, where no copy of the ledger takes it back; and at an orderly
        end which was the last. Durable on return."""
        path = self.root / "last_id"
        text = f"{reserved}\n" if last is None else f"{reserved} {last}\n"

        def write() -> None:
            aside = path.with_name("last_id.new")
            aside.unlink(missing_ok=True)
            self._disk.write_file(aside, text.encode())
            self._disk.rename(aside, path)
            self._disk.sync_directory(self.root)

        await self.thread(write, what="last_id")

    async def note_unknown(self, storage_keys: Sequence[str]) -> int:
        """Note that these directories may be those of accepted jobs, where no id was noted, so that nobody
        takes them for what never became a job. How many; durable on return."""

        def write() -> int:
            noted = 0
            for key in storage_keys:
                directory = self.job(key)
                path = directory / "job_id"
                if _number(path) is None and (directory / "job.json").is_file():
                    path.unlink(missing_ok=True)
                    self._disk.write_file(path, b"0\n")
                    self._disk.sync_directory(directory)
                    noted += 1
            return noted

        return await self.thread(write, what="noting directories to be kept")

    async def noted_id(self, storage_key: str) -> int | None:
        """The id of the job that the directory was accepted as, 0 if it may be one and its id is not known;
        None for what never became a job."""
        path = self.job(storage_key) / "job_id"
        return await self.thread(lambda: _number(path), what=f"job_id of {storage_key}")

    async def last_id(self) -> tuple[int, int | None]:
        """What `note_last_id` was told last: (0, None) if nothing is known."""
        return await self.thread(lambda: _last_id(self.root / "last_id") or (0, None), what="last_id")

    async def require(self, size: int) -> None:
        """Raise StorageFull unless `size` more bytes leave as much free as has to stay."""
        free, since = self._free
        if trio.current_time() > since + _FREE_IS_KNOWN or free - size - self._keep_free < _PLENTY:
            free = await self.free_bytes()
            self._free = free, trio.current_time()
        if free - size < self._keep_free or free == 0:
            raise StorageFull(
                f"the data directory's disk has {free} bytes free, "
                f"and {size} more are needed with {self._keep_free} kept free"
            )

    async def free_bytes(self) -> int:
        """Bytes that can still be written to the data directory's disk."""
        return await self.thread(lambda: free_space(self.root), what="free space")

    # ------------------------------------------------------------------ out

    def job(self, storage_key: str) -> Path:
        """The job's directory, whether it is there or not."""
        if not is_key(storage_key):
            raise StorageError(f"{storage_key!r} is no storage key")
        return self._jobs / f"{storage_key[:2]}/{storage_key}"

    def reading(self, storage_key: str) -> AbstractContextManager[None]:
        """While inside, the job's directory is not discarded."""
        return _Reading(self._reading, storage_key)

    async def small_files(self, storage_key: str, part: Part) -> Bundle | None:
        """What the ledger keeps of a job. Raises StorageError if it is damaged, LedgerError."""
        data = None if self._ledger is None else await self._ledger.small_files(storage_key, part)
        return None if data is None else unpack(data)

    async def input_files(self, storage_key: str, size: int | None = None) -> list[StoredInput]:
        """The uploaded files, sorted by path. Raises StorageError when any of it cannot be read, and when it
        is not the `size` bytes that were uploaded."""
        bundle = await self.small_files(storage_key, "input")

        def listing() -> list[StoredInput]:
            top = self.job(storage_key) / "input"
            found: list[StoredInput] = []
            for path in _files_below(top):
                with path.open("rb") as file:  # opening it is the only honest test of whether it can be read
                    found.append((path.relative_to(top).as_posix(), path, os.fstat(file.fileno()).st_size))
            return sorted(found, key=lambda one: one[0])

        if bundle is None:
            files = await self.thread(listing, what=f"input of {storage_key}")
        else:
            files = [(path, data, len(data)) for path, data in sorted(bundle.files.items())]
        there = sum(bytes_there for _, _, bytes_there in files)
        if size is not None and there != size:
            raise StorageError(f"input of {storage_key}: {there} bytes are there, and {size} were uploaded")
        return files

    async def result(self, storage_key: str) -> Bundle | Path:
        """The stored results: what the ledger keeps, or the directory where they are if there are any. Use it
        inside `reading`."""
        return await self.small_files(storage_key, "result") or self.job(storage_key) / "result"

    async def open_file(self, storage_key: str, part: Part, name: str) -> StoredFile | None:
        """One file of the input or of the results; None if it is not there. Use it inside `reading`."""
        bundle = await self.small_files(storage_key, part)
        if bundle is not None:
            data = bundle.files.get(name)
            return None if data is None else FileInMemory(data, bundle.at)
        path = self.job(storage_key) / part / name
        try:
            return await self.thread(lambda: open_on_disk(path), what=f"{part} of {storage_key}")
        except StorageGone:
            return None

    async def exists(self, storage_key: str) -> bool:
        """Whether the job's input is kept."""
        if await self.small_files(storage_key, "input") is not None:
            return True
        top = self.job(storage_key) / "input"
        return await self.thread(top.is_dir, what=f"directory of {storage_key}")

    async def discard(self, storage_key: str) -> bool:
        """Take a job's directory away (rename into the trash, then delete). False while it is being read;
        True also when it is not there."""
        if storage_key in self._reading:
            return False
        path = self.job(storage_key)
        gone = self.root / "trash" / f"{storage_key}-{secrets.token_hex(4)}"

        def remove() -> None:
            try:
                self._disk.rename(path, gone)
            except FileNotFoundError:
                return
            self._disk.sync_directory(path.parent)

        await self.thread(remove, what=f"discarding {storage_key}")
        await self._disk.discard(gone)
        return True

    async def has_jobs(self) -> bool:
        """Whether there is, or was, any job."""

        def look() -> bool:
            reserved, last = _last_id(self.root / "last_id") or (0, None)
            if (reserved if last is None else last) > 0:
                return True
            for number in range(256):
                with os.scandir(self.root / "jobs" / f"{number:02x}") as entries:
                    if any(is_key(entry.name) for entry in entries):
                        return True
            return False

        return await self.thread(look, what="job directories")

    async def directories(self) -> Sequence[tuple[str, float]]:
        """Every job directory's storage key and age of its last change in seconds, by the wall clock. Those
        whose upload is under way are left out, however old a jumping clock makes them: their rows come."""
        receiving = frozenset(self._receiving)
        now = self._clock.now()

        def listing() -> list[tuple[str, float]]:
            found = []
            for number in range(256):
                with os.scandir(self.root / "jobs" / f"{number:02x}") as entries:
                    for entry in entries:
                        with suppress(FileNotFoundError):
                            changed = entry.stat(follow_symlinks=False).st_mtime
                            if is_key(entry.name) and entry.name not in receiving:
                                found.append((entry.name, max(0.0, now - changed)))
            return found

        return await self.thread(listing, what="job directories")

    def _open(self) -> None:
        for name in ("incoming", "trash"):
            self._disk.remove_tree(self.root / name)
        for name in ("jobs", "incoming", "trash"):
            self._make_directory(self.root / name)
        last = self.root / "last_id"
        if last.exists() and _last_id(last) is None:
            log.error(
                "%s is damaged and taken away: a ledger older than the files would not be noticed", last
            )
            gone = self.root / "trash" / last.name
            last.rename(gone)
            self._disk.remove_tree(gone)
        for name in ("jobs", "incoming", "trash"):
            deny_others(self.root / name)
        for number in range(256):
            self._make_directory(self.root / "jobs" / f"{number:02x}")
        for path in (self.root / "jobs", self.root, self.root.parent):
            self._disk.sync_directory(path)

    def _make_directory(self, path: Path) -> None:
        if path.is_file():
            aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            log.error("%s was no directory, and is %s now", path, aside)
            path.rename(aside)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _files_below(top: Path) -> Iterator[Path]:
    """Regular files. Links and special files are not ours: no upload makes any."""
    with os.scandir(top) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _number(path: Path) -> int | None:
    """An id that was noted; None for none, and for what can be none."""
    text = (read_small(path, _LONGEST_NUMBER) or b"").strip()
    return int(text) if text.isdigit() and int(text) <= MAX_ID else None


def _last_id(path: Path) -> tuple[int, int | None] | None:
    """See `DiskStorage.last_id`; None for what can be none."""
    words = (read_small(path, _LONGEST_NUMBER) or b"").split()
    if not 1 <= len(words) <= 2 or not all(word.isdigit() and int(word) <= MAX_ID for word in words):
        return None
    return int(words[0]), int(words[1]) if len(words) == 2 else None
