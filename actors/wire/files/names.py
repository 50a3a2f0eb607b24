"""File names from outside, and names on disk that are no text.

A name that a client sends is untrusted and becomes a path below a job's directory (`safe_path`, `PathSet`).
A name that a script gave its output is bytes and has to be written as text somewhere (`spell`, `unspell`).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from actors.wire.errors import BadRequest

PATH_LIMIT: Final = 1024
"""Bytes in a whole relative path. The system allows 4096, of which the data directory takes its share."""

COMPONENT_LIMIT: Final = 255
"""Bytes between two slashes: what Linux file systems take."""

MAX_DEPTH: Final = 100
"""Names in a whole relative path, of what is uploaded and of what is collected: what came in must come back.
Each directory holds a descriptor while it is read, and few tools unpack more."""

_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")


def printable(name: str) -> str:
    """The name as it may stand in a message: quoted, escaped, and not longer than a line."""
    return repr(name if len(name) <= 100 else name[:100] + "…")


@lru_cache(maxsize=256)  # most jobs have files of the same names
def safe_path(name: str) -> str:
    r"""The relative path at which a file sent under this name is kept.

    A safe relative path is kept and normalised (`./d//in.pdb` is `d/in.pdb`). Of an absolute name, of one
    with `..` in it and of a Windows path with a drive (`C:\x\in.pdb`), the base name is taken, because some
    clients send the full path. Any other backslash is an ordinary character. What this gave stays as it is
    when it is given again. Raises BadRequest, naming the culprit, for what is no name of a file.
    """
    if not name:
        raise BadRequest("a file was sent with an empty name")
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise BadRequest(f"file name {printable(name)}: control characters are not allowed")
    segments = name.split("/")
    kept = segments[-1:] if name.startswith("/") or ".." in segments else segments
    # A drive may come to light only when the rest is normalised (`./C:\x\in.pdb`).
    if _DRIVE.match(name) or _DRIVE.match("/".join(_drop_empty(kept))):
        segments = kept = re.split(r"[\\/]", name)[-1:]
    # A name that ends in a slash or a dot segment names a directory, whatever comes before.
    if segments[-1] in ("", ".", ".."):
        raise BadRequest(f"file name {printable(name)}: it does not name a file")
    kept = _drop_empty(kept)
    if any(len(segment.encode()) > COMPONENT_LIMIT for segment in kept):
        raise BadRequest(f"file name {printable(name)}: a part of it is longer than {COMPONENT_LIMIT} bytes")
    if len(kept) > MAX_DEPTH:
        raise BadRequest(f"file name {printable(name)}: more than {MAX_DEPTH} names lie within each other")
    path = "/".join(kept)
    if len(path.encode()) > PATH_LIMIT:
        raise BadRequest(f"file name {printable(name)}: it is longer than {PATH_LIMIT} bytes")
    return path


def _drop_empty(segments: list[str]) -> list[str]:
    return [segment for segment in segments if segment not in ("", ".")]


class PathSet:
    """The paths of one job, as they will be on disk. Finds collisions before anything is written."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def add(self, path: str) -> None:
        """Add a path that `safe_path` gave. Raises BadRequest when it cannot stand beside the others."""
        if path in self._files:
            raise BadRequest(f"file name {printable(path)}: it was sent twice")
        if path in self._directories:
            raise BadRequest(f"file name {printable(path)}: it was sent as a file and as a directory")
        parents = []
        cut = path.rfind("/")
        while cut > 0:
            parents.append(path[:cut])
            cut = path.rfind("/", 0, cut)
        for parent in parents:
            if parent in self._files:
                raise BadRequest(f"file name {printable(parent)}: it was sent as a file and as a directory")
        self._files.add(path)
        self._directories.update(parents)


_ODD: Final = re.compile("[\ufffd\udc80-\udcff]")
_SPELLED: Final = re.compile("\ufffd([0-9A-F]{2})?")


def spell(raw: bytes) -> str:
    """A name on disk as text: unchanged if it is UTF-8; each byte that is not becomes U+FFFD and two
    upper-case hex digits. A genuine U+FFFD is written the same way, byte by byte, so that no two names have
    one spelling and `unspell` can undo it."""
    return _ODD.sub(
        lambda odd: "".join(f"\ufffd{byte:02X}" for byte in odd.group().encode("utf-8", "surrogateescape")),
        raw.decode("utf-8", "surrogateescape"),
    )


def unspell(s: str) -> bytes:
    """The name on disk that `spell` wrote. Raises BadRequest for what `spell` never writes."""
    pieces: list[bytes] = []
    end = 0
    try:
        for match in _SPELLED.finditer(s):
            if match.group(1) is None:
                raise BadRequest(f"name {printable(s)}: U+FFFD without two hex digits")
            pieces += (s[end : match.start()].encode(), bytes.fromhex(match.group(1)))
            end = match.end()
        pieces.append(s[end:].encode())
    except UnicodeEncodeError:
        raise BadRequest(f"name {printable(s)}: it is no text") from None
    raw = b"".join(pieces)
    if spell(raw) != s:
        raise BadRequest(f"name {printable(s)}: it is spelled in a way that is not used")
    return raw
