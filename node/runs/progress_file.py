"""The file in which a script says how far it has come: what its lines mean, and watching it while it runs.

    DATA/payloads/KEY/progress/progress

It has a directory of its own, so that nobody is woken by what the script prints, and a script may pack or
remove its own directory. The file is the truth; nothing that is read from it is written to the disk.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio

from actors.domain.progress import BatchStand, Progress, normalize_progress
from actors.wire.files.listing import find_owner
from node.executors.executor import PROGRESS
from node.host.inotify import DirectoryWatch, Inotify

log: Final = logging.getLogger("node.progress")

FILE: Final = "progress"
VARIABLE: Final = "ORCHESTRATOR_PROGRESS"
"""Names the file in a script's environment."""

EVERY: Final = 1.0
"""Seconds at least from one telling to the next; and from look to look where the kernel does not say that
there is something to see."""
BREATH: Final = 0.02
"""Seconds at least between two looks, however often the directory changes. Twice as many after each look that
told nothing new, up to EVERY."""

TAIL: Final = 4096
"""Bytes of the file that are read, from its end."""

LARGE: Final = 1 << 20
"""Bytes on the disk above which the file is emptied: only its last line counts."""
EMPTIED_EVERY: Final = 0.1
"""Seconds from one look at a file that grew so large to the next."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_ENDS: Final = re.compile(rb"[\r\n]+")
_NUMBER: Final = re.compile(
    r"((?P<digits>[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?)(?P<percent> ?%)?|[+-]?(nan|inf))(?!\S)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ProgressTail:
    """The end of the file, and whether it is the `whole` of it: otherwise its first line has lost its
    beginning, and does not count. `large`: it was emptied after it was read. `batch`: what a batch system
    says besides."""

    tail: bytes = b""
    whole: bool = True
    large: bool = field(default=False, compare=False)
    batch: BatchStand | None = None

    def after(self, before: Progress | None) -> Progress | None:
        """What its last line says, when `before` was said before it; `before` if there is no line.

        A line is `FRACTION [MESSAGE]`; the fraction is a number from 0 to 1, or from 0 to 100 with a `%`. A
        line that does not begin with a number, or with one that is not finite, leaves the fraction as it was.
        """
        for line in _ENDS.split(self.tail)[0 if self.whole else 1 :]:
            # NUL bytes are what is left where a file was cut short under who writes it.
            text = line.strip(b"\0 \t").decode("utf-8", "replace")
            if text:
                before = _line(text, before)
        if self.batch is not None:
            before = replace(before or Progress(), batch=self.batch)
        return None if before == Progress() else before


def _line(text: str, before: Progress | None) -> Progress:
    fraction: float | None = None
    if (number := _NUMBER.match(text)) is not None:
        text = text[number.end() :]
        if number["digits"]:
            fraction = max(-1.0, min(100.0, float(number["digits"])))
            fraction /= 100.0 if number["percent"] else 1.0
    new = normalize_progress(fraction, text)
    if before is None:
        return new
    fraction = before.fraction if new.fraction is None else new.fraction
    return replace(before, fraction=fraction, message=new.message)


def read(directory: Path) -> ProgressTail:
    """What a payload's file says. Blocks, but waits for nobody: what is no regular file, or cannot be read,
    says nothing."""
    handles: list[int] = []
    try:
        # Neither is followed if it is a link: where a script may not look, it may not have us look.
        handles.append(os.open(f"{directory}/{PROGRESS}", _DIRECTORY))
        handles.append(os.open(FILE, _FILE, dir_fd=handles[0]))
        found = os.fstat(handles[1])
        # A hard link may lead to what the script may not read.
        if stat.S_ISREG(found.st_mode) and find_owner(handles[0]) in (None, found.st_uid):
            start = max(0, found.st_size - TAIL)
            tail = os.pread(handles[1], TAIL, start)
            large = found.st_blocks * 512 > LARGE
            if large:
                _empty(handles, found)
            return ProgressTail(tail, start == 0, large)
    except OSError:
        pass
    finally:
        for handle in handles:
            os.close(handle)
    return ProgressTail()


def _empty(handles: list[int], known: os.stat_result) -> None:
    """Empty the file that was read, unless it is one of the job's files that goes by this name too."""
    handles.append(os.open(FILE, os.O_WRONLY | _FILE, dir_fd=handles[0]))
    found = os.fstat(handles[-1])
    if found.st_nlink == 1 and os.path.samestat(found, known):
        os.ftruncate(handles[-1], 0)


async def follow(
    directory: Path,
    inotify: Inotify,
    tell: Callable[[ProgressTail], Awaitable[object]],
) -> None:
    """Tell what the file of a payload says, until it is cancelled: the first time at once, then once in
    `EVERY` seconds at most, and the newest always. What goes wrong is logged, and ends nothing but the
    telling."""
    try:
        await _follow(directory, inotify, tell)
    except Exception as error:
        log.error("the progress in %s is followed no more", directory, exc_info=error)


async def _follow(
    directory: Path,
    inotify: Inotify,
    tell: Callable[[ProgressTail], Awaitable[object]],
) -> None:
    said, rest, breath = ProgressTail(), trio.current_time(), BREATH
    armed: DirectoryWatch | None = None
    try:
        while True:
            if armed is not None:
                await armed.fired.wait()
            while said.large and trio.current_time() + EMPTIED_EVERY < rest:
                await trio.sleep(EMPTIED_EVERY)
                await trio.to_thread.run_sync(read, directory)
            await trio.sleep_until(rest)
            # Before looking: what changes meanwhile is seen the next time.
            armed = _watch(inotify, directory)
            now = await trio.to_thread.run_sync(read, directory)
            if now.tail and now != said:
                said, rest, breath = now, trio.current_time() + EVERY, BREATH
                await tell(now)
            else:
                said = replace(said, large=now.large)
                rest = trio.current_time() + (EVERY if armed is None else breath)
                breath = min(EVERY, 2 * breath)
    finally:
        if armed is not None:
            armed.disarm()


def _watch(inotify: Inotify, directory: Path) -> DirectoryWatch | None:
    """Tells when to look again; None: from time to time, for the kernel grants no watch."""
    place = directory / PROGRESS
    if (armed := inotify.arm(place)) is not None:
        return armed
    # A script may have removed it, or be one that a node started which knew of no progress.
    armed = inotify.arm_for_new(directory)
    if armed is not None and place.is_dir() and not place.is_symlink():
        armed.disarm()
        return None
    return armed
