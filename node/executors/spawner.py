"""The agent's side of the spawner: keep one running for a data directory, and hand it payloads to start."""

from __future__ import annotations

import array
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from actors.kernel.complaint import Complaint
from actors.store.durable import is_passing, write_all
from actors.store.repair import set_aside
from node.confinement.tier_facts import TierFacts
from node.executors import mark_files
from node.executors.executor import ExecutorError
from node.executors.namespaces import SUBREAPER

_log = logging.getLogger(__name__)
_PROGRAM: Final = Path(__file__).with_name("shepherd.py")
LOCK: Final = "spawner.lock"
LOG: Final = "spawner.log"
VIEW: Final = "view"
"""An empty directory, on which shepherds mount what their scripts see."""
_LOG_MOST: Final = 1 << 20
"""Bytes that it may have when a spawner begins."""
_READY_WITHIN: Final = 15.0
_ANSWER: Final = 4096
"""Bytes of a shepherd's answer at most: a mark, for which it takes half as many on the disk."""
_RESTART_WITHIN: Final = 10.0
"""How long a start waits for a new spawner."""
_NUDGE_EVERY: Final = 1.0
"""Seconds without a word of a start after which its shepherd may have been stopped."""
_SERVES: Final = 200
"""Payloads of one shepherd, which collects no garbage."""
_IDLE: Final = 8
"""Shepherds at most that are kept for payloads to come."""


class DirectoryInUse(ExecutorError):
    """Another node starts payloads in this data directory."""


class Leash:
    """The connection to a shepherd while it watches one payload. Without it, it ends when that has."""

    def __init__(
        self, spawner: Spawner, key: str, connection: socket.socket, served: int, run_mark: bytes
    ) -> None:
        self._spawner = spawner
        self._key = key
        self._connection: socket.socket | None = connection
        self._served = served
        self._reading = trio.Lock()
        self.run_mark = run_mark
        """What the shepherd has written before the script began."""
        self.end_mark = b""
        """What it has written at the end of the payload; empty before it has said so."""
        self.ended = False
        """Whether the shepherd has said that nothing of the payload is left. It may watch another one now."""

    async def wait(self) -> bool:
        """Return when the payload has ended: True; or when the shepherd is gone, or is to end with it: False.
        Any number of tasks may wait."""
        try:
            self._reading.acquire_nowait()
        except trio.WouldBlock:
            await self._reading.acquire()
        try:
            if self._connection is not None:
                try:
                    said = await _hear(self._connection)
                except trio.ClosedResourceError:
                    said = b""
                self.hear(said)
        finally:
            self._reading.release()
        return self.ended

    def hear(self, said: bytes) -> None:
        """What the shepherd has said of the end; nothing when it is gone."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._spawner.forget(self._key)
        if said.startswith(mark_files.ENDED):
            self.ended, self.end_mark = True, said[len(mark_files.ENDED) :]
            self._spawner.keep(connection, self._served)
        else:
            trio.lowlevel.notify_closing(connection)
            connection.close()

    def close(self) -> None:
        """Let the shepherd end with its payload."""
        self.hear(b"")


async def _hear(connection: socket.socket) -> bytes:
    """What a shepherd says next; nothing when it is gone. Not by a socket of trio, whose way costs twice as
    much."""
    try:
        while True:
            await trio.lowlevel.wait_readable(connection)
            try:
                return connection.recv(_ANSWER)
            except BlockingIOError:
                continue
    except OSError:
        return b""


class Spawner:
    """One spawner process after another. `serve` owns it; `launch` may be called by any number of tasks."""

    def __init__(
        self, data_directory: Path, isolations: tuple[str, ...], facts: TierFacts, *, control_groups: bool
    ) -> None:
        self._data_directory = data_directory
        self._isolations = isolations
        self._facts = facts.pack()
        self._groups = "groups" if control_groups else "none"
        self._control: trio.socket.SocketType | None = None
        self._available = trio.Event()
        self._sending = trio.Lock()
        self.isolation = ""
        """What was found to work; empty before `serve` has said that it started."""
        self.controllers: frozenset[str] = frozenset()
        """Those of control groups that work here (`control_groups`)."""
        self.pid = 0
        self._complaint = Complaint(_log)
        self._leashes: dict[str, Leash] = {}
        self._idle: list[tuple[socket.socket, int]] = []
        """Shepherds that wait, the one that has done so for the longest time first, and how many payloads
        each has had."""

    async def serve(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Start it, and start it again whenever it dies. The first start must succeed."""
        try:
            await self._serve(task_status)
        finally:
            for key in list(self._leashes):
                self.let_go(key)
            for connection, _ in self._idle:
                connection.close()
            self._idle.clear()

    async def _serve(self, task_status: Any) -> None:
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
        (self._data_directory / VIEW).mkdir(mode=0o700, exist_ok=True)
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
        facts = os.memfd_create("facts")
        try:
            write_all(facts, self._facts)
            os.lseek(facts, 0, os.SEEK_SET)
            command = [
                *python,
                str(_PROGRAM),
                str(far.fileno()),
                ",".join(isolations),
                str(lock),
                str(facts),
                self._groups,
            ]
            return await self._open_with(command, (far.fileno(), facts))
        finally:
            os.close(facts)

    async def _open_with(self, command: list[str], descriptors: tuple[int, ...]) -> trio.Process:
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        log = os.open(self._data_directory / LOG, how, 0o600)
        try:
            return await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
                env={},
                pass_fds=descriptors,
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def _hello(self, control: trio.socket.SocketType) -> str:
        with trio.move_on_after(_READY_WITHIN):
            try:
                answer, *controllers = (await control.recv(64)).decode().split(" ")
            except OSError as error:
                raise ExecutorError(f"the spawner of payloads did not start: {error}") from error
            if not answer:
                log = self._data_directory / LOG
                raise ExecutorError(f"the spawner of payloads did not start, see {log}")
            if answer == "none":
                tried = ", ".join(self._isolations)
                raise ExecutorError(f"no way to keep payloads apart works on this machine (tried: {tried})")
            self.controllers = frozenset(controllers)
            return answer
        raise DirectoryInUse(
            f"another node uses {self._data_directory}: its spawner has held spawner.lock"
            f" for {_READY_WITHIN:.0f} s"
        )

    async def _current(self) -> trio.socket.SocketType:
        with trio.move_on_after(_RESTART_WITHIN):
            while self._control is None:
                await self._available.wait()
            return self._control
        raise ExecutorError("no spawner of payloads is running")

    async def launch(
        self, key: str, request: bytes, nudge: Callable[[], None]
    ) -> tuple[str | None, Leash | None]:
        """Hand over one request; the shepherd's answer, or None when it or the spawner died before one; and
        what it tells the end by, if the payload has begun. `nudge`: have a stopped shepherd go on."""
        connection, served = await self._ask(request)
        try:
            said = await self._hear_start(connection, nudge)
        except BaseException:
            connection.close()
            raise
        if not said.startswith(mark_files.STARTED):
            connection.close()
            return os.fsdecode(said) or None, None
        mark, ended, end = said[len(mark_files.STARTED) :].partition(mark_files.ENDED)
        leash = self._leashes[key] = Leash(self, key, connection, served + 1, mark)
        if ended:
            leash.hear(ended + end)
        return "started", leash

    async def _hear_start(self, connection: socket.socket, nudge: Callable[[], None]) -> bytes:
        if self.isolation != SUBREAPER:
            return await _hear(connection)
        while True:  # Its script may stop it before it has said that it began.
            with trio.move_on_after(_NUDGE_EVERY):
                return await _hear(connection)
            nudge()

    def let_go(self, key: str) -> None:
        """Let the shepherd of this payload, if it has one, end with it: by that others know the end."""
        if (leash := self._leashes.get(key)) is not None:
            leash.close()

    async def _ask(self, request: bytes) -> tuple[socket.socket, int]:
        """The connection to a shepherd that has got the request, or to nobody."""
        while self._idle:
            connection, served = self._idle.pop(0)
            try:
                # At once: it has read all that it was sent before.
                connection.send(request)
            except OSError:
                connection.close()  # It was killed.
            else:
                return connection, served
        control = await self._current()
        connection, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            with far:
                passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [far.fileno()]))]
                async with self._sending:
                    await control.sendmsg([request], passed)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The spawner has died; so it reads.
        except BaseException as error:
            if isinstance(error, OSError) and not is_passing(error):
                return connection, 0  # The same.
            connection.close()
            raise
        return connection, 0

    def forget(self, key: str) -> None:
        self._leashes.pop(key, None)

    def keep(self, connection: socket.socket, served: int) -> None:
        """For a payload to come."""
        if self.isolation == SUBREAPER or served >= _SERVES or len(self._idle) >= _IDLE:
            connection.close()
        else:
            self._idle.append((connection, served))
