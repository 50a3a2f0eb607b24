"""A multipart/form-data body, written as it is sent, its length known before.

Files are read when their turn comes and never all at once. No file stays open between two pieces: a client
that drops the body in the middle leaves nothing behind.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.wire.errors import SourceChanged
from actors.wire.files.listing import open_regular
from actors.wire.files.names import printable
from actors.wire.multipart import content_disposition

PIECE: Final = 256 * 1024
"""Bytes of a file that are read at once."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file of exactly `size` bytes at `path`, sent as `application/octet-stream`."""

    name: str
    filename: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class DataPart:
    """Bytes at hand; a text field if `filename` is None."""

    name: str
    filename: str | None
    content_type: str | None
    data: bytes


def file_part(name: str, filename: str, source: Path | bytes, size: int) -> FilePart | DataPart:
    """A file, wherever it is."""
    if isinstance(source, bytes):
        return DataPart(name, filename, "application/octet-stream", source)
    return FilePart(name, filename, source, size)


class MultipartBody:
    """An async iterable of bytes, with the `content_type` and `content_length` that belong to it. Each
    iteration begins anew, so that it can be sent again.

    Iterating raises SourceChanged when a file is not there as announced (another size, no regular file): at
    that point fewer bytes than `content_length` were given, so that the receiver sees a body that was cut off
    and never a wrong one.
    """

    def __init__(self, parts: Sequence[FilePart | DataPart], boundary: str | None = None) -> None:
        """`boundary` is random unless given. Raises BadRequest for a name that is no text."""
        boundary = boundary or secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._parts = tuple(parts)
        self._heads = tuple(_head(part, boundary) for part in self._parts)
        self._tail = f"--{boundary}--\r\n".encode("ascii")
        self.content_length = len(self._tail) + sum(
            len(head) + 2 + (part.size if isinstance(part, FilePart) else len(part.data))
            for head, part in zip(self._heads, self._parts, strict=True)
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the request. The length is stated, so that it is not sent in chunks."""
        return {"Content-Type": self.content_type, "Content-Length": str(self.content_length)}

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Late: who is in no Trio task needs no Trio.
        from actors.wire.files.threaded_iterator import ThreadedIterator

        return ThreadedIterator(self.pieces())

    def pieces(self) -> Generator[bytes, None, None]:
        """The same for who is in no Trio task. Blocks while it reads files."""
        for head, part in zip(self._heads, self._parts, strict=True):
            yield head
            if isinstance(part, DataPart):
                for start in range(0, len(part.data), PIECE):
                    yield part.data[start : start + PIECE]
            else:
                yield from _file(part)
            yield b"\r\n"
        yield self._tail


def _head(part: FilePart | DataPart, boundary: str) -> bytes:
    kind = "application/octet-stream" if isinstance(part, FilePart) else part.content_type
    content_type = f"\r\nContent-Type: {kind}".encode("ascii") if kind else b""
    return b"".join(
        (
            f"--{boundary}\r\nContent-Disposition: ".encode("ascii"),
            content_disposition.build(part.name, part.filename),
            content_type,
            b"\r\n\r\n",
        )
    )


def _file(part: FilePart) -> Generator[bytes, None, None]:
    identity: tuple[int, int] | None = None
    offset = 0
    while identity is None or offset < part.size:
        piece, identity = _read(part, offset, identity)
        offset += len(piece)
        if piece:
            yield piece


def _read(part: FilePart, offset: int, identity: tuple[int, int] | None) -> tuple[bytes, tuple[int, int]]:
    """One piece. The file is opened for each: that costs microseconds, and nothing can be left open."""
    handle = open_regular(part.path, part.filename)
    try:
        found = os.fstat(handle)
        if found.st_size != part.size:
            raise SourceChanged(
                f"file {printable(part.filename)} has {found.st_size} bytes, {part.size} were announced"
            )
        if identity not in (None, (found.st_dev, found.st_ino)):
            raise SourceChanged(f"file {printable(part.filename)} was replaced while it was sent")
        piece = os.pread(handle, min(PIECE, part.size - offset), offset)
        if not piece and offset < part.size:
            raise SourceChanged(f"file {printable(part.filename)} was cut while it was sent")
        return piece, (found.st_dev, found.st_ino)
    finally:
        os.close(handle)
