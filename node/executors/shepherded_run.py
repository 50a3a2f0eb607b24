"""A payload under a shepherd, known by its marks: waited for, stopped, and found again by another process."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Final

import trio

from actors.process import procfs
from actors.process.identity import ProcessIdentity
from node.executors import mark_files
from node.executors.executor import SUPERVISION, RunEnd, RunSpec
from node.executors.stray_processes import end_leftovers

_UNRESPONSIVE: Final = 10.0
"""Seconds after which a shepherd that was told to kill is killed, where the kernel then does its work."""


@dataclass(frozen=True, slots=True)
class RunMark:
    """What the shepherd wrote before the script's first command."""

    nonce: str
    isolation: str
    shepherd: ProcessIdentity
    guard: ProcessIdentity | None
    session: int
    pipes: frozenset[str]
    """Those of its logs, as `/proc/PID/fd` names them."""
    started_at: float


def read_run_mark(spec: RunSpec) -> RunMark | None:
    """None when the payload has not started, or never will."""
    content = mark_files.read(str(spec.directory / SUPERVISION / mark_files.RUN))
    values = mark_files.unpack(content) if content is not None else None
    if values is None or values.get("key") != spec.key:
        return None
    boot = values["boot"]
    guard = values.get("guard")
    return RunMark(
        nonce=values["nonce"],
        isolation=values["isolation"],
        shepherd=ProcessIdentity(int(values["pid"]), int(values["since"]), boot),
        guard=ProcessIdentity(int(guard), int(values["guard_since"]), boot) if guard else None,
        session=int(values["session"]),
        pipes=frozenset(values.get("pipes", "").split()),
        started_at=float(values["started"]),
    )


def give_up(spec: RunSpec) -> bool:
    """Decide that the payload will never start; False when it has started, or was given up, before."""
    path = spec.directory / SUPERVISION
    path.mkdir(mode=0o700, exist_ok=True)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mark_files.create(mark_files.RUN, mark_files.ABANDONED, directory)
    except FileExistsError:
        return False
    finally:
        os.close(directory)
    return True


NEVER_STARTED: Final = RunEnd(None, None, 0.0, 0.0, 0.0, 0.0, 0, never_started=True)


async def end_unreadable(spec: RunSpec) -> RunEnd:
    """What to say when there is a run mark that names no process."""
    if mark_files.read(str(spec.directory / SUPERVISION / mark_files.RUN)) == mark_files.ABANDONED:
        return NEVER_STARTED
    # Only a script of the same user can have done that. Whatever it was, it must not go on unwatched.
    await end_leftovers(spec.directory, session=-1, since=0)
    return RunEnd(None, None, 0.0, time.time(), 0.0, 0.0, 0, supervision_killed=True)


class ShepherdedRun:
    """A started payload. Holds no descriptor between calls, so there is nothing to close."""

    def __init__(self, spec: RunSpec, mark: RunMark) -> None:
        self._spec = spec
        self._mark = mark

    @property
    def pid(self) -> int:
        return self._mark.shepherd.pid

    @property
    def started_at(self) -> float:
        return self._mark.started_at

    def alive(self) -> bool:
        """Whether the shepherd is there; the end mark is worth nothing before it has gone."""
        return self._mark.shepherd.lives()

    async def wait(self) -> RunEnd:
        await self._mark.shepherd.wait()
        return await self.end()

    async def end(self) -> RunEnd:
        """What became of it, when its shepherd has gone."""
        end = self._read_end()
        if end is not None:
            return end
        started, now = self._mark.started_at, time.time()
        if self._mark.shepherd.boot != procfs.boot_id():
            return RunEnd(None, None, started, now, 0.0, 0.0, 0, lost=True)
        await self._clear()
        return RunEnd(None, None, started, now, max(0.0, now - started), 0.0, 0, supervision_killed=True)

    async def stop(self, grace: float) -> None:
        shepherd = self._mark.shepherd
        if grace > 0:
            self._leave_grace(grace)
            shepherd.send(signal.SIGTERM)
            shepherd.send(signal.SIGCONT)  # A script of the same user may have stopped it.
            with trio.move_on_after(grace):
                await shepherd.wait()
                await self._clear_if_unmarked()
                return
        begun = trio.current_time()
        while True:
            number = signal.SIGUSR1
            if self._mark.guard is None and trio.current_time() - begun > _UNRESPONSIVE:
                number = signal.SIGKILL  # PID 1 of its namespace: the kernel kills all the others.
            shepherd.send(number)
            shepherd.send(signal.SIGCONT)
            with trio.move_on_after(0.25):
                await shepherd.wait()
                break
        await self._clear_if_unmarked()

    def _leave_grace(self, grace: float) -> None:
        """The shepherd keeps the time itself: this process may not live to do it."""
        directory = self._spec.directory / SUPERVISION
        draft = directory / f"{mark_files.GRACE}.draft"
        try:
            draft.write_text(f"{grace:.3f}\n", "ascii")
            draft.replace(directory / mark_files.GRACE)
        except OSError:
            return  # Then its own grace counts, and ours at the latest.

    def _read_end(self) -> RunEnd | None:
        content = mark_files.read(str(self._spec.directory / SUPERVISION / mark_files.END))
        values = mark_files.unpack(content) if content is not None else None
        if values is None or (values.get("key"), values.get("nonce")) != (self._spec.key, self._mark.nonce):
            return None
        if "failed" in values:
            return NEVER_STARTED
        status = int(values["status"])
        signalled = os.WIFSIGNALED(status)
        return RunEnd(
            exit_code=None if signalled else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if signalled else None,
            started_at=float(values["started"]),
            ended_at=float(values["ended"]),
            wall_seconds=float(values["wall"]),
            cpu_seconds=float(values["cpu"]),
            peak_bytes=int(values["peak"]),
            asked=values.get("asked") == "1",
            left_out=int(values.get("left_out", 0)),
            unwritten=int(values.get("unwritten", 0)),
        )

    async def _clear_if_unmarked(self) -> None:
        if self._read_end() is None:
            await self._clear()

    async def _clear(self) -> None:
        """The shepherd was killed. With a namespace all of it died along; else its guard ends the rest."""
        guard = self._mark.guard
        if guard is None or guard.boot != procfs.boot_id():
            return
        guard.send(signal.SIGCONT)
        await guard.wait()
        await end_leftovers(
            self._spec.directory, self._mark.session, self._mark.shepherd.started, self._mark.pipes
        )
