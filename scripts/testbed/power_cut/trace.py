"""What a process did to the files of a directory, in the order in which it did it, as strace saw it.

strace prints a call when it begins and when it ends, with the time of each; the process goes on only after
that, so whatever somebody was told because of a call came after its printed end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

_CALLS: Final = (
    "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,lseek,fsync,fdatasync,"
    "sync,syncfs,sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat,symlink,symlinkat,mkdir,"
    "mkdirat,rmdir,sendfile,copy_file_range,splice"
)

_HARMLESS: Final = frozenset(
    {"O_RDONLY", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_LARGEFILE"}
)
_FILE_SYSTEM_WIDE: Final = frozenset({"sync", "syncfs"})
_NO_MARK: Final = frozenset({"sync_file_range"})
"""Says nothing of what a cut leaves: neither the file's size nor the disk's own cache are written through."""

_LINE: Final = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
_UNFINISHED: Final = " <unfinished ...>"
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>")
_CALL: Final = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?).*?(?: <([\d.]+)>)?")
# All that is in quotes or brackets is hexadecimal. It is megabytes: a class of characters is passed at once.
_STRING: Final = re.compile(r'"([\\x0-9a-f]*)"')
_FILE: Final = re.compile(r"(-?\d+|AT_FDCWD)<([\\x0-9a-f]*)>(\(deleted\))?")


class NotUnderstood(Exception):
    """The trace holds something that the model of the disk does not know; the text says what."""


@dataclass(frozen=True, slots=True)
class Make:
    """A new file or directory, unless there is a file of this name."""

    path: str
    directory: bool = False


END: Final = -1
"""The offset of what is written behind all that is there."""


@dataclass(frozen=True, slots=True)
class Write:
    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """`grows`: to at least this size."""

    path: str
    size: int
    grows: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Link:
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Remove:
    path: str


@dataclass(frozen=True, slots=True)
class Sync:
    """Of a file, or of a directory's names; of everything, without a path."""

    path: str | None


Step: TypeAlias = Make | Write | Resize | Rename | Link | Remove | Sync


@dataclass(frozen=True, slots=True)
class Done:
    """A step between two times of the wall clock, seconds since the epoch."""

    began: float
    ended: float
    step: Step


def command(output: Path) -> Sequence[str]:
    """What runs a program so that its calls are written to `output`. The program is our child, not strace."""
    return (
        *("strace", "-D", "-f", "-q", "--seccomp-bpf", "-e", "signal=none", "-ttt", "-T"),
        *("-y", "-xx", "-s", "100000000", "-e", f"trace={_CALLS}", "-o", str(output)),
    )


def read(lines: Iterable[str], root: str) -> list[Done]:
    """The steps below the directory `root`, by when they began; paths are relative to it. Raises
    NotUnderstood."""
    return sorted(_Reader(root).read(lines), key=lambda done: done.began)


class _Reader:
    def __init__(self, root: str) -> None:
        self._root = f"{root}/"
        self._places: dict[int, int | None] = {}
        """Where the next `write` to an open file goes; None: to where another call must say first."""

    def read(self, lines: Iterable[str]) -> Iterator[Done]:
        begun: dict[str, tuple[float, str]] = {}
        for line in lines:
            found = _LINE.fullmatch(line.rstrip("\n"))
            if found is None:
                raise NotUnderstood(f"no line of a trace: {line[:200]!r}")
            process, at, text = found[1], float(found[2]), found[3]
            if text.endswith(_UNFINISHED):
                begun[process] = at, text.removesuffix(_UNFINISHED)
                continue
            if text.startswith(("+++", "---")):
                continue
            began, ended = at, None
            if (rest := _RESUMED.match(text)) is not None:
                began, head = begun.pop(process)
                text, ended = head + text[rest.end() :], at
            call = _CALL.fullmatch(text)
            if call is None:
                raise NotUnderstood(f"no call: {text[:200]!r}")
            if call[3] in ("?", "-1"):
                continue  # it did nothing, or nobody heard of it
            if ended is None:
                ended = at + float(call[4] or 0)
            for step in self._steps(call[1], call[2], int(call[3])):
                yield Done(began, ended, step)

    def _steps(self, name: str, arguments: str, result: int) -> Iterator[Step]:
        if name in _FILE_SYSTEM_WIDE:
            yield Sync(None)
        elif name in ("open", "openat", "creat"):
            yield from self._open(name, arguments, result)
        elif name in ("rename", "renameat", "renameat2", "link", "linkat"):
            yield from self._move(name, arguments)
        elif name in ("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "truncate", "symlink", "symlinkat"):
            (path,) = self._paths(arguments)[-1:]
            if path is None:
                return
            if name.startswith("mkdir"):
                yield Make(path, directory=True)
            elif name in ("unlink", "unlinkat", "rmdir"):
                yield Remove(path)
            else:
                raise NotUnderstood(f"{name} of {path}")
        else:
            yield from self._with_file(name, arguments, result)

    def _open(self, name: str, arguments: str, result: int) -> Iterator[Step]:
        (path,) = self._paths(arguments)
        if path is None:
            self._places.pop(result, None)
            return
        flags = (
            set(arguments.rpartition('"')[2].split(",")[1].strip().split("|"))
            if name != "creat"
            else {"O_CREAT"}
        )
        if flags <= _HARMLESS:
            self._places.pop(result, None)
            return
        if "O_TMPFILE" in flags:
            raise NotUnderstood(f"{path} is opened with {flags}")
        if "O_CREAT" in flags:
            yield Make(path)
        if "O_TRUNC" in flags or name == "creat":
            yield Resize(path, 0)
        # What is read moves the place, too, which is not traced.
        self._places[result] = END if "O_APPEND" in flags else 0 if "O_WRONLY" in flags else None

    def _move(self, name: str, arguments: str) -> Iterator[Step]:
        source, target = self._paths(arguments)
        if source is None and target is None:
            return
        if source is None or target is None or "RENAME_" in arguments.replace("RENAME_NOREPLACE", ""):
            raise NotUnderstood(f"{name} over the border, or an exchange: {source}, {target}")
        yield Rename(source, target) if name.startswith("rename") else Link(source, target)

    def _with_file(self, name: str, arguments: str, result: int) -> Iterator[Step]:
        file = _FILE.search(arguments)
        path = None if file is None else self._below(_text(file[2]))
        if path is None:
            if name in ("sendfile", "copy_file_range", "splice") and self._paths(arguments) != []:
                raise NotUnderstood(f"{name}: {arguments[:200]}")
            return
        assert file is not None
        number, after = int(file[1]), arguments[file.end() :]
        if file[3] is not None:
            return  # it has no name any more, and after a cut it is not there
        if name in ("fsync", "fdatasync"):
            yield Sync(path)
        elif name == "lseek":
            if self._places.get(number) != END:
                self._places[number] = result
        elif name in ("write", "writev"):
            place = self._places.get(number)
            if place is None:
                raise NotUnderstood(f"where {path} is written to is not known")
            yield Write(path, place, _data(after, result))
            if place != END:
                self._places[number] = place + result
        elif name in ("pwrite64", "pwritev"):
            yield Write(path, int(after.rpartition(",")[2]), _data(after, result))
        elif name == "ftruncate":
            yield Resize(path, int(after.rpartition(",")[2]))
        elif name == "fallocate":
            mode, offset, length = (word.strip() for word in after.split(",")[1:])
            if mode not in ("0", "FALLOC_FL_KEEP_SIZE"):
                raise NotUnderstood(f"fallocate of {path}: {mode}")
            if mode == "0":
                yield Resize(path, int(offset) + int(length), grows=True)
        elif name not in _NO_MARK:
            raise NotUnderstood(f"{name} of {path}")

    def _paths(self, arguments: str) -> list[str | None]:
        """The paths that a call names, one by one; None for one that is not below the root."""
        found, directory, end = [], "", 0
        for string in _STRING.finditer(arguments):
            before = list(_FILE.finditer(arguments, end, string.start()))
            directory = _text(before[-1][2]) if before else ""
            name = _text(string[1])
            if not name.startswith("/") and not before:
                raise NotUnderstood(f"{name} is below an unknown directory")
            found.append(self._below(name if name.startswith("/") else f"{directory}/{name}"))
            end = string.end()
        return found

    def _below(self, path: str) -> str | None:
        if f"{path}/" == self._root:
            return ""
        return path.removeprefix(self._root) if path.startswith(self._root) else None


def _text(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("\\x", "")).decode(errors="surrogateescape")


def _data(text: str, size: int) -> bytes:
    data = b"".join(bytes.fromhex(part.replace("\\x", "")) for part in _STRING.findall(text))
    if len(data) < size:
        raise NotUnderstood(f"{size} bytes were written, and {len(data)} are in the trace")
    return data[:size]
