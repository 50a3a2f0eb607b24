"""What there is to be collected of an ended payload: written down once, when its last process has died."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

from actors.domain.payload import Payload
from actors.store.durable import is_full, overwrite, replace_plainly, write_durably
from actors.store.kept_file import Damaged, read_object
from actors.store.repair import retry_repaired
from actors.store.sync_disk import sync_file_system
from actors.wire.errors import BadRequest, SourceChanged
from actors.wire.files.listing import Entry, Kind, Listing, TooManyEntries, list_tree
from actors.wire.files.names import printable, unspell
from actors.wire.protocol import frames
from node.executors.executor import STDERR, STDOUT, WORK
from node.runs.large_files import write_large_back
from node.runs.workspace import MANIFEST

EMPTY = Listing((), ())
_FIELDS: Final = ("path", "size", "mode", "mtime", "kind", "target")


MOST: Final = frames.MAX_END // 2
"""Bytes of a manifest: the end record that takes it to the orchestrator has room for it, and whoever reads it
needs several times as much memory."""


Logs: TypeAlias = Mapping[str, os.stat_result]
"""Of each log that is there, by its name, what the system says of it: that it may be something else, too."""


@dataclass(frozen=True, slots=True)
class FrozenManifest:
    """`size` are the bytes that are there to be collected, of the files in `listing` and of the `logs`;
    `manifest` is the listing as it was written down. `too_many` says why the files cannot be, "" if they can;
    then the logs are all there is. `gone` says what a script that ran has removed."""

    size: int
    listing: Listing
    manifest: dict[str, Any]
    logs: Logs
    too_many: str = ""
    gone: str = ""


@dataclass(frozen=True, slots=True)
class ResultLimit:
    """How much of what a job leaves is collected: the bytes and the number of its files."""

    most_bytes: int
    most_files: int


def freeze_manifest(directory: Path, limit: ResultLimit, *, through: bool = False) -> FrozenManifest:
    """Write the manifest of a payload's directory. Blocks. Raises `OSError`."""
    return retry_repaired(f"{directory}/{MANIFEST}", partial(_freeze, directory, limit, through))


def _freeze(directory: Path, limit: ResultLimit, through: bool) -> FrozenManifest:
    logs = find_logs(directory)
    listing, size, too_many = _list_within(directory, limit)
    gone = _gone(directory, logs, listing)
    if hidden := _hidden(logs, listing):
        listing = replace(listing, left_out=(*listing.left_out, *hidden))
    if through:
        _sync_files(directory)  # their end is told in another boot, too
    manifest = manifest_to_json(listing)
    content = json.dumps(manifest).encode()
    if len(content) > MOST:
        count = len(listing.entries) + len(listing.left_out)
        too_many = f"it left {count} files, more than can be collected: their list has {len(content)} bytes"
        listing, size = EMPTY, 0
        manifest = manifest_to_json(listing)
        content = json.dumps(manifest).encode()
    # In its place, where there is room for it; it is made anew if this process dies amid it. Whether its name
    # lasts is told together with the record of the end, which goes into the same directory after it.
    try:
        overwrite(f"{directory}/{MANIFEST}", content, synced=through)
    except OSError as error:
        if is_full(error):
            raise
        if through:
            write_durably(directory / MANIFEST, content, synced=False)
        else:
            replace_plainly(directory / MANIFEST, content)
    size += sum([found.st_size for found in logs.values()])
    return FrozenManifest(size, listing, manifest, logs, too_many, gone)


def _sync_files(directory: Path) -> None:
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        write_large_back([directory])
        sync_file_system(place)
    finally:
        os.close(place)


def _list_within(directory: Path, limit: ResultLimit) -> tuple[Listing, int, str]:
    """The listing and the bytes of its files, or an empty one and why it cannot be collected, with the
    culprit's name."""
    try:
        listing = list_work(directory, limit.most_files)
    except TooManyEntries as most:
        return (
            EMPTY,
            0,
            (
                f"it left more than {limit.most_files} files, which is the limit;"
                f" most are in {printable(str(most))}"
            ),
        )
    size = sum([entry.size for entry in listing.entries])
    if size <= limit.most_bytes:
        return listing, size, ""
    largest = max(listing.entries, key=lambda entry: entry.size)
    return (
        EMPTY,
        0,
        (
            f"it left {size} bytes, and {limit.most_bytes} is the limit;"
            f" the largest file is {printable(largest.path)} with {largest.size}"
        ),
    )


def find_logs(directory: Path) -> Logs:
    """Blocks."""
    found = {}
    for name in (STDOUT, STDERR):
        try:
            found[name] = os.lstat(f"{directory}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found


def _gone(directory: Path, logs: Logs, listing: Listing) -> str:
    """What a script that ran has removed of its own."""
    gone = [name for name in (STDOUT, STDERR) if name not in logs]
    if not listing.entries and not _is_directory(directory / WORK):
        gone.insert(0, "its directory with all that it left")
    return f"removed by the script: {', '.join(gone)}" if gone else ""


def _hidden(logs: Logs, listing: Listing) -> list[tuple[str, str]]:
    """The logs in whose place a file of the job goes into the results."""
    said = [name for name, found in logs.items() if found.st_size]
    own = {entry.path for entry in listing.entries} if said else ()
    why = "the job has a file of this name; what its script said is in the job's log"
    return [(name, why) for name in said if name in own]


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def list_work(directory: Path, most: int | None = None) -> Listing:
    """What is in the job's own directory; nothing if the script has removed it. Blocks. Raises
    `TooManyEntries`."""
    work = f"{directory}/{WORK}"
    try:
        return list_tree(work, most)
    except (FileNotFoundError, NotADirectoryError):
        return EMPTY
    except PermissionError:
        # The script has locked its own directory; it is this user's all the same.
        os.chmod(work, 0o700)
        return list_tree(work, most)


def is_frozen(payload: Payload) -> bool:
    """Whether an ended payload must have a manifest. It has none if it never ran, or if its machine went
    down; then no bytes of it were counted either."""
    return payload.end is not None and payload.end.size > 0


def read_manifest(directory: Path, *, frozen: bool) -> tuple[dict[str, Any], Listing]:
    """The frozen manifest, and what it lists, or one made now where there never was one. Blocks. Raises
    `SourceChanged` if it is lost."""
    manifest = read_object(directory / MANIFEST, MOST)
    if not isinstance(manifest, dict) and not frozen:
        listing = list_work(directory)
        return manifest_to_json(listing), listing
    if manifest is None:
        raise SourceChanged("its manifest is lost")
    try:
        if isinstance(manifest, Damaged):
            raise ValueError(manifest.why)
        return manifest, listing_from_json(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, BadRequest) as why:
        raise SourceChanged(f"its manifest is damaged: {why}") from None


def manifest_to_json(listing: Listing) -> dict[str, Any]:
    return {
        "entries": [
            {
                "path": entry.path,
                "size": entry.size,
                "mode": entry.mode,
                "mtime": entry.mtime,
                "kind": entry.kind,
                "target": entry.target,
            }
            for entry in listing.entries
        ],
        "left_out": [list(pair) for pair in listing.left_out],
    }


def listing_from_json(manifest: Mapping[str, Any]) -> Listing:
    """What `manifest_to_json` wrote. Raises `BadRequest`, `ValueError`, `KeyError` or `TypeError` for what it
    never writes."""
    entries = tuple(map(_entry, manifest["entries"]))
    return Listing(entries, tuple((str(path), str(why)) for path, why in manifest["left_out"]))


def _entry(entry: Mapping[str, Any]) -> Entry:
    path, size, mode, mtime, kind, target = (entry[name] for name in _FIELDS)
    if kind not in get_args(Kind) or not isinstance(target, str | None):
        raise ValueError(f"{path!r:.50}: no such kind of file")
    if not isinstance(size, int) or not isinstance(mode, int) or not 0 <= size < 1 << 63 or mode >> 12:
        raise ValueError(f"{path!r:.50}: no file has such a size and mode")
    if not isinstance(mtime, int | float) or not math.isfinite(mtime):
        raise ValueError(f"{path!r:.50}: no file has such a time")
    return Entry(path, unspell(path), size, mode, mtime, kind, target)
