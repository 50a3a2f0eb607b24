"""The last resort: no namespace holds a payload together, and both its shepherd and its guard were killed.

Then only traces tell what belonged to it: its session, a working directory in its own, the pipes of its logs
kept open. What has shed all three is not found; `ShepherdExecutor.limits` says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path
from typing import Final

import trio

from actors.process import procfs
from actors.store.durable import is_passing

_AGAIN: Final = 0.02
_TRIES: Final = 250


def _stands_below(link: str, directory: Path) -> bool:
    """Whether the directory that `link` leads to is below `directory`: for one too deep to be named."""
    try:
        sought = os.stat(directory)
        handle = os.open(link, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:  # gone, or no directory
        if is_passing(error):
            raise
        return False
    try:
        here = os.fstat(handle)
        while not os.path.samestat(here, sought):
            above = os.open("..", os.O_PATH | os.O_DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle, below = above, here
            here = os.fstat(handle)
            if os.path.samestat(here, below):
                return False  # the root
        return True
    finally:
        os.close(handle)


def _belongs(pid: int, directory: Path, session: int, since: int, pipes: frozenset[str]) -> bool:
    started = procfs.start_time(pid)
    if started is None or started < since or procfs.is_zombie(pid):
        return False
    if procfs.session_of(pid) == session:
        return True
    links = [f"/proc/{pid}/cwd"]
    try:
        links += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError as error:  # gone, or of another user
        if is_passing(error):
            raise
    prefixes = (f"{directory}/work", f"{directory}/std")
    for link in links:
        try:
            target = os.readlink(link)
            if target in pipes or target.startswith(prefixes):
                return True
        except OSError as error:
            if is_passing(error):
                raise
            if error.errno == errno.ENAMETOOLONG and _stands_below(link, directory):
                return True
    return False


def _find(directory: Path, session: int, since: int, pipes: frozenset[str]) -> list[int]:
    own = os.getpid()
    there = directory.resolve()
    return [pid for pid in procfs.all_pids() if pid != own and _belongs(pid, there, session, since, pipes)]


def _kill_once(directory: Path, session: int, since: int, pipes: frozenset[str]) -> bool:
    """Kill all of it that is there now; whether there was any. Blocks: all processes of the machine are
    looked at, with all that they hold open."""
    found = _find(directory, session, since, pipes)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


async def end_leftovers(
    directory: Path, session: int, since: int, pipes: frozenset[str] = frozenset()
) -> bool:
    """Kill what is left of the payload until nothing is; whether anything was. Gives up on what cannot be
    killed after 250 tries, 5 s or more."""
    for tries in range(_TRIES):
        if not await trio.to_thread.run_sync(_kill_once, directory, session, since, pipes):
            return tries > 0
        await trio.sleep(_AGAIN)
    return True
