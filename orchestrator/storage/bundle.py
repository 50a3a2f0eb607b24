"""The files of a small job as one run of bytes, which is kept in the ledger.

4 bytes             length of the head, big-endian
head                JSON: {"at": nanoseconds since the epoch, "files": [[name, bytes], …]}
the files' bytes    one after the other, in the head's order
"""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Final

from actors.ports.storage import StorageError
from actors.wire.files.names import spell

_read_json: Final = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files by their names. `at` is when they were put together, in nanoseconds since the epoch (wall)."""

    at: int
    files: Mapping[str, bytes]


def pack(bundle: Bundle) -> bytes:
    """The bundle as it is kept."""
    listed = [[name, len(data)] for name, data in bundle.files.items()]
    head = json.dumps({"at": bundle.at, "files": listed}).encode()
    return b"".join((len(head).to_bytes(4, "big"), head, *bundle.files.values()))


def unpack(data: bytes) -> Bundle:
    """Raises StorageError for what `pack` has not made."""
    start = 4 + int.from_bytes(data[:4], "big")
    try:
        text = data[4:start].decode()
        head, end = _read_json(text)
        if text[end:]:
            raise ValueError
        at, files = int(head["at"]), {}
        for name, size in head["files"]:
            files[str(name)] = data[start : start + int(size)]
            start += int(size)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise StorageError("the small files of a job are damaged in the ledger") from None
    if start != len(data):
        raise StorageError("the small files of a job are damaged in the ledger: not all of them are there")
    return Bundle(at, files)


def directories(bundle: Bundle) -> Sequence[str]:
    """Those that its files are in, sorted."""
    found = set()
    for path in bundle.files:
        while path := path.rpartition("/")[0]:
            found.add(path)
    return sorted(found)


def zip_bundle(bundle: Bundle) -> bytes:
    """A zip of the files."""
    made = BytesIO()
    at = datetime.fromtimestamp(bundle.at / 1e9, UTC)
    members = dict.fromkeys((f"{path}/" for path in directories(bundle)), b"") | dict(bundle.files)
    with zipfile.ZipFile(made, "w") as archive:
        for path, data in sorted(members.items()):
            member = zipfile.ZipInfo(spell(path.encode()), at.timetuple()[:6])
            kind = stat.S_IFDIR | 0o755 if path.endswith("/") else stat.S_IFREG | 0o644
            member.external_attr = kind << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, data)
    return made.getvalue()
