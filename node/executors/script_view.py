"""What scripts of the tier `bubblewrap` see of the machine: put together once by each shepherd.

bwrap reads the list of all mounts anew for each that it makes, and a mount costs a script 0.2 ms of CPU. So
what is the same for every script of a node, the machine's files and what covers the hidden ones, is one tree
of mounts, which a shepherd makes once for all of its payloads, and bwrap binds as a whole. Mounts that the
machine gets later arrive in it. Only what differs is made for one script.

Imported by the shepherd: standard library only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence

from node.confinement.bubblewrap import DEVICES, TEMPORARY, TREE
from node.executors import namespaces

_ACCOUNTS = (b"/etc/passwd", b"/etc/group")
_OF_EACH = (b"/proc", b"/dev", b"/dev/shm", *TEMPORARY)
"""What is another one for each script."""
_SPARSE = (b"/sys", b"/run")
"""Of these scripts see what is named to them, one by one."""
_DEVICE_LINKS = {
    b"/dev/fd": b"/proc/self/fd",
    b"/dev/stdin": b"/proc/self/fd/0",
    b"/dev/stdout": b"/proc/self/fd/1",
    b"/dev/stderr": b"/proc/self/fd/2",
    b"/dev/core": b"/proc/kcore",
    b"/dev/ptmx": b"pts/ptmx",
}
_TERMINALS = b"/dev/pts"
_TREE = os.fsencode(TREE)
_STAGE = os.path.dirname(_TREE)
_OPENED = os.O_PATH | os.O_CLOEXEC


class ScriptView:
    """One tree at `place`, an empty directory. Lists by their names: `binds`, trees and files; `links` in
    `/`, each followed by what is written in it; `kernel`, what of `/sys` is shown if it is there; `empty`,
    directories that are covered, and `closed`, files that nobody can open.
    """

    def __init__(self, place: bytes, lists: Mapping[str, Sequence[bytes]]) -> None:
        self._place = place
        self._shown = (*lists["binds"], *lists["kernel"], *DEVICES)
        words = iter(lists["links"])
        self._links = list(zip(words, words, strict=True))
        self._empty, self._closed = frozenset(lists["empty"]), lists["closed"]
        self._tops = frozenset((*lists["binds"], *_OF_EACH))
        self._given_devices: list[bytes] = []
        """Places for those of the payload before."""
        self._covers: dict[bytes, int] = {}
        """The file system over each directory that is covered."""

    def build(self) -> None:
        """In the mounts of this process. Raises `OSError`."""
        namespaces.mount_tmpfs(self._place, b"mode=0755,size=1m")
        namespaces.keep_out_of_binds(self._place)
        for path in (*_OF_EACH, *_SPARSE, _TERMINALS):
            os.makedirs(self._place + path, exist_ok=True)
        for path, target in (*self._links, *_DEVICE_LINKS.items()):
            os.symlink(target, self._place + path)
        namespaces.mount_own_terminals(self._place + _TERMINALS)
        self._renew()
        namespaces.let_into_binds(self._place)

    def _renew(self) -> None:
        """Make what is not there, or no more: a mount goes when something else is put into its place."""
        for path in self._shown:
            found, shown = _look_at(path), _look_at(self._place + path)
            is_shown = found is None or (shown is not None and os.path.samestat(found, shown))
            if not is_shown and (descriptor := _open(path)) is not None:
                _bind(descriptor, self._place + path)
        for path in self._empty:
            place = self._place + path
            found = _stat(place)
            if found is not None and found.st_dev != self._covers.get(path):
                namespaces.mount_tmpfs(place, b"mode=0755,size=4k")
                self._covers[path] = os.stat(place).st_dev
        for path in self._closed:
            found = _stat(self._place + path)
            if found is not None and not stat.S_ISCHR(found.st_mode):
                null = os.open("/dev/null", _OPENED)
                namespaces.bind(null, self._place + path)
                os.close(null)

    def stage(
        self, paths: Iterable[bytes], devices: Iterable[bytes], accounts: Sequence[bytes]
    ) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Show the tree, at `TREE`, and these files and directories where any user gets at them, in this
        mount namespace: where each is found, and the directories of the tree that must be covered by others,
        because what is given lies in them and nobody may make a place for it there. What is not there is left
        out. `devices`: what there is a place for besides. `accounts`: contents of `/etc/passwd` and
        `/etc/group` for the tree. Raises `OSError`, with the path of what cannot be reached."""
        self._renew()
        while self._given_devices:
            os.unlink(self._given_devices.pop())
        place = os.open(self._place, _OPENED)
        opened = {path: _open(path) for path in paths}
        namespaces.mount_tmpfs(_STAGE, b"mode=0755,size=16m")
        os.mkdir(_TREE)
        namespaces.move(place, _TREE)
        os.close(place)
        staged: dict[bytes, bytes] = {}
        covered: dict[bytes, None] = {}
        for number, (path, descriptor) in enumerate(opened.items()):
            if descriptor is None:
                continue
            if cover := self._make_room(path, descriptor):
                covered[cover] = None
            staged[path] = _STAGE + b"/%d" % number
            _bind(descriptor, staged[path])
        for path in devices:
            _make_file(_TREE + path)
            self._given_devices.append(self._place + path)
        for number, (path, content) in enumerate(zip(_ACCOUNTS, accounts, strict=True)):
            account = _STAGE + b"/account-%d" % number
            source = os.open(account, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.write(source, content)
            namespaces.bind(source, _TREE + path)
            os.close(source)
        namespaces.close(_TREE)
        return staged, list(covered)

    def _make_room(self, path: bytes, descriptor: int) -> bytes | None:
        """A place in the tree for the mount of this path; or what must be covered, for bwrap to make one."""
        above = os.path.dirname(path)
        while above != b"/" and above not in self._empty:
            above = os.path.dirname(above)
        if above != b"/":
            return above
        top = b"/" + path.split(b"/", 2)[1]
        if top in self._tops:
            return None
        if top in (path, *_SPARSE):
            _make_point(_TREE + path, descriptor)
            return None
        os.makedirs(_TREE + top, exist_ok=True)
        return top


def _open(path: bytes) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, _OPENED)
    return None


def _stat(path: bytes) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.stat(path)
    return None


def _look_at(path: bytes) -> os.stat_result | None:
    # Some file systems of one user refuse even root: nobody else sees these either.
    with contextlib.suppress(PermissionError):
        return _stat(path)
    return None


def _make_point(path: bytes, descriptor: int) -> None:
    """What this, a directory or not, can be mounted on."""
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.makedirs(path, exist_ok=True)
        return
    _make_file(path)


def _make_file(path: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o644))


def _bind(descriptor: int, path: bytes) -> None:
    _make_point(path, descriptor)
    namespaces.bind(descriptor, path)
    os.close(descriptor)
