"""What is in a job's directory, seen without following anything.

The script that filled the directory may still run and may be hostile: names are looked up relative to open
directories, links are never followed, and nothing but regular files is ever opened for reading. Where the
directory is not this process's own, what belongs to others than its owner is not read for it either: a script
may have moved it there, or have made a hard link to it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from actors.store.durable import is_passing
from actors.wire.errors import SourceChanged
from actors.wire.files.names import MAX_DEPTH, spell

Kind = Literal["file", "directory", "link"]

MAX_PATH: Final = 4000
"""Bytes in a path below the directory: what is longer could not be unpacked anywhere."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ENCODING: Final = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
"""That of names on disk, as `os.fsencode` has it."""
_HOPS: Final = 40
_FOREIGN: Final = "it belongs to another user"


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the directory. `path` is relative and spelled (see `paths.spell`), `raw` the same as it is
    on disk. `mode` holds the permission bits, `size` the bytes of its member in a zip (0 for a directory, for
    a link those of its target). `target` is where a link points, spelled, from the link's directory."""

    path: str
    raw: bytes
    size: int
    mode: int
    mtime: float
    kind: Kind
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """`entries` in a fixed order, a directory before what is in it. `left_out` are pairs of spelled path and
    reason: special files, links that lead out or nowhere, what cannot be read."""

    entries: tuple[Entry, ...]
    left_out: tuple[tuple[str, str], ...]


class TooManyEntries(Exception):
    """More than were to be listed; the text names the directory that holds most of them."""


def list_tree(root: Path | str, most: int | None = None) -> Listing:
    """Everything below `root`. Blocks: call it in a thread. Raises OSError if `root` itself cannot be read.

    Links that stay inside are kept as links; an absolute one into `root` is told as the relative one that
    means the same. All other links are left out. A file that vanishes meanwhile was never there.
    Raises `TooManyEntries` as soon as there are more than `most`.
    """
    handle = os.open(root, _DIRECTORY)
    try:
        walk = _Walk(root, most, os.fstat(handle).st_uid)
        walk.directory(handle, b"", 1)
    finally:
        os.close(handle)
    return walk.listing()


def find_owner(directory: int) -> int | None:
    """To whom all has to belong that is read in this open directory; None: it is our own, and so nobody is in
    it who may less than we."""
    owner = os.fstat(directory).st_uid
    return None if owner == os.geteuid() else owner


class OpenTree:
    """Opens files below a directory, component by component, so that no link on the way is followed. Keeps
    two descriptors open: the root's, and that of the directory it was in last."""

    def __init__(self, root: Path | str) -> None:
        self._root = os.open(root, _DIRECTORY)
        self._owner = find_owner(self._root)
        self._at: tuple[bytes, int] = (b"", self._root)

    def open(self, raw: bytes, called: str) -> tuple[int, os.stat_result]:
        """A descriptor of the regular file at this relative path, for the caller to close, and what the
        system says of it. Raises SourceChanged, with the name it is `called`, if it is none (any more),
        OSError for what has nothing to do with it."""
        parent, _, name = raw.rpartition(b"/")
        if self._at[0] != parent:
            try:
                self._enter(parent)
            except OSError as error:
                _refuse_changed(error, called)
                raise
        handle, found = open_and_stat(name, called, self._at[1])
        if self._owner is not None and self._owner != found.st_uid:
            os.close(handle)
            raise SourceChanged(f"{called!r} may not be read: {_FOREIGN}")
        return handle, found

    def close(self) -> None:
        """Close what is open."""
        self._leave()
        os.close(self._root)

    def _leave(self) -> None:
        path, handle = self._at
        self._at = (b"", self._root)
        if path:
            os.close(handle)

    def _enter(self, parent: bytes) -> None:
        self._leave()
        handle = self._root
        try:
            for component in parent.split(b"/") if parent else ():
                inner = os.open(component, _DIRECTORY, dir_fd=handle)
                if handle != self._root:
                    os.close(handle)
                handle = inner
        except BaseException:
            if handle != self._root:
                os.close(handle)
            raise
        self._at = (parent, handle)


def open_regular(name: Path, called: str) -> int:
    """A descriptor of a regular file. Never waits (for the writer of a FIFO), never follows a link. Raises
    SourceChanged, with the name it is `called`, if it is gone, is something else or may not be read."""
    return open_and_stat(name, called)[0]


def open_and_stat(
    name: bytes | str | Path, called: str, dir_fd: int | None = None
) -> tuple[int, os.stat_result]:
    """The same, and what the system says of what is open."""
    try:
        handle = os.open(name, _FILE, dir_fd=dir_fd)
    except OSError as error:
        _refuse_changed(error, called)
        raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise SourceChanged(f"{called!r} is no regular file (any more)")
    return handle, found


def _refuse_changed(error: OSError, called: str) -> None:
    """Raise `SourceChanged` if the error says that of a file."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise SourceChanged(f"{called!r} is gone") from None
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
        raise SourceChanged(f"{called!r} is no regular file (any more)") from None
    if error.errno in (errno.EACCES, errno.EPERM):
        raise SourceChanged(f"{called!r} may not be read") from None


class _Walk:
    def __init__(self, root: Path | str, most: int | None, owner: int) -> None:
        self._most = most
        self._owner = owner
        self._root = root
        self._called: set[bytes] = set()
        self._seen = 0
        self._found: dict[bytes, Entry] = {}
        self._user = os.geteuid()
        self._targets: dict[bytes, bytes] = {}
        self._left_out: list[tuple[str, str]] = []

    def directory(self, handle: int, prefix: bytes, depth: int) -> None:
        room = None if self._most is None else max(0, self._most - self._seen)
        with os.scandir(handle) as names:
            # However many there are, no more are held than one over the limit.
            some = islice(names, None if room is None else room + 1)
            found = sorted([entry.name.encode(*_ENCODING) for entry in some])
        self._seen += len(found)
        if room is not None and len(found) > room:
            counted = Counter(raw.rpartition(b"/")[0] for raw in self._found)
            counted[prefix[:-1]] += len(found)
            raise TooManyEntries(spell(counted.most_common(1)[0][0]) or ".")
        for name in found:
            raw = prefix + name
            try:
                self._one(handle, name, raw, depth)
            except FileNotFoundError:
                continue
            except OSError as error:
                if is_passing(error):
                    raise
                self._leave_out(raw, f"cannot be read: {error.strerror}")

    def listing(self) -> Listing:
        entries = self._follow_links() if self._targets else self._found.values()
        return Listing(tuple(entries), tuple(sorted(self._left_out)))

    def _follow_links(self) -> list[Entry]:
        """What was found, with where its links point, but for those that lead astray."""
        entries = []
        for raw, entry in self._found.items():
            if entry.kind != "link":
                entries.append(entry)
                continue
            why = self._astray(raw)
            if why is None:
                entries.append(self._link(entry))
            else:
                self._leave_out(raw, why)
        return entries

    def _one(self, handle: int, name: bytes, raw: bytes, depth: int) -> None:
        found = os.stat(name, dir_fd=handle, follow_symlinks=False)
        made = stat.S_IFMT(found.st_mode)
        kind = _KINDS.get(made)
        if kind is None:
            self._leave_out(raw, _SPECIAL.get(made, "a special file"))
        elif len(raw) > MAX_PATH:
            self._leave_out(raw, "its path is too long")
        elif kind != "directory" and self._owner not in (self._user, found.st_uid):
            self._leave_out(raw, _FOREIGN)
        elif kind == "directory" and depth >= MAX_DEPTH:
            self._leave_out(raw, "it is too deep")
        elif (
            kind == "file"
            # Of an owner nothing else is asked by the kernel either.
            and not (found.st_uid == self._user and found.st_mode & stat.S_IRUSR)
            and not os.access(name, os.R_OK, dir_fd=handle, effective_ids=True)
        ):
            self._leave_out(raw, "cannot be read: Permission denied")
        else:
            if kind == "link":
                self._targets[raw] = os.readlink(name, dir_fd=handle)
            inner = os.open(name, _DIRECTORY, dir_fd=handle) if kind == "directory" else None
            try:
                size = found.st_size if kind == "file" else 0
                mode = stat.S_IMODE(found.st_mode)
                self._found[raw] = Entry(spell(raw), raw, size, mode, found.st_mtime, kind)
                if inner is not None:
                    self.directory(inner, raw + b"/", depth + 1)
            finally:
                if inner is not None:
                    os.close(inner)

    def _leave_out(self, raw: bytes, why: str) -> None:
        self._left_out.append((spell(raw), why))

    def _link(self, entry: Entry) -> Entry:
        absolute, steps = self._steps(entry.raw)
        target = self._targets[entry.raw]
        if absolute:
            target = b"/".join([b".."] * entry.raw.count(b"/") + steps) or b"."
        spelled = spell(target)
        return replace(entry, size=len(spelled.encode()), target=spelled)

    def _roots(self) -> set[bytes]:
        """What the root is called. Found out for the first link that is absolute: most trees have none."""
        if not self._called:
            root = Path(self._root)
            self._called = {os.fsencode(root.absolute()), os.path.realpath(os.fsencode(root))}
        return self._called

    def _steps(self, link: bytes) -> tuple[bool, list[bytes]]:
        """Whether the link's target begins at the root, and the steps from there or from the link. An
        absolute target outside is a step too many upward."""
        target = self._targets[link]
        absolute = target.startswith(b"/")
        if absolute:
            inside = [
                target[len(root) :] for root in self._roots() if (target + b"/").startswith(root + b"/")
            ]
            target = inside[0] if inside else b".."
        return absolute, [step for step in target.split(b"/") if step not in (b"", b".")]

    def _astray(self, link: bytes) -> str | None:
        """Why a link is left out, None if it stays. It is walked through what was found, never on disk."""
        at = link.split(b"/")[:-1]
        absolute, rest = self._steps(link)
        hops = 0
        if absolute:
            at = []
        while rest:
            step = rest.pop(0)
            if step == b"..":
                if not at:
                    return "a link that leads out of the directory"
                at.pop()
                continue
            path = b"/".join([*at, step])
            entry = self._found.get(path)
            if entry is None or (entry.kind == "file" and rest):
                return "a link that leads nowhere"
            if entry.kind != "link":
                at.append(step)
                continue
            hops += 1
            if hops > _HOPS:
                return "a link that leads in a circle"
            absolute, steps = self._steps(path)
            rest[:0] = steps
            if absolute:
                at = []
        return None


_KINDS: Final[dict[int, Kind]] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
_SPECIAL: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
