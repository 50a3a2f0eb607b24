"""What a payload has left as the frames of a collect. All of it blocks."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from isal import isal_zlib

from actors.domain.payload import Payload
from actors.wire.errors import SourceChanged
from actors.wire.files.listing import Listing, open_and_stat
from actors.wire.files.threaded_iterator import PIECE
from actors.wire.files.zip_writer import Content, Extra, Known, zip_parts
from actors.wire.protocol import frames
from actors.wire.protocol.attempts import view_to_json
from node.executors.executor import STDERR, STDOUT, WORK
from node.payloads.table import view_of
from node.runs.manifest import Logs, find_logs, is_frozen, read_manifest
from node.runs.received import is_as_received, read_received

CRC32: Final = "crc32"
LOGS: Final = {"stdout": STDOUT, "stderr": STDERR}
_KINDS: Final = {STDOUT: frames.STDOUT, STDERR: frames.STDERR}
SHORTER: Final = "the file became shorter while it was read"


@dataclass(frozen=True, slots=True)
class CollectForm:
    """What the orchestrator understands: `sums` is CRC32 if it needs no other checksum of the zips; whether
    files that are `as_received` may be left where they are."""

    sums: str = ""
    as_received: bool = False


def collect_one(payload: Payload, directory: Path, form: CollectForm) -> Generator[bytes, None, None]:
    """Raises `OSError` and `WireError`."""
    manifest, listing = read_manifest(directory, frozen=is_frozen(payload))
    logs = find_logs(directory)
    if not (head := encode_end(payload, view_to_json(view_of(payload)), manifest, logs)):
        yield encode_error(payload.key, "it left more files than a manifest can hold", permanent=True)
        return
    yield head
    yield from pack_files(directory, listing, logs, form)


def encode_end(payload: Payload, view: dict[str, Any], manifest: dict[str, Any], logs: Logs) -> bytes:
    """The first frame, with the payload's `view` as the wire tells it; empty if it is too large for one."""
    record = {
        "key": payload.key,
        "payload": view,
        "manifest": manifest,
        # What never ran has none; the zip holds those that are there beside what the manifest names.
        "logs": [name for name, found in logs.items() if stat.S_ISREG(found.st_mode)],
    }
    head = json.dumps(record).encode()
    return frames.encode(frames.END, head) if len(head) <= frames.MAX_END else b""


def pack_files(
    directory: Path, listing: Listing, logs: Logs, form: CollectForm
) -> Generator[bytes, None, None]:
    """All frames after the first."""
    sizes = {STDOUT: 0, STDERR: 0}
    extra: list[Extra] = []
    for name, found in logs.items():
        size, piece = 0, b""
        # Of an empty one all is known. What is no file (any more) is refused by who opens it.
        if found.st_size or not stat.S_ISREG(found.st_mode):
            for piece in read_log(f"{directory}/{name}", name):
                size += len(piece)
                yield frames.encode(_KINDS[name], piece)
        sizes[name] = size
        # What came in one piece goes into the zip without being read once more.
        if size == len(piece) == found.st_size:
            extra.append(Content(name, piece, stat.S_IMODE(found.st_mode), found.st_mtime))
        else:
            extra.append((name, directory / name))
    crc, zip_size = 0, 0
    digest = None if form.sums == CRC32 else hashlib.sha256()
    for part in gather(_parts(directory, listing, extra, as_received=form.as_received)):
        if isinstance(part, Known):
            zip_size += part.size
            yield frames.encode(frames.INPUT, json.dumps(asdict(part)).encode())
            continue
        for piece in part:
            crc = isal_zlib.crc32(piece, crc)
            if digest is not None:
                digest.update(piece)
        frame = frames.encode(frames.ZIP, *part)
        zip_size += len(frame) - frames.HEAD
        yield frame
    finish: dict[str, Any] = {
        "zip_crc32": crc,
        "zip_size": zip_size,
        "stdout_size": sizes[STDOUT],
        "stderr_size": sizes[STDERR],
    }
    if digest is not None:
        finish["zip_sha256"] = digest.hexdigest()
    yield frames.encode(frames.FINISH, json.dumps(finish).encode())


def gather(pieces: Iterable[bytes | Known]) -> Generator[list[bytes] | Known, None, None]:
    """A zip comes in many small pieces, and each frame takes several steps on both sides: as many as it may
    hold, and none of their own."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        if isinstance(piece, Known):
            if gathered:
                yield gathered
            yield piece
            gathered, size = [], 0
        else:
            for start in range(0, len(piece), frames.MAX_FRAME):
                part = piece[start : start + frames.MAX_FRAME]
                if size + len(part) > frames.MAX_FRAME:
                    yield gathered
                    gathered, size = [], 0
                gathered.append(part)
                size += len(part)
    if gathered:
        yield gathered


def encode_error(key: str, error: str, *, permanent: bool = False) -> bytes:
    """`permanent`: it will be the same however often it is asked for."""
    record: dict[str, Any] = {"key": key, "error": error}
    if permanent:
        record["permanent"] = True
    return frames.encode(frames.ERROR, json.dumps(record).encode())


def _parts(
    directory: Path, listing: Listing, logs: Sequence[Extra], *, as_received: bool
) -> Generator[bytes | Known, None, None]:
    """The same, strict, with the files that are as they came in left out if they may be."""
    noted = read_received(directory) if as_received else {}
    is_known = partial(is_as_received, noted=noted) if noted else None
    return zip_parts(root_of(directory, listing), listing.entries, logs, is_known)


def root_of(directory: Path, listing: Listing) -> str:
    """Of a job that has removed its directory there are only the logs; a zip wants some root all the same."""
    return f"{directory}/{WORK}" if listing.entries else str(directory)


def open_log(path: Path | str, name: str) -> tuple[int, os.stat_result] | None:
    """A descriptor of a log of this name, and what the system says of it; None if it was never begun."""
    try:
        return open_and_stat(path, name)
    except SourceChanged:
        if os.path.lexists(path):
            raise
        return None


def read_log(path: Path | str, name: str, offset: int = 0) -> Generator[bytes, None, None]:
    """A log of this name from an offset to where it ends now; nothing if it was never begun."""
    if (opened := open_log(path, name)) is None:
        return
    handle, found = opened
    try:
        left = found.st_size - offset
        if left > 0 and offset:
            os.lseek(handle, offset, os.SEEK_SET)
        while left > 0:
            if not (piece := os.read(handle, min(PIECE, left))):
                raise SourceChanged(SHORTER)
            left -= len(piece)
            yield piece
    finally:
        os.close(handle)
