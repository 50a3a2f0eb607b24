"""A model of a disk that is cut off: what may be on it, given what was written and what was synced.

It is worse than most file systems, as far as POSIX allows: of what was written since a file was synced any
part may be there (pages of 4 KiB, the last one torn between sectors), with or without the file's size; of
what became of the names in a directory since that was synced any beginning. Only a rename is whole or not
there, between two directories too.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from testbed.power_cut.trace import END, Done, Link, Make, NotUnderstood, Remove, Rename, Resize, Sync, Write

PAGE: Final = 4096
SECTOR: Final = 512


@dataclass(slots=True, eq=False)
class _File:
    """`pending`: writes (offset, bytes) and sizes since it was synced, in their order; `gone` how many there
    were before them."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)
    size: int = 0
    gone: int = 0

    def write(self, offset: int, data: bytes) -> None:
        while data:
            room = PAGE - offset % PAGE
            self.pending.append((offset, data[:room]))
            offset, data = offset + len(data[:room]), data[room:]
        self.size = max(self.size, offset)

    def resize(self, size: int) -> None:
        self.pending.append(size)
        self.size = size

    @property
    def count(self) -> int:
        return self.gone + len(self.pending)

    def sync(self, upto: int) -> None:
        durable = max(0, upto - self.gone)
        for one in self.pending[:durable]:
            _apply(self.synced, one)
        del self.pending[:durable]
        self.gone += durable

    def after_a_cut(self, rng: random.Random) -> bytes:
        content, kept = bytearray(self.synced), self.pending
        match rng.choice(("nothing", "all", "beginning", "some", "some")):
            case "nothing":
                return bytes(content)
            case "all":
                applied = list(kept)
            case "beginning":
                applied = kept[: rng.randint(0, len(kept))]
            case _:
                share, applied = rng.random(), []
                for one in kept:
                    if rng.random() < share:
                        applied.append(one)
                    elif isinstance(one, int):
                        break  # sizes become durable in their order
        if applied and not isinstance(applied[-1], int) and rng.random() < 0.5:
            offset, data = applied[-1]
            applied[-1] = offset, data[: SECTOR * rng.randint(0, len(data) // SECTOR)]
        for one in applied:
            _apply(content, one)
        if rng.random() < 0.3 and not any(isinstance(one, int) for one in kept) and self.size > len(content):
            content.extend(bytes(self.size - len(content)))
        return bytes(content)


@dataclass(slots=True, eq=False)
class _Directory:
    """`names` as the processes see them, `synced` as they are sure to be after a cut."""

    names: dict[str, _Node] = field(default_factory=dict)
    synced: dict[str, _Node] = field(default_factory=dict)


_Node: TypeAlias = _File | _Directory


@dataclass(frozen=True, slots=True, eq=False)
class _Naming:
    """What becomes of names at once; None: it is taken away."""

    effects: Sequence[tuple[_Directory, str, _Node | None]]


class Disk:
    """It begins empty. Steps are given to `begin` and `end`, in the order of time."""

    def __init__(self) -> None:
        self._root = _Directory()
        self._namings: list[_Naming] = []
        self._syncs: dict[int, list[tuple[_File, int] | _Naming]] = {}

    def begin(self, done: Done) -> None:
        """From here on a part of it may be on the disk."""
        match done.step:
            case Make(path, directory):
                above, name = self._above(path)
                if name not in above.names:
                    self._name((above, name, _Directory() if directory else _File()))
            case Write(path, offset, data):
                file = self._file(path)
                file.write(file.size if offset == END else offset, data)
            case Resize(path, size, grows):
                file = self._file(path)
                if size != file.size and not (grows and size < file.size):
                    file.resize(size)
            case Rename(source, target):
                (before, old), (above, name) = self._above(source), self._above(target)
                self._name((before, old, None), (above, name, before.names[old]))
            case Link(source, target):
                (before, old), (above, name) = self._above(source), self._above(target)
                self._name((above, name, before.names[old]))
            case Remove(path):
                above, name = self._above(path)
                self._name((above, name, None))
            case Sync(path):
                self._syncs[id(done)] = self._covered(path)

    def end(self, done: Done) -> None:
        """What was written before a sync began is on the disk."""
        covered = self._syncs.pop(id(done), [])
        for one in covered:
            if isinstance(one, _Naming):
                if one in self._namings:
                    self._namings.remove(one)
                    for directory, name, node in one.effects:
                        _put(directory.synced, name, node)
            else:
                file, upto = one
                file.sync(upto)

    def cut(self, rng: random.Random, place: Path) -> None:
        """Make of the directory `place`, which is not there yet, what a cut may leave."""
        names: dict[int, dict[str, _Node]] = {}
        share = rng.choice((0.0, 0.5, 0.9, 1.0))
        stopped: set[int] = set()
        for naming in self._namings:
            within = {id(directory) for directory, _, _ in naming.effects}
            if within & stopped or rng.random() > share:
                stopped |= within
                continue
            for directory, name, node in naming.effects:
                _put(names.setdefault(id(directory), dict(directory.synced)), name, node)
        self._write(self._root, names, rng, place)

    def _write(
        self, directory: _Directory, names: dict[int, dict[str, _Node]], rng: random.Random, place: Path
    ) -> None:
        place.mkdir()
        for name, node in names.get(id(directory), directory.synced).items():
            if isinstance(node, _Directory):
                self._write(node, names, rng, place / name)
            else:
                (place / name).write_bytes(node.after_a_cut(rng))

    def _covered(self, path: str | None) -> list[tuple[_File, int] | _Naming]:
        node = None if path is None else self._find(path)
        if isinstance(node, _File):
            return [(node, node.count)]
        wanted: list[tuple[_File, int] | _Naming] = []
        touched = None if node is None else {id(node)}
        # Whatever came before in one of the directories that a rename joins comes with it.
        for naming in reversed(self._namings):
            within = {id(directory) for directory, _, _ in naming.effects}
            if touched is None or within & touched:
                wanted.append(naming)
                if touched is not None:
                    touched |= within
        wanted.reverse()
        if path is None:
            wanted += [(file, file.count) for file in self._files(self._root)]
        return wanted

    def _files(self, directory: _Directory) -> Iterator[_File]:
        for node in directory.names.values():
            if isinstance(node, _Directory):
                yield from self._files(node)
            else:
                yield node

    def _name(self, *effects: tuple[_Directory, str, _Node | None]) -> None:
        for directory, name, node in effects:
            _put(directory.names, name, node)
        self._namings.append(_Naming(effects))

    def _find(self, path: str) -> _Node:
        node: _Node = self._root
        for name in path.split("/") if path else ():
            if not isinstance(node, _Directory) or name not in node.names:
                raise NotUnderstood(f"{path} is used, and was never made")
            node = node.names[name]
        return node

    def _file(self, path: str) -> _File:
        node = self._find(path)
        if isinstance(node, _Directory):
            raise NotUnderstood(f"{path} is written to, and is a directory")
        return node

    def _above(self, path: str) -> tuple[_Directory, str]:
        above, _, name = path.rpartition("/")
        node = self._find(above)
        if isinstance(node, _File):
            raise NotUnderstood(f"{above} is a file")
        return node, name


def replay(steps: Sequence[Done], times: Sequence[float]) -> Iterator[tuple[float, Disk]]:
    """The disk at each of the times, which are sorted. It goes on with the next one."""
    disk, ending = Disk(), list[tuple[float, int, Done]]()
    left = iter(enumerate(steps))
    following = next(left, None)
    for time in times:
        while True:
            began = following[1].began if following is not None else float("inf")
            if ending and ending[0][0] <= min(began, time):
                disk.end(heapq.heappop(ending)[2])
            elif following is not None and began <= time:
                disk.begin(following[1])
                heapq.heappush(ending, (following[1].ended, following[0], following[1]))
                following = next(left, None)
            else:
                break
        yield time, disk


def _apply(content: bytearray, one: tuple[int, bytes] | int) -> None:
    if isinstance(one, int):
        del content[one:]
        content.extend(bytes(one - len(content)))
        return
    offset, data = one
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _put(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node
