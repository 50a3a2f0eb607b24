"""Unpacking a job's results: a zip whose names and links a hostile script may have chosen."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from actors.wire.errors import BadArchive, BadRequest
from actors.wire.files.names import printable, unspell
from actors.wire.files.zip_reader import ZipMember, list_members
from orchestrator.client import BadAnswer, BadInput

_PIECE: Final = 1 << 20
_LONGEST_TARGET: Final = 4096


def unpack(archive: Path, top: Path) -> list[str]:
    """Everything in the zip into the new directory `top`, with modes and times. Links that lead out of it are
    left out; which, with the reason, is returned. Raises BadAnswer for a zip that is damaged or holds unsafe
    names, BadInput when it cannot be written.

    Links come last: nothing is ever written through one.
    """
    with _translate_errors(top):
        found = list_members(archive)
        _room(top, sum(member.size for member in found))
        top.mkdir()
        left_out: list[str] = []
        with zipfile.ZipFile(archive) as opened:
            infos = {info.filename.rstrip("/"): info for info in opened.infolist()}
            for member in found:
                path = _place(top, member.path)
                if member.kind == "directory":
                    path.mkdir(parents=True, exist_ok=True)
                elif member.kind == "file":
                    _file(opened, infos[member.path], member, path)
            for member in found:
                if member.kind == "link" and (why := _link(opened, infos[member.path], member, top)):
                    left_out.append(f"{printable(member.path)}: {why}")
        # Directories last, the inner ones first: who may not write in one could not have filled it.
        for member in reversed(found):
            if member.kind == "directory" and member.mode:
                _place(top, member.path).chmod(member.mode & 0o777 | 0o700)
        return left_out


def _place(top: Path, path: str) -> Path:
    try:
        raw = unspell(path)
    except BadRequest:
        raw = path.encode()  # from a node that spells nothing
    return top / os.fsdecode(raw)


def _file(opened: zipfile.ZipFile, info: zipfile.ZipInfo, member: ZipMember, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(info) as source, path.open("xb") as target:
        while piece := source.read(_PIECE):
            written += len(piece)
            if written > member.size:
                raise BadArchive(f"{printable(member.path)} is larger than the zip says")
            target.write(piece)
        if member.mode:
            # The owner can read and delete everything; nothing runs as somebody else.
            os.fchmod(target.fileno(), member.mode & 0o777 | 0o600)
    with _whenever():
        at = time.mktime((*info.date_time, 0, 0, -1))
        os.utime(path, (at, at))


@contextmanager
def _whenever() -> Iterator[None]:
    """A time that no file can have is no reason to lose the file."""
    try:
        yield
    except (OverflowError, ValueError, OSError):
        return


def _link(opened: zipfile.ZipFile, info: zipfile.ZipInfo, member: ZipMember, top: Path) -> str | None:
    """Why it was left out, None if it is there."""
    with opened.open(info) as source:
        target = source.read(_LONGEST_TARGET + 1)
    try:
        text = target.decode()
        raw = os.fsdecode(unspell(text))
    except (UnicodeDecodeError, BadRequest):
        return "a link whose target is no text"
    if not raw or len(target) > _LONGEST_TARGET or "\0" in raw:
        return "a link without a sound target"
    place = _place(top, member.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    depth = len(place.relative_to(top).parts) - 1
    if raw.startswith("/"):
        return "a link that leads out of the directory"
    for step in raw.split("/"):
        depth += -1 if step == ".." else step not in ("", ".")
        if depth < 0:
            return "a link that leads out of the directory"
    # Where it leads in the end counts: the steps may go through other links.
    real = os.path.realpath(place.parent / raw)
    inside = os.path.realpath(top)
    if real != inside and not real.startswith(inside + os.sep):
        return "a link that leads out of the directory"
    place.symlink_to(raw)
    return None


def _room(top: Path, wanted: int) -> None:
    free = shutil.disk_usage(top.parent).free
    if wanted > free:
        raise BadInput(f"the results need {wanted} bytes and {free} are free at {top.parent}; make room")


@contextmanager
def _translate_errors(top: Path) -> Iterator[None]:
    try:
        yield
    except (BadArchive, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise BadAnswer(f"the results cannot be unpacked: {error}; get them with --zip") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadAnswer(
            f"the results cannot be unpacked: {printable(str(error.filename))} is in them as two different "
            "things; get them with --zip"
        ) from error
    except OSError as error:
        raise BadInput(
            f"{str(top)!r} cannot be written: {error.strerror}; make room or name another place"
        ) from error
