"""Results of an attempt on their way in from its node. The zip is checked in the threads that write it, as
its bytes come."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from isal import isal_zlib

from actors.ports.world import Clock
from actors.wire.errors import BadArchive
from actors.wire.files.listing import Entry
from actors.wire.files.zip_check import Extent, ZipCheck
from actors.wire.files.zip_reader import ZipSource, check_zip
from orchestrator.storage.bundle import Bundle, pack
from orchestrator.storage.disk import Disk
from orchestrator.storage.incoming import IncomingFiles

RESULT: Final = "result.zip"
MANIFEST: Final = "manifest.json"
LOGS: Final = {"stdout": "stdout.log", "stderr": "stderr.log"}

_CHECKED_AT_ONCE: Final = 1 << 18
"""Bytes that a small zip may unpack to for it to be checked without a thread."""


class DiskResultSink:
    """What an attempt left, as it arrives. Made by `Storage.receive_result`; ends with `commit` or
    `abort`."""

    def __init__(
        self, disk: Disk, place: Callable[[], Path], job: Callable[[], Path], *, clock: Clock, small: int
    ) -> None:
        """For `job`, the job's directory; gathered in `place`, below the disk's root, when they are more than
        `small` bytes."""
        self._disk = disk
        self._place = place
        self._job = job
        self._clock = clock
        self._small = small
        self._files = IncomingFiles(disk, place, small)
        self._check = ZipCheck()
        self._crc = 0
        self._zip = self._files.file(RESULT, self._see)
        self._logs = {stream: self._files.file(name) for stream, name in LOGS.items()}
        self._over = False

    def expect(self, most: Extent) -> None:
        """Before anything comes: of a zip that has more nothing is unpacked beyond that, and `commit` refuses
        it."""
        self._check.most = most

    async def write_zip(self, data: bytes) -> None:
        await self._zip.write(data)

    async def copy_to_zip(self, source: Path, size: int, crc: int) -> None:
        """All of a stored file in place of bytes that need not come. Raises InputDiffers, StorageError."""
        await self._zip.append(source, size, crc, self._check.feed)

    async def write_log(self, stream: str, data: bytes) -> None:
        """`stream` is "stdout" or "stderr"."""
        await self._logs[stream].write(data)

    async def commit(
        self, manifest: dict[str, Any], expected_entries: Sequence[Entry] | None, crc: int | None = None
    ) -> bytes | None:
        """Check the zip against what the node froze, and against its own checksum if that was told. What the
        ledger has to keep with the job's end is the result; None when all of it has been put in place of an
        older result on disk, durably.

        Raises BadArchive for a zip that is damaged, is not what its manifest says, or more than was expected,
        and StorageError; `abort` is still to be called then.
        """
        about = json.dumps(manifest).encode()
        if not self._files.on_disk and self._files.size + len(about) > self._small:
            await self._files.spill()
        if self._files.on_disk:
            older = self._disk.root / "trash" / f"{self._job().name}-{secrets.token_hex(4)}"
            await self._disk.thread(
                lambda: self._commit(about, expected_entries, crc, older),
                what=f"storing results in {self._job().name}",
            )
            await self._disk.discard(older)
            return None
        contents = self._files.contents()
        if expected_entries is not None:
            unpacked = sum(entry.size for entry in expected_entries)
            self._check.most = Extent(len(expected_entries), unpacked)

        def check() -> None:
            self._see(contents[RESULT])
            self._conclude(contents[RESULT], expected_entries, crc)

        if expected_entries is None or unpacked > _CHECKED_AT_ONCE:
            await self._disk.thread(check, what="checking results")
        else:
            check()
        self._over = True
        return pack(Bundle(int(self._clock.now() * 1e9), contents | {MANIFEST: about}))

    async def abort(self) -> None:
        """Delete all that came. May be called at any time, also after `commit`, of which it undoes
        nothing."""
        if not self._over:
            self._over = True
            await self._files.drop()

    def _see(self, data: bytes) -> None:
        self._crc = isal_zlib.crc32(data, self._crc)
        self._check.feed(data)

    def _conclude(self, source: ZipSource, expected: Sequence[Entry] | None, crc: int | None) -> None:
        """Raises BadArchive."""
        if crc not in (None, self._crc):
            raise BadArchive(f"damaged on the way: the zip has crc {self._crc:08x}, the node says {crc:08x}")
        fits = self._check.fits(expected)
        if self._check.excess:
            raise BadArchive(self._check.excess)
        if not fits:
            check_zip(source, expected)  # which says what is wrong, if anything is

    def _commit(self, about: bytes, expected: Sequence[Entry] | None, crc: int | None, older: Path) -> None:
        self._files.finish_all()
        place, job = self._place(), self._job()
        self._conclude(place / RESULT, expected, crc)
        self._disk.write_file(place / MANIFEST, about)
        self._disk.sync_directory(place)
        target = job / "result"
        self._disk.make_directory(job)
        # A directory cannot be renamed over a full one. Between the two renames there is no result, which no
        # crash can turn into a loss: the node is told to let go only after this has returned.
        with suppress(FileNotFoundError):
            self._disk.rename(target, older)
        self._disk.rename(place, target)
        self._disk.sync_directory(job)
        # Set here and not by the caller, who may be cancelled while this thread works.
        self._over = True
