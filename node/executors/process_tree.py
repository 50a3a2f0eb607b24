"""All the processes of one payload, as their shepherd sees them: asked to end, ended, and counted.

Imported by the shepherd only.
"""

from __future__ import annotations

import contextlib
import os
import resource  # noqa: F401  # what wait4 answers with: imported once, not anew in each shepherd
import signal

from actors.process import procfs

_LISTS = 16


def _signal(pid: int, number: int) -> None:
    # Gone, or of another user by sudo: nothing that we could do about it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


class Tree:
    """The descendants of this process. In a PID namespace the kernel names them: everybody but PID 1."""

    def __init__(self, namespaced: bool, script: int, spent: float = 0.0) -> None:
        """`spent`: seconds of the CPU that the process of the script used before it was that."""
        self._namespaced = namespaced
        self._script = script
        self.status: int | None = None
        """The raw status of the script, when it has ended."""
        self.cpu_seconds = -spent
        self.peak_bytes = 0

    def reap(self) -> bool:
        """Collect all that has ended, and say whether anything is left.

        Each is a child of ours or an orphan that fell to us, so nobody else waits for it.
        """
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._script and self.status is None:  # The number may come again, the script does not.
                self.status = status
            self.cpu_seconds += usage.ru_utime + usage.ru_stime
            self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)

    def pids(self) -> list[int]:
        """All that live, and zombies."""
        own = os.getpid()
        if self._namespaced:
            return [pid for pid in procfs.all_pids() if pid != own]
        return procfs.descendants(own)

    def ask(self) -> None:
        """SIGTERM to all of it, and SIGCONT, or what is stopped would not hear it.

        Parents first: a script that has a trap for it must not see its child gone before it is asked itself.
        """
        if self._namespaced:
            for number in (signal.SIGTERM, signal.SIGCONT):
                _signal(-1, number)
            return
        asked: set[int] = set()
        # Who was forked before its parent was asked is in the next list. Who forks for ever is let be.
        for _ in range(_LISTS):
            if not (found := [pid for pid in procfs.descendants(os.getpid()) if pid not in asked]):
                return
            for pid in found:
                _signal(pid, signal.SIGTERM)
                _signal(pid, signal.SIGCONT)
            asked.update(found)

    def end(self) -> None:
        """SIGKILL until nothing is left. Mostly nothing is: looking for it costs more than asking first."""
        while self.reap():
            if self._namespaced:
                _signal(-1, signal.SIGKILL)
            else:
                self._freeze_and_kill()
            if not self.reap():
                return
            signal.sigtimedwait({signal.SIGCHLD}, 0.02)
            if not self.reap():
                return

    def _freeze_and_kill(self) -> None:
        """Stop all before killing any, or what forks faster than we kill would get away."""
        own = os.getpid()
        stopped: set[int] = set()
        while found := set(procfs.descendants(own)) - stopped:
            for pid in found:
                _signal(pid, signal.SIGSTOP)
            stopped |= found
        for pid in procfs.descendants(own):
            _signal(pid, signal.SIGKILL)
