"""What a payload has left as the frames of a collect. All of it blocks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from isal import isal_zlib

from actors.domain.payload import Payload
from actors.wire.errors import SourceChanged
from actors.wire.files.listing import Listing, open_regular
from actors.wire.files.threaded_iterator import PIECE
from actors.wire.files.zip_writer import Known, zip_parts
from actors.wire.protocol import frames
from actors.wire.protocol.attempts import view_to_json
from node.executors.executor import STDERR, STDOUT, WORK
from node.payloads.table import view_of
from node.runs.manifest import is_frozen, read_manifest
from node.runs.received import is_as_received, read_received

CRC32: Final = "crc32"
LOGS: Final = {"stdout": STDOUT, "stderr": STDERR}
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
    if not (head := encode_end(payload, manifest, logs)):
        yield encode_error(payload.key, "it left more files than a manifest can hold", permanent=True)
        return
    yield head
    yield from pack_files(directory, listing, logs, form)


def encode_end(payload: Payload, manifest: dict[str, Any], logs: Sequence[tuple[str, Path]]) -> bytes:
    """The first frame; empty if it is too large for one."""
    record = {
        "key": payload.key,
        "payload": view_to_json(view_of(payload)),
        "manifest": manifest,
        # What never ran has none; the zip holds those that are there beside what the manifest names.
        "logs": [name for name, _ in logs],
    }
    head = json.dumps(record).encode()
    return frames.encode(frames.END, head) if len(head) <= frames.MAX_END else b""


def pack_files(
    directory: Path, listing: Listing, logs: Sequence[tuple[str, Path]], form: CollectForm
) -> Generator[bytes, None, None]:
    """All frames after the first."""
    sizes = {}
    for kind, name in ((frames.STDOUT, "stdout"), (frames.STDERR, "stderr")):
        sizes[name] = 0
        for piece in read_log(directory / LOGS[name]):
            sizes[name] += len(piece)
            yield from _frame(kind, piece)
    crc, zip_size = 0, 0
    digest = None if form.sums == CRC32 else hashlib.sha256()
    for part in _join(_parts(directory, listing, logs, as_received=form.as_received)):
        if isinstance(part, Known):
            zip_size += part.size
            yield frames.encode(frames.INPUT, json.dumps(asdict(part)).encode())
            continue
        crc = isal_zlib.crc32(part, crc)
        if digest is not None:
            digest.update(part)
        zip_size += len(part)
        yield from _frame(frames.ZIP, part)
    finish: dict[str, Any] = {
        "zip_crc32": crc,
        "zip_size": zip_size,
        "stdout_size": sizes["stdout"],
        "stderr_size": sizes["stderr"],
    }
    if digest is not None:
        finish["zip_sha256"] = digest.hexdigest()
    yield frames.encode(frames.FINISH, json.dumps(finish).encode())


def _join(pieces: Iterable[bytes | Known]) -> Generator[bytes | Known, None, None]:
    """A zip comes in many small pieces; a frame each would be mostly heads."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        if isinstance(piece, Known):
            yield b"".join(gathered)
            yield piece
            gathered, size = [], 0
            continue
        gathered.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)


def encode_error(key: str, error: str, *, permanent: bool = False) -> bytes:
    """`permanent`: it will be the same however often it is asked for."""
    record: dict[str, Any] = {"key": key, "error": error}
    if permanent:
        record["permanent"] = True
    return frames.encode(frames.ERROR, json.dumps(record).encode())


def _frame(kind: bytes, piece: bytes) -> Generator[bytes, None, None]:
    for start in range(0, len(piece), frames.MAX_FRAME):
        yield frames.encode(kind, piece[start : start + frames.MAX_FRAME])


def _parts(
    directory: Path, listing: Listing, logs: Sequence[tuple[str, Path]], *, as_received: bool
) -> Generator[bytes | Known, None, None]:
    """The same, strict, with the files that are as they came in left out if they may be."""
    noted = read_received(directory) if as_received else {}
    is_known = partial(is_as_received, noted=noted)
    return zip_parts(root_of(directory, listing), listing.entries, logs, is_known)


def root_of(directory: Path, listing: Listing) -> Path:
    """Of a job that has removed its directory there are only the logs; a zip wants some root all the same."""
    return directory / WORK if listing.entries else directory


def find_logs(directory: Path) -> list[tuple[str, Path]]:
    return [(name, path) for name in (STDOUT, STDERR) if (path := directory / name).is_file()]


def open_log(path: Path) -> int | None:
    """A descriptor of a log; None if it was never begun."""
    try:
        return open_regular(path, path.name)
    except SourceChanged:
        if os.path.lexists(path):
            raise
        return None


def read_log(path: Path, offset: int = 0) -> Generator[bytes, None, None]:
    """A log from an offset to where it ends now; nothing if it was never begun."""
    if (handle := open_log(path)) is None:
        return
    try:
        left = os.fstat(handle).st_size - offset
        if left > 0 and offset:
            os.lseek(handle, offset, os.SEEK_SET)
        while left > 0:
            if not (piece := os.read(handle, min(PIECE, left))):
                raise SourceChanged(SHORTER)
            left -= len(piece)
            yield piece
    finally:
        os.close(handle)
