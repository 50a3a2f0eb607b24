"""What of a machine's files scripts see: what any user of it may read, and no place that is private.

Landlock can only add, so what is seen is listed: a directory without anything closed as a whole, one with
something closed by what else is in it. Where mounts hide things it is the other way round: the whole tree,
and what to cover. Both come from one look at the machine, at a node's start.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

PRIVATE: Final = ("/root", "/home", "/run", "/tmp", "/var/tmp", "/var/spool", "/dev", "/proc", "/sys")
"""Hidden everywhere; what is needed of the last three and of `/run` is named below."""
OF_THE_KERNEL: Final = (
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
)
"""To be read besides: how many processors there are, and how near to which memory (OpenMP, MPI, Java)."""
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
TERMINALS: Final = ("/dev/ptmx", "/dev/pts")
"""For `script` and `expect`. Only for who owns no terminals besides: an account's are open to all it runs."""
SHARED_MEMORY: Final = "/dev/shm"
RESOLVER: Final = "/etc/resolv.conf"

_NO_HOMES: Final = frozenset(
    ("/", "/bin", "/dev", "/etc", "/lib", "/nonexistent", "/opt", "/sbin", "/srv", "/usr", "/var")
)
"""What accounts have for a home that is none."""
_OF_PEOPLE: Final = 1000
_NOBODY: Final = 65534
_MOST: Final = 1_000_000
"""Entries below one directory of `/` that are looked at one by one, at most: 5 s, where the disk is quick."""
_NEVER_LEFT_OUT: Final = frozenset(("/usr", "/etc"))
_DEEPEST: Final = 100
_OF_PROGRAMS: Final = frozenset(("bin", "sbin", "shims", "condabin"))
"""Directories of programs that work with what is beside them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is in a directory: a link is told as itself, not as what it leads to."""

    name: str
    mode: int
    uid: int
    gid: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


class Files(Protocol):
    """A machine's files, by absolute paths."""

    def entries(self, directory: str) -> Iterable[Entry]:
        """Raises `OSError`."""
        ...

    def resolve(self, path: str) -> str:
        """Where a path leads through all of its links, whether there is something or not."""
        ...

    def target(self, link: str) -> str:
        """What is written in a link. Raises `OSError`."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """Whom scripts run as where they have no uid of their own."""

    uid: int
    groups: frozenset[int]

    def reads_more(self, entry: Entry) -> bool:
        """Whether it may read, or enter, what other users may not, by the mode; ACLs are not looked at."""
        shift = 6 if entry.uid == self.uid else 3 if entry.gid in self.groups else 0
        counted = 0o5 if entry.is_directory else 0o4
        return bool((entry.mode >> shift) & ~entry.mode & counted)


@dataclass(frozen=True, slots=True)
class View:
    """What scripts see. All paths are real ones but those of `links`.

    `read`: directories with all that is below them, and single files. `links`: links beside them, with what
    is written in them. `binds` without `covered`: the same, said the other way round. `left_out`: trees that
    are too large to be looked through, of which nothing is seen. `private`: places of which nothing is.
    """

    read: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    binds: tuple[str, ...]
    covered: tuple[str, ...]
    left_out: tuple[str, ...]
    private: frozenset[str]

    def shows(self, path: str, besides: Iterable[str] = ()) -> bool:
        """Whether a real path is seen; `besides`: others that are granted."""
        return any(_is_within(path, each) for each in (*self.read, *besides))


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def _above(path: str) -> Iterator[str]:
    while path != "/":
        path = os.path.dirname(path)
        yield path


def find_private(files: Files, passwd: str, homes: Iterable[str], given: Iterable[str]) -> frozenset[str]:
    """The places that no script sees: people's homes, as `passwd` has them, what is in `homes` besides, and
    those that are given, such as a node's data and secrets."""
    found = [*PRIVATE, *given]
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[2].isascii() and fields[2].isdigit():
            uid = int(fields[2])
            if uid == 0 or (uid >= _OF_PEOPLE and uid != _NOBODY):
                homes = (*homes, fields[5])
    found += [home for home in homes if home.startswith("/") and os.path.normpath(home) not in _NO_HOMES]
    return frozenset(files.resolve(path) for path in found) - {"/"}


def find_visible(files: Files, private: frozenset[str], account: Account | None) -> View:
    """What scripts see without the private places.

    With an account, which is not theirs alone, what only this account may read is left out as well: every
    file is looked at. Without one they have a uid that owns nothing, and the kernel sees to that.
    """
    return _Look(files, private, account).all()


@dataclass(slots=True)
class _Found:
    """Of one directory: whether it may be shown as a whole, else what of it."""

    whole: bool = True
    read: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)

    def add(self, other: _Found) -> None:
        self.whole = False
        self.read += other.read
        self.links += other.links
        self.covered += other.covered


class _TooMuch(Exception):
    """There are more entries below a directory of `/` than are looked at."""


class _Look:
    def __init__(self, files: Files, private: frozenset[str], account: Account | None) -> None:
        self._files, self._private, self._account = files, private, account
        self._above_private = {above for path in private for above in _above(path)}
        self._left: float = 0

    def all(self) -> View:
        found, binds, left_out = _Found(), [], []
        for entry in self._files.entries("/"):
            path, part = f"/{entry.name}", _Found()
            self._left = math.inf if path in _NEVER_LEFT_OUT else _MOST
            try:
                self._judge("/", entry, part, 0)
            except _TooMuch:
                left_out.append(path)
                continue
            found.add(part)
            if part.read:
                binds.append(path)
        covered = [path for path in found.covered if any(_is_within(path, bind) for bind in binds)]
        return View(
            read=tuple(sorted(found.read)),
            links=tuple(sorted(found.links)),
            binds=tuple(sorted(binds)),
            covered=tuple(sorted(covered)),
            left_out=tuple(sorted(left_out)),
            private=self._private,
        )

    def _directory(self, path: str, depth: int) -> _Found:
        found = _Found(whole=path not in self._above_private)
        try:
            entries = list(self._files.entries(path))
        except OSError:
            return _Found(whole=False)  # Closed, gone, or too long a path.
        self._left -= len(entries)
        if self._left < 0:
            raise _TooMuch
        for entry in entries:
            self._judge(path, entry, found, depth)
        return found

    def _judge(self, directory: str, entry: Entry, found: _Found, depth: int) -> None:
        """Add an entry to what was found of its directory."""
        path = f"{directory.rstrip('/')}/{entry.name}"
        if path in self._private:
            found.covered.append(path)
            found.whole = False
            return
        if entry.is_link:
            try:
                found.links.append((path, self._files.target(path)))
            except OSError:
                found.whole = False
            return
        more = self._account is not None and self._account.reads_more(entry)
        enters = bool(entry.mode & 0o1)
        if (more and not (entry.is_directory and enters)) or depth > _DEEPEST:
            found.covered.append(path)
            found.whole = False
        elif not entry.is_directory:
            if entry.mode & 0o5:
                found.read.append(path)
        elif not enters:
            return  # The kernel keeps everybody out of it.
        elif self._account is not None or path in self._above_private:
            inner = self._directory(path, depth + 1)
            if inner.whole and not more:
                found.read.append(path)
            else:
                found.add(inner)
        else:
            found.read.append(path)


@dataclass(frozen=True, slots=True)
class Unseen:
    """Programs in a directory of `PATH` that scripts do not see, and what to let them read to see them."""

    directory: str
    programs: tuple[str, ...]
    read: str


def find_unseen(
    files: Files, path: str, view: View, private: frozenset[str], besides: Iterable[str] = ()
) -> list[Unseen]:
    """What of the directories in `path` (`PATH`) is not seen: the directories themselves, and what links in
    those that are seen lead to. `besides`: real paths that are granted."""
    besides = tuple(besides)
    found: dict[tuple[str, str], list[str]] = {}
    for directory in dict.fromkeys(each for each in path.split(":") if each.startswith("/")):
        real = files.resolve(directory)
        try:
            entries = sorted(files.entries(real), key=lambda entry: entry.name)
        except OSError:
            continue
        seen = view.shows(real, besides)
        for entry in entries:
            program = files.resolve(f"{real}/{entry.name}")
            if not seen:
                found.setdefault((directory, _to_read(real, private)), []).append(entry.name)
            elif entry.is_link and not view.shows(program, besides):
                place = _to_read(os.path.dirname(program), private)
                found.setdefault((directory, place), []).append(entry.name)
    return [Unseen(directory, tuple(names), read) for (directory, read), names in found.items()]


def _to_read(directory: str, private: frozenset[str]) -> str:
    above = os.path.dirname(directory)
    if os.path.basename(directory) in _OF_PROGRAMS and above != "/" and above not in private:
        return above
    return directory


class MachineFiles:
    """The files of this machine."""

    def entries(self, directory: str) -> Iterator[Entry]:
        with os.scandir(directory) as listed:
            for each in listed:
                try:
                    about = each.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield Entry(each.name, about.st_mode, about.st_uid, about.st_gid)

    def resolve(self, path: str) -> str:
        return os.path.realpath(path)

    def target(self, link: str) -> str:
        return os.readlink(link)
