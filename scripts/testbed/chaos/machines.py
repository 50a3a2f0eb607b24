"""Processes that are killed and come back, as under a service manager."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import httpx
import psutil
import trio

from testbed.chaos.diary import Diary
from testbed.cluster import ClusterFailed, Member, stop, wait_until_listening

AFTER_CRASH: Final = 0.5
"""Seconds until what ended by itself is started again."""


class Machine:
    """One process after the other: the orchestrator, or one node. `launch` starts the next; `on_up` is told
    where it listens, and `on_down` that it does not any more."""

    def __init__(
        self,
        name: str,
        diary: Diary,
        launch: Callable[[], Member],
        on_up: Callable[[str], None],
        on_down: Callable[[], None],
    ) -> None:
        self.name = name
        self.lives = 0
        self.member: Member | None = None
        self._diary = diary
        self._launch = launch
        self._on_up = on_up
        self._on_down = on_down
        self._expected = False
        self._pause = AFTER_CRASH
        self._meanwhile: list[Callable[[], object]] = []
        self._starving = trio.Lock()
        self._up = trio.Event()
        self._begins = trio.Event()
        diary.away(name, "down")

    @property
    def pid(self) -> int:
        return 0 if self.member is None else self.member.pid

    async def keep(self) -> None:
        """Start it, and start it again whenever it has ended. Cancelled, it leaves the process as it is.

        Raises ClusterFailed when it cannot even be started for the first time.
        """
        while True:
            self._expected, self._pause = False, AFTER_CRASH
            member = self.member = self._launch()
            self.lives += 1
            self._begins.set()
            self._begins = trio.Event()
            pidfd = os.pidfd_open(member.pid)
            try:
                with suppress(ClusterFailed):  # it has ended before it listened, and that is told below
                    await trio.to_thread.run_sync(wait_until_listening, member, abandon_on_cancel=True)
                    if not self._expected:  # killed in the instant in which it came up
                        self._up.set()
                        self._diary.back(self.name, "down")
                        self._on_up(member.url)
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
            status = member.process.wait()
            self._fall()
            if not self._expected and self.lives == 1 and not member.url:
                raise ClusterFailed(f"{self.name} ended with status {status}: {member.last_words()}")
            if not self._expected:
                self._diary.wrong(f"{self.name} ended by itself with {status}: {member.last_words()}")
            await trio.sleep(self._pause)
            while self._meanwhile:
                self._meanwhile.pop()()

    async def up(self) -> None:
        """Return when it listens."""
        while not self._up.is_set():
            await self._up.wait()

    async def next_life(self) -> None:
        """Return when it is started again."""
        await self._begins.wait()

    def kill(self, pause: float, meanwhile: Callable[[], object] | None = None) -> bool:
        """SIGKILL; it is started again `pause` seconds later, when `meanwhile` was called. False when there
        was nothing to kill."""
        if self.member is None or self._expected or self.member.process.poll() is not None:
            return False
        self._expected, self._pause = True, pause
        self._meanwhile += [] if meanwhile is None else [meanwhile]
        self._diary.note(f"{self.name}: kill -9 of {self.pid}, back in {pause:.2f} s")
        self.member.process.kill()
        self._fall()
        return True

    def _fall(self) -> None:
        if self._up.is_set():  # whoever waits, waits for the one that is not set
            self._up = trio.Event()
        self._on_down()
        self._diary.away(self.name, "down")

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        member = self.member
        if member is None or member.process.poll() is not None:
            return
        self._diary.away(self.name, "stopped")
        member.process.send_signal(signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
        finally:
            member.process.send_signal(signal.SIGCONT)
            self._diary.back(self.name, "stopped")

    async def starve(self, seconds: float) -> bool:
        """It can open nothing more for so long, as soon as it listens; what it has open stays. False when it
        has just ended."""
        async with self._starving:  # else the second would take the limit of the first for the right one
            await self.up()  # one that is only about to begin finds no modules, and that is its end
            try:
                process = psutil.Process(self.pid)
                before = process.rlimit(psutil.RLIMIT_NOFILE)
                process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), before[1]))
            except psutil.NoSuchProcess:
                return False
            self._diary.away(self.name, "without descriptors")
            try:
                await trio.sleep(seconds)
            finally:
                with suppress(psutil.NoSuchProcess):  # it was killed meanwhile
                    process.rlimit(psutil.RLIMIT_NOFILE, before)
                self._diary.back(self.name, "without descriptors")
        return True

    async def answers_again(self, within: float) -> bool:
        """Whether it answers a new connection within so many seconds, unless it is, or was meanwhile, away
        for another reason than the one that has just passed."""
        spells = self._diary.spells(self.name)
        with trio.move_on_after(within):
            async with httpx.AsyncClient(timeout=within, trust_env=False) as client:
                while self.member is not None and self._diary.reachable([self.name]):
                    with suppress(httpx.HTTPError):
                        if (await client.get(f"{self.member.url}/health")).status_code == 200:
                            return True
                    await trio.sleep(0.1)
        return self._diary.spells(self.name) > spells or not self._diary.reachable([self.name])

    def kill_spawner(self) -> None:
        for pid in self.spawners():
            self._diary.note(f"{self.name}: kill -9 of its spawner {pid}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def spawners(self) -> list[int]:
        """What starts this node's payloads: its own child, unlike the shepherds."""
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                if any(part.endswith("shepherd.py") for part in child.cmdline()):
                    found.append(child.pid)
        return found

    def begin(self) -> None:
        """Start it and wait until it listens. Raises ClusterFailed. Not while `keep` runs."""
        self.member = self._launch()
        wait_until_listening(self.member)

    def end(self) -> None:
        """End it in order. Raises ClusterFailed if that fails. Not while `keep` runs."""
        if self.member is not None:
            with suppress(ProcessLookupError):
                self.member.process.send_signal(signal.SIGCONT)
            stop(self.member)
