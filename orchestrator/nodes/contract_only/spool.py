"""Zips that contract-only nodes gave, on disk until they are taken into the storage.

A contract-only node names payloads by a number that begins at 1 again when it restarts. So a marker file goes
out with the inputs, and a zip counts only when the marker in it holds the attempt's key."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.store.repair import make_directory
from actors.wire.errors import BadArchive, TooLarge
from actors.wire.files.threaded_iterator import ThreadedIterator
from actors.wire.files.zip_check import Extent
from actors.wire.files.zip_reader import check_zip, list_members, read_member
from orchestrator.nodes.contract_only.marker import MARKER
from orchestrator.nodes.job_files import LOGS
from orchestrator.storage.result_sink import DiskResultSink

EXIT_FILE: Final = ".orchestrator.exit"
"""Where scripts for contract-only nodes leave their exit code."""

CONTRACT_RESULT_LIMIT: Final = 10 << 30
"""Bytes of a zip, and of all files in it: one may never end, and a small one hold more than any disk."""
MOST_FILES: Final = 1_000_000
"""What a job may have left, as our own nodes have it."""

_EMPTY_ZIP: Final = b"PK\x05\x06" + bytes(18)
_PIECE: Final = 1 << 20
_SMALL: Final = 256


@dataclass(frozen=True, slots=True)
class Contents:
    """What a zip tells of itself: the key in its marker, the exit code its script wrote, its own bytes."""

    marker: str | None
    exit_code: int | None
    size: int


class Spool:
    """A directory of its own, emptied at the start: what a contract-only node gave can be had again. `limit`:
    bytes of a zip, and of all files in it together."""

    def __init__(self, directory: Path, limit: int = CONTRACT_RESULT_LIMIT) -> None:
        self._directory = directory
        self._limit = limit
        self._number = 0
        self._opening = trio.Lock()
        self._opened = False

    async def open(self) -> None:
        """Create the directory, or empty it; done once, at the latest before anything is written. Raises
        OSError."""
        async with self._opening:
            if not self._opened:
                await trio.to_thread.run_sync(_empty, self._directory)
                self._opened = True

    async def write(self, first: bytes, rest: AsyncIterator[bytes]) -> Path:
        """A new file of all these bytes. Raises TooLarge, OSError when our disk cannot, and what `rest`
        raises; then nothing is left."""
        await self.open()
        self._number += 1
        path = self._directory / f"{self._number}.zip"
        try:
            async with await trio.open_file(path, "xb") as file:
                written = await file.write(first)
                async for piece in rest:
                    if written + len(piece) > self._limit:
                        raise TooLarge(
                            f"its results are a zip of more than {self._limit} bytes, which is the limit"
                            " (contract_result_limit)",
                            self._limit,
                        )
                    written += await file.write(piece)
        except BaseException:
            await self.remove(path)  # noqa: ASYNC102  # it shields itself, with a timeout
            raise
        return path

    async def is_whole(self, path: Path) -> bool:
        """Whether a zip that was sound when it came is so still."""
        try:
            await self.inspect(path)
        except (BadArchive, OSError):
            return False
        return True

    async def inspect(self, path: Path) -> Contents:
        """Check a zip as a whole, its names too. Raises BadArchive, OSError."""
        return await trio.to_thread.run_sync(_inspect, path, self._limit)

    async def store(self, path: Path | None, sink: DiskResultSink) -> bytes | None:
        """Hand a spooled zip to the sink, with the logs that are in it; None: an end without any files. What
        the ledger has to keep is the result. Raises StorageError, BadArchive, OSError."""
        sink.expect(Extent(MOST_FILES, self._limit))
        if path is None:
            await sink.write_zip(_EMPTY_ZIP)
        else:
            if too_much := await trio.to_thread.run_sync(_too_much, path, self._limit):
                raise BadArchive(too_much)
            async with await trio.open_file(path, "rb") as file:
                while piece := await file.read(_PIECE):
                    await sink.write_zip(piece)
            for name in (await sizes(path)).keys() & LOGS.keys():
                async for piece in ThreadedIterator(read_member(path, name)):
                    await sink.write_log(LOGS[name], piece)
        return await sink.commit({"entries": [], "left_out": []}, None)

    async def remove(self, path: Path) -> None:
        """Who is reading it can go on. Done also for who is cancelled."""

        def remove() -> None:
            try:
                path.unlink(missing_ok=True)
            except IsADirectoryError:
                shutil.rmtree(path, ignore_errors=True)

        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(remove)


async def sizes(path: Path) -> dict[str, int]:
    """The files in a spooled zip, with their bytes. Raises BadArchive, OSError."""
    return {m.path: m.size for m in await trio.to_thread.run_sync(list_members, path) if m.kind == "file"}


def _empty(directory: Path) -> None:
    make_directory(directory)
    for left in directory.glob("*.zip"):  # what else is there is not ours
        if not left.is_dir():
            left.unlink()


def _too_much(path: Path, limit: int) -> str:
    """What of a zip is more than is stored; "" if nothing is. Raises BadArchive, OSError."""
    members = list_members(path)
    if len(members) > MOST_FILES:
        return f"it holds {len(members)} files, and {MOST_FILES} are the most that is stored"
    size = sum(member.size for member in members)
    return (
        f"its files have {size} bytes, and {limit} are the limit (contract_result_limit)"
        if size > limit
        else ""
    )


def _inspect(path: Path, limit: int) -> Contents:
    # To unpack what is not stored could take for ever.
    if not _too_much(path, limit):
        check_zip(path, None)
    return Contents(_small(path, MARKER), _exit_code(_small(path, EXIT_FILE)), os.path.getsize(path))


def _small(path: Path, name: str) -> str | None:
    try:
        with closing(read_member(path, name)) as pieces:
            start = next(pieces, b"")
    except KeyError:
        return None
    return start[:_SMALL].decode("utf-8", "replace").strip()


def _exit_code(text: str | None) -> int | None:
    try:
        code = int(text or "")
    except ValueError:
        return None
    return code if 0 <= code <= 255 else None
