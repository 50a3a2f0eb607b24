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

from node.confinement.bubblewrap import DEVICE_TREE, DEVICES, TEMPORARY, TREE
from node.executors import namespaces

_ACCOUNTS = (b"/etc/passwd", b"/etc/group")
_SPARSE = (b"/sys", b"/run")
"""Of these scripts see what is named to them, one by one."""
_MADE = (b"/proc", b"/dev", *_SPARSE, *TEMPORARY)
_DEV = b"/dev"
_SHARED_MEMORY, _TERMINALS = b"/shm", b"/pts"
_DEVICE_LINKS = {
    b"/fd": b"/proc/self/fd",
    b"/stdin": b"/proc/self/fd/0",
    b"/stdout": b"/proc/self/fd/1",
    b"/stderr": b"/proc/self/fd/2",
    b"/core": b"/proc/kcore",
    b"/ptmx": b"pts/ptmx",
}
_TREE, _DEVICE_TREE = os.fsencode(TREE), os.fsencode(DEVICE_TREE)
_SHOWN = os.path.dirname(_TREE)
_STAGE = os.path.dirname(_SHOWN)
_SMALL = b"mode=0755,size=1m"


class ScriptView:
    """Two trees below `place`, an empty directory: of files, and of devices. Lists by their names: `binds`,
    trees and files; `links` in `/`, each followed by what is written in it; `kernel`, what of `/sys` is shown
    if it is there; `empty`, directories that are covered, and `closed`, files that nobody can open.
    """

    def __init__(self, place: bytes, lists: Mapping[str, Sequence[bytes]]) -> None:
        self._place = place
        self._tree, self._devices = (
            os.path.join(place, os.path.basename(tree)) for tree in (_TREE, _DEVICE_TREE)
        )
        self._shown = (*lists["binds"], *lists["kernel"])
        words = iter(lists["links"])
        self._links = list(zip(words, words, strict=True))
        self._empty, self._closed = frozenset(lists["empty"]), lists["closed"]
        self._tops = frozenset((*lists["binds"], *TEMPORARY))
        self._given_devices: list[bytes] = []
        """Places for those of the payload before."""
        self._covers: dict[bytes, int] = {}
        """The file system over each directory that is covered."""

    def build(self) -> None:
        """In the mounts of this process. Raises `OSError`."""
        namespaces.mount_tmpfs(self._place, _SMALL)
        namespaces.keep_out_of_binds(self._place)
        for tree in (self._tree, self._devices):
            os.mkdir(tree)
            namespaces.mount_tmpfs(tree, _SMALL)
            namespaces.keep_out_of_binds(tree)
        for path in _MADE:
            os.makedirs(self._tree + path, exist_ok=True)
        for path, target in self._links:
            os.symlink(target, self._tree + path)
        for name, target in _DEVICE_LINKS.items():
            os.symlink(target, self._devices + name)
        for name in (_SHARED_MEMORY, _TERMINALS):
            os.mkdir(self._devices + name)
        namespaces.mount_own_terminals(self._devices + _TERMINALS)
        self._renew()
        for mount in (self._place, self._tree, self._devices):
            namespaces.let_into_binds(mount)

    def _renew(self) -> None:
        """Make what is not there, or no more: a mount goes when something else is put into its place."""
        for path in self._shown:
            _show(path, self._tree + path)
        for path in DEVICES:
            _show(path, self._devices + path.removeprefix(_DEV))
        for path in self._empty:
            place = self._tree + path
            found = _stat(place)
            if found is not None and found.st_dev != self._covers.get(path):
                namespaces.mount_tmpfs(place, b"mode=0755,size=4k")
                self._covers[path] = os.stat(place).st_dev
        for path in self._closed:
            found = _stat(self._tree + path)
            if found is not None and not stat.S_ISCHR(found.st_mode):
                _bind(_open_there(b"/dev/null"), self._tree + path)

    def give(
        self,
        *,
        scratch: bytes,
        read: Iterable[bytes],
        write: Iterable[bytes],
        devices: Iterable[bytes],
        accounts: Sequence[bytes],
        shared_memory: int,
    ) -> None:
        """Add to the trees what one script has besides, and show them at `TREE` and `DEVICE_TREE`, where any
        user gets at them, in this mount namespace. What is not there is left out.

        `scratch`: what is at `/tmp` and `/var/tmp`, if anything; what is given may lie below these.
        `accounts`: contents of `/etc/passwd` and `/etc/group`. `shared_memory`: bytes of `/dev/shm`. Raises
        `OSError`, with the path of what cannot be reached.
        """
        self._renew()
        while self._given_devices:
            os.unlink(self._given_devices.pop())
        place = _open_there(self._place)
        temporary = _open_there(scratch) if scratch else -1
        given = [(path, _open(path), True) for path in read] + [(path, _open(path), False) for path in write]
        cards = [(path, _open(path)) for path in devices]
        namespaces.mount_tmpfs(_STAGE, b"mode=0755,size=16m")
        os.mkdir(_SHOWN)
        namespaces.move(place, _SHOWN)
        os.close(place)
        self._add_devices(cards, shared_memory)
        # All that has to be made in the tree itself, before nothing can be.
        rooms: set[bytes] = set()
        for path, descriptor, _ in given:
            if descriptor is not None:
                self._make_room(path, descriptor, rooms)
        for number, (path, content) in enumerate(zip(_ACCOUNTS, accounts, strict=True)):
            account = _STAGE + b"/account-%d" % number
            source = os.open(account, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.write(source, content)
            namespaces.bind(source, _TREE + path)
            os.close(source)
        namespaces.restrict(_TREE, read_only=True)
        for path in TEMPORARY:
            if scratch:
                namespaces.bind(temporary, _TREE + path)
                namespaces.restrict(_TREE + path, read_only=False)
            else:
                namespaces.mount_tmpfs(_TREE + path, _SMALL)
        for path, descriptor, read_only in given:
            if descriptor is not None:
                _bind(descriptor, _TREE + path)
                namespaces.restrict(_TREE + path, read_only=read_only)
        if scratch:
            os.close(temporary)
        else:
            for path in TEMPORARY:
                namespaces.close(_TREE + path)

    def _add_devices(self, cards: Iterable[tuple[bytes, int | None]], shared_memory: int) -> None:
        namespaces.mount_tmpfs(_DEVICE_TREE + _SHARED_MEMORY, b"mode=1777,size=%d" % shared_memory)
        for path, descriptor in cards:
            if descriptor is not None:
                name = path.removeprefix(_DEV)
                _bind(descriptor, _DEVICE_TREE + name)
                self._given_devices.append(self._devices + name)
        namespaces.close(_DEVICE_TREE)

    def _make_room(self, path: bytes, descriptor: int, rooms: set[bytes]) -> None:
        """A place for the mount of this path, where there is none in the tree; `rooms`: what was covered anew
        for that, so that no other script sees what places there are."""
        above = os.path.dirname(path)
        while above != b"/" and above not in self._empty:
            above = os.path.dirname(above)
        top = b"/" + path.split(b"/", 2)[1]
        if above == b"/" and top in self._tops:
            return
        if above == b"/" and top not in (path, *_SPARSE):
            above = top
            os.makedirs(_TREE + above, exist_ok=True)
        if above != b"/" and above not in rooms:
            namespaces.mount_tmpfs(_TREE + above, _SMALL)
            rooms.add(above)
        _make_point(_TREE + path, descriptor)


def _open_there(path: bytes) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def _open(path: bytes) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return _open_there(path)
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


def _show(path: bytes, place: bytes) -> None:
    found, shown = _look_at(path), _look_at(place)
    if found is None or (shown is not None and os.path.samestat(found, shown)):
        return
    if (descriptor := _open(path)) is not None:
        _bind(descriptor, place)


def _make_point(path: bytes, descriptor: int) -> None:
    """What this, a directory or not, can be mounted on, unless there is something."""
    if os.path.lexists(path):
        return
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.makedirs(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o644))


def _bind(descriptor: int, path: bytes) -> None:
    _make_point(path, descriptor)
    namespaces.bind(descriptor, path)
    os.close(descriptor)
