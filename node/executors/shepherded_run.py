"""A payload under a shepherd, known by its marks: waited for, stopped, and found again by another process."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.process import procfs
from actors.process.identity import ProcessIdentity, identify
from actors.store.kept_file import Damaged, read_kept
from actors.store.repair import retry_repaired
from node.executors import mark_files
from node.executors.executor import SUPERVISION, RunEnd, RunSpec
from node.executors.spawner import Leash
from node.executors.stray_processes import end_leftovers

_LARGEST_PID: Final = 1 << 22
"""The kernel's own limit."""
_UNRESPONSIVE: Final = 10.0
"""Seconds after which a shepherd that was told to kill is killed, where the kernel then does its work."""


@dataclass(frozen=True, slots=True)
class RunMark:
    """What the shepherd wrote before the script's first command. `nonce` None: that is lost, and this is what
    can be seen of the shepherd."""

    nonce: str | None
    shepherd: ProcessIdentity
    guard: ProcessIdentity | None
    session: int
    pipes: frozenset[str]
    """Those of its logs, as `/proc/PID/fd` names them."""
    started_at: float
    uptime: float | None
    """When it started, in seconds since the machine did."""
    shared: bool
    """Whether the shepherd watches other payloads too, before and after this one."""

    def watched(self, key: str) -> bool:
        """Whether the shepherd is there for this payload: of one that is shared its name says so."""
        if not self.shared:
            return self.shepherd.lives()
        name = procfs.name_of(self.shepherd.pid)
        # The name first: its process is compared after it, and is not another one then.
        return name in (key[:15], (mark_files.STARTING + key)[:15]) and self.shepherd.lives()


def read_run_mark(spec: RunSpec) -> RunMark | None:
    """None when the payload has not started, or never will, or its mark is damaged. Raises `OSError` when
    that cannot be found out now."""
    return parse_run_mark(_read(spec, mark_files.RUN), spec.key)


def parse_run_mark(content: bytes | Damaged | None, key: str) -> RunMark | None:
    """What is in the run mark of this payload; None if it is none."""
    values = _parse(content, key)
    if values is None:
        return None
    try:
        boot = values["boot"]
        guard = None
        if "guard" in values:
            guard = ProcessIdentity(_pid(values["guard"]), _whole(values["guard_since"]), boot)
        return RunMark(
            nonce=values["nonce"],
            shepherd=ProcessIdentity(_pid(values["pid"]), _whole(values["since"]), boot),
            guard=guard,
            session=_pid(values["session"]) if "session" in values else -1,
            pipes=frozenset(values.get("pipes", "").split()),
            started_at=_seconds(values["started"]),
            uptime=_seconds(values["uptime"]) if "uptime" in values else None,
            shared="shared" in values,
        )
    except (KeyError, ValueError):
        return None


def find_shepherd(spec: RunSpec) -> RunMark | None:
    """The living shepherd of a payload whose mark is lost, by what it is called. Blocks."""
    # A script may call itself so, too; its shepherd was there before it.
    named = [identify(pid) for pid in procfs.all_pids() if procfs.name_of(pid) == spec.key[:15]]
    shepherd = min(filter(None, named), key=lambda one: one.started, default=None)
    if shepherd is None:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - shepherd.started / os.sysconf("SC_CLK_TCK")
    # It may have watched others before: what becomes the end mark was made when this one began.
    for draft in spec.directory.glob(f"{mark_files.END}.*"):
        with suppress(FileNotFoundError):
            age = min(age, max(0.0, time.time() - draft.stat().st_mtime))
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME) - age
    return RunMark(None, shepherd, None, -1, frozenset(), time.time() - age, uptime, shared=True)


def give_up(spec: RunSpec) -> None:
    """Decide that the payload will never start, unless it has started, or was given up, before. Blocks."""
    path = spec.directory / mark_files.RUN
    if path.is_dir():
        path = spec.directory / mark_files.EARLIER[mark_files.RUN]
    retry_repaired(path, lambda: _give_up(path))


def _give_up(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with suppress(FileExistsError):
            mark_files.create(path.name, mark_files.ABANDONED, directory)
    finally:
        os.close(directory)


NEVER_STARTED: Final = RunEnd(None, None, 0.0, 0.0, 0.0, 0.0, 0, never_started=True)


async def end_unmarked(spec: RunSpec) -> RunEnd:
    """The end of a payload that no run mark tells of and no shepherd watches: what may be left of it must not
    go on."""
    found = await end_leftovers(spec.directory, session=-1, since=0)
    if (end := read_end(spec, None)) is not None:
        return end
    run = _read(spec, mark_files.RUN)
    if run == mark_files.ABANDONED and not found and not _has_damaged_end_mark(spec, None):
        return NEVER_STARTED
    return _unreadable(0.0)


def read_end(spec: RunSpec, nonce: str | None) -> RunEnd | None:
    """What the end mark of this start says; None without one. `nonce` None: of whatever start, for which it
    was is lost."""
    return _parse_end(_read(spec, mark_files.END), spec.key, nonce)


def _parse_end(content: bytes | Damaged | None, key: str, nonce: str | None) -> RunEnd | None:
    values = _parse(content, key)
    if values is None or nonce not in (None, values.get("nonce")):
        return None
    if "failed" in values:
        return NEVER_STARTED
    try:
        status = _whole(values["status"])
        signalled = os.WIFSIGNALED(status)
        return RunEnd(
            exit_code=None if signalled else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if signalled else None,
            started_at=_seconds(values["started"]),
            ended_at=_seconds(values["ended"]),
            wall_seconds=_seconds(values["wall"]),
            cpu_seconds=_seconds(values["cpu"]),
            peak_bytes=_whole(values["peak"]),
            asked=values.get("asked") == "1",
            left_out=_whole(values.get("left_out", "0")),
            unwritten=_whole(values.get("unwritten", "0")),
            exceeded=values.get("exceeded", ""),
        )
    except (KeyError, ValueError):
        return None


def _read(spec: RunSpec, name: str) -> bytes | Damaged | None:
    """This mark of a payload, also one that an earlier version has made."""
    content = read_kept(spec.directory / name, mark_files.MOST)
    if isinstance(content, bytes):
        return content
    earlier = spec.directory / mark_files.EARLIER[name]
    return read_kept(earlier, mark_files.MOST) if earlier.parent.is_dir() else content


def _parse(content: bytes | Damaged | None, key: str) -> Mapping[str, str] | None:
    """What a mark of this payload says; None if there is none, or it is damaged."""
    values = mark_files.unpack(content) if isinstance(content, bytes) else None
    return values if values is not None and values.get("key") == key else None


def _has_damaged_end_mark(spec: RunSpec, nonce: str | None) -> bool:
    """Not one that is whole, and of another start: that is nobody's word."""
    content = _read(spec, mark_files.END)
    if content is None or isinstance(content, Damaged):
        return content is not None
    if (values := mark_files.unpack(content)) is None:
        return True
    return values.get("key") == spec.key and nonce in (None, values.get("nonce"))


def _whole(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise ValueError(text)
    return value


def _pid(text: str) -> int:
    value = int(text)
    if not 0 < value <= _LARGEST_PID:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1e11:  # neither "nan"
        raise ValueError(text)
    return value


def _unreadable(started_at: float) -> RunEnd:
    return RunEnd(None, None, started_at, time.time(), 0.0, 0.0, 0, unreadable=True)


class ShepherdedRun:
    """A started payload. `leash` is of who started it: others know its end by that of its shepherd."""

    def __init__(self, spec: RunSpec, mark: RunMark, leash: Leash | None = None) -> None:
        self._spec = spec
        self._mark = mark
        self._leash = leash

    @property
    def pid(self) -> int:
        return self._mark.shepherd.pid

    @property
    def started_at(self) -> float:
        return self._mark.started_at

    @property
    def uptime(self) -> float | None:
        return self._mark.uptime

    def alive(self) -> bool:
        """Whether the shepherd is there; the end mark is worth nothing before it has gone, or has turned to
        another payload."""
        return not self.is_over and self._mark.watched(self._spec.key)

    @property
    def is_over(self) -> bool:
        return self._leash is not None and self._leash.ended

    async def wait(self) -> RunEnd:
        if not self.is_over:
            await self._wait()
        end = await self.end()
        if end.supervision_killed:
            # Who takes a machine away kills its node, too.
            await trio.sleep(mark_files.HOLD)
        return end

    async def _wait(self) -> None:
        if self._leash is None or not await self._leash.wait():
            await self._mark.shepherd.wait()

    def _send(self, number: signal.Signals) -> None:
        """Nothing can come between: what has not been seen to end is still what its shepherd heeds."""
        if not self.is_over:
            self._mark.shepherd.send(number)

    async def end(self) -> RunEnd:
        """What became of it, when its shepherd has gone."""
        end = None
        if self._leash is not None:
            # The shepherd has said what it has written: that need not be read.
            end = _parse_end(self._leash.end_mark, self._spec.key, self._mark.nonce)
        if end is None:
            end = read_end(self._spec, self._mark.nonce)
        if end is not None:
            return end
        started, now = self._mark.started_at, time.time()
        if self._mark.shepherd.boot != procfs.boot_id():
            return RunEnd(None, None, started, now, 0.0, 0.0, 0, lost=True)
        await self._clear()
        if _has_damaged_end_mark(self._spec, self._mark.nonce):
            return _unreadable(started)
        return RunEnd(None, None, started, now, max(0.0, now - started), 0.0, 0, supervision_killed=True)

    async def stop(self, grace: float) -> None:
        if grace > 0:
            self._leave_grace(grace)
            self._send(signal.SIGTERM)
            self._send(signal.SIGCONT)  # A script of the same user may have stopped it.
            with trio.move_on_after(grace):
                await self._wait()
                await self._clear_if_unmarked()
                return
        begun = trio.current_time()
        while True:
            number = signal.SIGUSR1
            if self._mark.guard is None and trio.current_time() - begun > _UNRESPONSIVE:
                number = signal.SIGKILL  # PID 1 of its namespace: the kernel kills all the others.
            self._send(number)
            self._send(signal.SIGCONT)
            with trio.move_on_after(0.25):
                await self._wait()
                break
        await self._clear_if_unmarked()

    def _leave_grace(self, grace: float) -> None:
        """The shepherd keeps the time itself: this process may not live to do it."""
        directory = self._spec.directory
        if (directory / SUPERVISION).is_dir():
            directory /= SUPERVISION  # of an earlier version, as its shepherd is
        draft = directory / f"{mark_files.GRACE}.draft"
        try:
            draft.write_text(f"{grace:.3f}\n", "ascii")
            draft.replace(directory / mark_files.GRACE)
        except OSError:
            return  # Then its own grace counts, and ours at the latest.

    async def _clear_if_unmarked(self) -> None:
        if read_end(self._spec, self._mark.nonce) is None:
            await self._clear()

    async def _clear(self) -> None:
        """The shepherd was killed. With a namespace all of it died along; else its guard ends the rest."""
        guard = self._mark.guard
        if self._mark.nonce is not None and (guard is None or guard.boot != procfs.boot_id()):
            return
        if guard is not None:
            guard.send(signal.SIGCONT)
            await guard.wait()
        await end_leftovers(
            self._spec.directory, self._mark.session, self._mark.shepherd.started, self._mark.pipes
        )
