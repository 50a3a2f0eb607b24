"""Rules of Landlock that are made once, for all scripts that are given the same.

A script may use what each of its layers allows. So there are two: the common one allows what every script of
a node sees, what these are given besides, and the grounds as a whole, which are the directories where each
has something of its own; that of one script allows its own of these, and the trees that contain all the rest.
The common layer is the long one, where every closed file of the machine is left out by name, and is only
handed to the kernel for each script; the other is short.

A rule is about a file, and not about its path. What is put into the place of a file has to have one for the
next script, so before each it is looked whether the directories of those in the rules have changed.

Imported by the shepherd: standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable, Sequence

from node.confinement.landlock import DEVICE, READ, WRITE, Ruleset, open_place

_WORTH = 64
"""So many rules of what all scripts see make a common layer worth it: fewer are made as quickly for each."""
_MOST = 16
"""Of what scripts are given, so many sets at a time have their rules kept."""
_SETTLED = 2_000_000_000
"""Nanoseconds after which whatever changes a directory gives it another time: there are clocks of seconds."""

_About = tuple[int, int, int]


class _Known:
    """What was found of paths, to be told when it changes."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, bool, bool], _About | None] = {}

    def add(self, path: bytes, *, times: bool = False, links: bool = False) -> None:
        """`times`: what is in this directory; `links`: what it leads to."""
        which = (path, times, links)
        if which not in self._found:
            self._found[which] = _look_at(*which)

    def settle(self) -> bool:
        """Whether no change could have gone unnoticed, as two in one tick of a clock would."""
        now = time.time_ns()
        times = (about[2] for about in self._found.values() if about is not None)
        return all(abs(now - changed) > _SETTLED for changed in times)

    def holds(self) -> bool:
        return all(_look_at(*which) == about for which, about in self._found.items())


def _look_at(path: bytes, times: bool, links: bool) -> _About | None:
    try:
        about = os.stat(path) if links else os.lstat(path)
    except OSError:
        return None  # Who makes the rules says so, should it matter.
    return about.st_dev, about.st_ino, about.st_ctime_ns if times else 0


class CommonRules:
    """The common layers of a node's scripts. To be used by one process, in which no mounts change but those
    of the machine, or those of single scripts in copies of its mounts.

    `read`: what all scripts see. `own`: places where each has something of its own, as `/dev/shm`, and what
    lies beside them and is allowed to it path by path.
    """

    def __init__(self, abi: int, read: Iterable[bytes], own: Iterable[bytes]) -> None:
        self._abi, self._read, self._own = abi, tuple(read), tuple(own)
        self._layers: dict[tuple[tuple[int, int, int], ...], Ruleset] = {}
        self._jobs = b""
        self._grounds: list[bytes] = []
        self._known = _Known()
        self._settled = False
        self._mounts = -1
        self._changes = select.poll()
        self.trees: tuple[bytes, ...] | None = None
        """Those that contain all that scripts see; None where there can be no common layer."""

    def begin(self) -> None:
        """Heed the mounts of this process from now on. Raises `OSError`."""
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes.register(self._mounts, select.POLLPRI)

    @property
    def descriptors(self) -> list[int]:
        """That are kept open for scripts to come."""
        mounts = [self._mounts] if self._mounts >= 0 else []
        return [*mounts, *(layer.descriptor for layer in self._layers.values())]

    def renew(self, jobs: bytes) -> None:
        """Look whether everything is as it was, and begin anew if not. `jobs`: the directory of the
        directories of all jobs. Raises `OSError`."""
        if len(self._read) < _WORTH:
            return
        if self._mounts < 0:
            self.begin()
        # The kernel tells of mounts once.
        moved = bool(self._changes.poll(0))
        if jobs == self._jobs and not moved and self._settled and self._known.holds():
            return
        self._jobs = b""
        for layer in self._layers.values():
            layer.close()
        self._layers.clear()
        self._look(jobs)
        self._jobs = jobs

    def _look(self, jobs: bytes) -> None:
        # First of all, so that what changes meanwhile is noticed.
        self._known = known = _Known()
        for path in self._read:
            known.add(os.path.dirname(path), times=True)
        self._grounds = find_grounds(os.path.realpath(jobs), map(os.path.realpath, self._own))
        for ground in self._grounds:
            for path in (ground, *_above(ground)):
                known.add(path)
        real = self._resolve(known)
        self.trees = find_trees(real, self._grounds)
        for path in self.trees:
            known.add(os.path.dirname(path), times=True)
        self._settled = known.settle()
        with open("/proc/self/mountinfo", "rb") as mounts:
            listed = mounts.readlines()
        if not all(_is_in_one_place(each, listed) for each in self._grounds):
            self.trees = None

    def _resolve(self, known: _Known) -> list[bytes]:
        """Where what scripts see really is."""
        real = []
        for path in self._read:
            with contextlib.suppress(FileNotFoundError):
                place = open_place(path)
                try:
                    leads_to = os.readlink(b"/proc/self/fd/%d" % place)
                finally:
                    os.close(place)
                real.append(leads_to)
                if leads_to != path:
                    known.add(path, links=True)
        return real

    def find(self, jobs: bytes, given: Sequence[tuple[int, int]]) -> Ruleset | None:
        """The layer of scripts that are given this: descriptors of files, with rights to them; None where
        there can be none. It is not to be closed. Raises `OSError`."""
        if jobs != self._jobs:
            self.renew(jobs)
        if self.trees is None:
            return None
        about = ((os.fstat(place), rights) for place, rights in given)
        key = tuple((each.st_dev, each.st_ino, rights) for each, rights in about)
        layer = self._layers.pop(key, None)
        if layer is None:
            layer = self._make(given)
            while len(self._layers) >= _MOST:
                self._layers.pop(next(iter(self._layers))).close()
        self._layers[key] = layer
        return layer

    def _make(self, given: Sequence[tuple[int, int]]) -> Ruleset:
        # TCP is the other layer's.
        layer = Ruleset(self._abi, network=True)
        try:
            for path in self._read:
                with contextlib.suppress(FileNotFoundError):
                    layer.allow(path, READ)
            for path in self._grounds:
                layer.allow(path, WRITE | DEVICE)
            for place, rights in given:
                layer.allow_place(place, rights)
        except BaseException:
            layer.close()
            raise
        return layer


def is_within(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def _above(path: bytes) -> Iterable[bytes]:
    while path != b"/":
        path = os.path.dirname(path)
        yield path


def find_grounds(jobs: bytes, own: Iterable[bytes]) -> list[bytes]:
    """The directories of these, none of which is within another. All are real ones."""
    found = {jobs, *map(os.path.dirname, own)}
    return sorted(each for each in found if not any(is_within(each, other) for other in found - {each}))


def find_trees(paths: Iterable[bytes], grounds: Iterable[bytes]) -> tuple[bytes, ...]:
    """The largest trees that contain these paths, and nothing of the grounds; of paths that have to do with
    the grounds themselves, these. All are real ones."""
    closed = {above for ground in grounds for above in (ground, *_above(ground))}
    trees: dict[bytes, None] = {}
    for path in paths:
        # Below a ground every directory above is looked at, and nothing of it is a tree.
        inside = any(is_within(path, ground) for ground in grounds)
        higher = [] if inside else [each for each in _above(path) if each not in closed]
        trees[higher[-1] if higher else path] = None
    return tuple(trees)


def _is_in_one_place(directory: bytes, mounts: Iterable[bytes]) -> bool:
    """Whether the mounts of this process, by its `mountinfo`, show a directory nowhere else: there it would
    be within a tree. Raises `OSError`."""
    place = open_place(directory)
    try:
        with open(f"/proc/self/fdinfo/{place}", "rb") as about:
            number = next(line.split()[1] for line in about if line.startswith(b"mnt_id:"))
        path = os.readlink(b"/proc/self/fd/%d" % place)
    finally:
        os.close(place)
    # NUMBER PARENT DEVICE ROOT POINT: what of a file system is where.
    listed = [line.split()[:5] for line in mounts]
    found = next((each for each in listed if each[0] == number), None)
    if found is None:
        return False
    _, _, device, root, point = found
    inside = os.path.join(_unescape(root), path[len(_unescape(point)) :].lstrip(b"/"))
    same = [_unescape(each[3]) for each in listed if each[2] == device]
    return sum(is_within(inside, each) for each in same) == 1


def _unescape(path: bytes) -> bytes:
    # As octal numbers stand there spaces, ends of lines and backslashes.
    return path.decode("unicode_escape").encode("latin-1")
