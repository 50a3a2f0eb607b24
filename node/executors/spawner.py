"""The agent's side of the spawner: keep one running for a data directory, and hand it payloads to start."""

from __future__ import annotations

import array
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from actors.kernel.complaint import Complaint
from actors.store.durable import is_passing
from actors.store.repair import set_aside
from node.executors.executor import ExecutorError

_log = logging.getLogger(__name__)
_PROGRAM: Final = Path(__file__).with_name("shepherd.py")
LOCK: Final = "spawner.lock"
LOG: Final = "spawner.log"
_LOG_MOST: Final = 1 << 20
"""Bytes that it may have when a spawner begins."""
_READY_WITHIN: Final = 15.0
_ANSWER: Final = 256
"""Bytes of a shepherd's answer at most."""
_RESTART_WITHIN: Final = 10.0
"""How long a start waits for a new spawner."""


class Spawner:
    """One spawner process after another. `serve` owns it; `launch` may be called by any number of tasks."""

    def __init__(self, data_directory: Path, isolations: tuple[str, ...]) -> None:
        self._data_directory = data_directory
        self._isolations = isolations
        self._control: trio.socket.SocketType | None = None
        self._available = trio.Event()
        self._sending = trio.Lock()
        self.isolation = ""
        """What was found to work; empty before `serve` has said that it started."""
        self.pid = 0
        self._complaint = Complaint(_log)

    async def serve(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Start it, and start it again whenever it dies. The first start must succeed."""
        pause = 0.0
        while True:
            begun = trio.current_time()
            try:
                async with self._running() as control:
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await control.recv(1)
            except (ExecutorError, OSError, RuntimeError) as error:
                known = isinstance(error, ExecutorError | OSError) or is_passing(error)
                if not self.isolation or not known:
                    raise
                self._complaint.say("the spawner of payloads cannot be started again yet: %s", error)
            else:
                _log.warning("the spawner of payloads has died; what it started goes on")
            # One that dies at once, again and again, must not take the machine with it.
            pause = 0.0 if trio.current_time() - begun > 5 else min(5.0, pause * 2 or 0.05)
            await trio.sleep(pause)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[trio.socket.SocketType]:
        await trio.to_thread.run_sync(self._prepare)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control = trio.socket.from_stdlib_socket(near)
        try:
            with far:
                process = await self._open(far)
            ready = False
            try:
                self.isolation = await self._hello(control)
                ready = True
                self.pid = process.pid
                self._control = control
                self._available.set()
                yield control
            finally:
                self._control, self.pid = None, 0
                self._available = trio.Event()
                control.close()
                with trio.CancelScope(shield=True):
                    # It ends because its socket did. Killing it is as harmless, should it be stopped, or wait
                    # for a lock.
                    with trio.move_on_after(2 if ready else 0):
                        await process.wait()
                    process.kill()
                    await process.wait()
        finally:
            control.close()

    def _prepare(self) -> None:
        self._data_directory.mkdir(parents=True, exist_ok=True)
        log = self._data_directory / LOG
        for path in (log, self._data_directory / LOCK):
            set_aside(path)
        if log.exists() and log.stat().st_size > _LOG_MOST:
            os.truncate(log, 0)

    async def _open(self, far: socket.socket) -> trio.Process:
        isolations = (self.isolation,) if self.isolation else self._isolations
        lock = self._data_directory / LOCK
        # -I -S and an empty environment: nothing of the agent's settings or packages may matter here.
        python = (sys.executable, "-X", "utf8", "-I", "-S")
        command = [*python, str(_PROGRAM), str(far.fileno()), ",".join(isolations), str(lock)]
        with (self._data_directory / LOG).open("ab") as log:
            return await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
                env={},
                pass_fds=(far.fileno(),),
                start_new_session=True,
            )

    async def _hello(self, control: trio.socket.SocketType) -> str:
        with trio.move_on_after(_READY_WITHIN):
            try:
                answer = (await control.recv(64)).decode()
            except OSError as error:
                raise ExecutorError(f"the spawner of payloads did not start: {error}") from error
            if not answer:
                log = self._data_directory / LOG
                raise ExecutorError(f"the spawner of payloads did not start, see {log}")
            if answer == "none":
                tried = ", ".join(self._isolations)
                raise ExecutorError(f"no way to keep payloads apart works on this machine (tried: {tried})")
            return answer
        raise ExecutorError(
            f"another node uses {self._data_directory}: its spawner has held spawner.lock"
            f" for {_READY_WITHIN:.0f} s"
        )

    async def _current(self) -> trio.socket.SocketType:
        with trio.move_on_after(_RESTART_WITHIN):
            while self._control is None:
                await self._available.wait()
            return self._control
        raise ExecutorError("no spawner of payloads is running")

    async def launch(self, request: bytes) -> str | None:
        """Hand over one request; the shepherd's answer, or None when it or the spawner died before one."""
        control = await self._current()
        # Its answer is one write of a few bytes, which comes whole.
        answer, answering = os.pipe()
        try:
            try:
                passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [answering]))]
                async with self._sending:
                    await control.sendmsg([request], passed)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            finally:
                os.close(answering)
            await trio.lowlevel.wait_readable(answer)
            return os.fsdecode(os.read(answer, _ANSWER)) or None
        finally:
            os.close(answer)
