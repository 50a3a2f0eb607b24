"""Which files a job is made of. Blocks while it looks at them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from actors.wire.errors import BadRequest
from actors.wire.files.names import PathSet, printable, safe_path
from actors.wire.multipart.writer import DataPart, FilePart
from orchestrator.client.errors import BadInput

PathLike = str | os.PathLike[str]
Files = PathLike | Iterable[PathLike] | Mapping[str, PathLike | bytes]
"""Paths of files and directories; or what each file is called in the job, and its path or its bytes."""

_FIELD: Final = "file"
_MOST_OF_EMPTY: Final = 16 << 20


def parts(files: Files) -> list[FilePart | DataPart]:
    """A part for each file, under its name in the job's directory.

    A directory given alone is the job's directory: its contents are sent, without its own name. Among several
    a directory keeps its name, and a file its base name. Links are followed. Raises BadInput for what cannot
    be sent, and for nothing at all.
    """
    if isinstance(files, Mapping):
        named = list(files.items())
    elif isinstance(files, str | os.PathLike):
        named = list(_name_files([files]))
    elif isinstance(files, Iterable) and not isinstance(files, bytes | bytearray):
        named = list(_name_files(list(files)))
    else:
        raise BadInput(
            f"files are paths, or what each is called with its path or bytes, not {repr(files)[:100]}"
        )
    if not named:
        raise BadInput("there is no file to submit; a job has at least its run.sh")
    paths = PathSet()
    found: list[FilePart | DataPart] = []
    for name, source in named:
        found.append(_part(_check_name(name, paths), source))
    return found


def _name_files(given: list[PathLike]) -> Iterator[tuple[str, PathLike]]:
    for one in given:
        path = _path(one)
        if not path.is_dir():
            # A name such as `..` has none of its own; what it is, is told where it is opened.
            yield path.name or str(path), path
        else:
            top = "" if len(given) == 1 else path.resolve().name
            yield from _walk(path, top)


def _walk(top: Path, name: str) -> Iterator[tuple[str, Path]]:
    inside: list[str] = []
    for directory, below, names in os.walk(top, followlinks=True, onerror=_refuse_unreadable):
        real = os.path.realpath(directory)
        # A link to a directory that it lies in would be walked for ever.
        below[:] = sorted(one for one in below if not _leads_up(real, os.path.join(directory, one)))
        relative = os.path.relpath(directory, top)
        prefix = "/".join(part for part in (name, "" if relative == "." else relative) if part)
        for file in sorted(names):
            inside.append(file)
            yield f"{prefix}/{file}" if prefix else file, Path(directory, file)
    if not inside:
        raise BadInput(f"directory {printable(str(top))} has no files in it; name the files of the job")


def _leads_up(real: str, inner: str) -> bool:
    target = os.path.realpath(inner)
    return os.path.islink(inner) and (real == target or real.startswith(target.rstrip("/") + "/"))


def _refuse_unreadable(error: OSError) -> None:
    raise BadInput(f"directory {printable(str(error.filename))} cannot be read: {error.strerror}")


def _check_name(name: str, paths: PathSet) -> str:
    if not isinstance(name, str):
        raise BadInput(f"a file is called by a text, not {repr(name)[:100]}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadInput(f"file name {printable(name)} is no UTF-8; rename the file") from None
    try:
        safe = safe_path(name)
        paths.add(safe)
    except BadRequest as error:
        raise BadInput(f"{error.detail}; rename the file") from None
    return safe


def _part(name: str, source: PathLike | bytes) -> FilePart | DataPart:
    if isinstance(source, bytes):
        return DataPart(_FIELD, name, "application/octet-stream", source)
    try:
        # The link itself is not opened later, so that it cannot be another file by then.
        path = _path(source).resolve(strict=True)
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BadInput(
                f"{printable(str(source))} is no file; only files and directories can be submitted"
            )
        if not os.access(path, os.R_OK):
            raise BadInput(f"{printable(str(source))} cannot be read; its permissions do not allow it")
        if not found.st_size:
            return DataPart(_FIELD, name, "application/octet-stream", _content(path))
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a link that leads in a circle"
        raise BadInput(
            f"{printable(str(source))} cannot be read: {reason}; check the path, or give bytes for text"
        ) from None
    return FilePart(_FIELD, name, path, found.st_size)


def _path(given: object) -> Path:
    if not isinstance(given, str | os.PathLike) or "\0" in str(given):
        raise BadInput(f"{repr(given)[:100]} is no path, and no bytes")
    return Path(given)


def _content(path: Path) -> bytes:
    """All of a file that says of itself that it is empty, as those of /proc do."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(_MOST_OF_EMPTY + 1) or b""
    if len(data) > _MOST_OF_EMPTY:
        raise BadInput(
            f"{printable(str(path))} does not say its size, and has more than {_MOST_OF_EMPTY} bytes"
        )
    return data
