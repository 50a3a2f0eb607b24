"""A node that is PID 1 (in a container) inherits every orphan of its namespace, and must collect it.

Waiting for anybody, as an init would, takes the exit codes that `subprocess` and trio are about to ask for,
which then read 0. So only those children are collected that nobody here has started.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
from typing import Final

import trio

from actors.process import procfs
from actors.store.durable import is_passing

_BETWEEN_LOOKS: Final = 1.0
"""Seconds that a zombie must have been one: a `Popen` under construction does not know its pid yet."""


def _pids_of_waiters() -> set[int]:
    """The children that somebody here will ask about: those of a living `Popen` that was not waited for."""
    return {
        item.pid
        for item in gc.get_objects()
        # Not isinstance: that would ask proxies for their class, and some raise when they are asked.
        if issubclass(type(item), subprocess.Popen) and item.returncode is None and hasattr(item, "pid")
    }


def _zombies() -> set[int]:
    return {pid for pid in procfs.children("self") if procfs.is_zombie(pid)}


def _collect(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


async def reap_orphans() -> None:
    """Collect orphans until cancelled; an orphan is gone within about two seconds of its end.

    To be run in the main thread, where signals arrive. Children made by a bare `os.fork` would be taken for
    orphans: in the node nobody makes any.
    """
    seen: set[int] = set()
    with trio.open_signal_receiver(signal.SIGCHLD) as deaths:
        while True:
            try:
                zombies = _zombies()
            except OSError as error:
                if not is_passing(error):
                    raise
                await trio.sleep(_BETWEEN_LOOKS)
                continue
            if stale := zombies & seen:
                _collect(stale - _pids_of_waiters())
            seen = zombies
            if zombies - (_pids_of_waiters() if stale else set()):
                await trio.sleep(_BETWEEN_LOOKS)
            else:
                async for _ in deaths:
                    break
