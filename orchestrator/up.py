"""`orchestrator up`: a server and its nodes as processes beside this one, which keeps them.

Whatever ends this process, the others end with it, and their jobs with them: asked to when it stops in order,
by the kernel when it is killed. Only nodes that were made with the load (`--autoscale`) outlive a kill, as
machines do; the next `up` on the same data takes them over. Any other of them that ends by itself is started
again on the port that it had, and the rest does not notice: a server that is new finds its jobs on its nodes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trio

from actors.process.identity import STOP_SECONDS, end_child
from orchestrator.access.tokens import make_secret
from orchestrator.errors import OrchestratorError
from orchestrator.exclusive_use import locked
from orchestrator.nodes.local_process import (
    GRACE_SECONDS,
    last_words,
    read_url,
    start_bound,
    start_bound_server,
)

log: Final = logging.getLogger("orchestrator.up")

NODE_START_SECONDS: Final = 30.0
RESTART_SECONDS: Final = 1.0
SERVER_STOP_SECONDS: Final = 10.0
"""Seconds that the server has to end in order."""
_OF_SCRIPTS: Final = " node.scripts: "
"""In a node's log, before what it says of what scripts lack."""


class NodeFailed(OrchestratorError):
    """A node process does not start; the text says which one and where its log is."""


class ServerFailed(OrchestratorError):
    """The server does not start; the text is empty where it has said why itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `slots` None: as many as there are cores that may be used."""

    port: int
    nodes: int
    slots: int | None
    runs_per_user: int
    max_runs: int
    data: Path
    autoscale: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """What the server of `up` is told to do. `nodes` are base URLs, `node_token` is what they pair by, `data`
    the directory of all of `up`."""

    port: int
    nodes: tuple[str, ...]
    slots: int
    runs_per_user: int
    max_runs: int
    data: str
    autoscale: tuple[int, int] | None
    node_token: str = field(repr=False)

    def as_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Serving:
        told = json.loads(line)
        autoscale = told["autoscale"] and tuple(told["autoscale"])
        return cls(**(told | {"nodes": tuple(told["nodes"]), "autoscale": autoscale}))


class Up:
    """The server and the nodes of a plan."""

    def __init__(self, plan: Plan, on_bound: Callable[[str], None]) -> None:
        """`on_bound` is called with the server's URL when it listens for the first time."""
        self._plan = plan
        self._server = _ServerProcess(on_bound)

    async def serve(self, shutdown: trio.Event) -> None:
        """Run all of it until `shutdown` is set; no process is left then. Raises NodeFailed, ServerFailed,
        StartError."""
        data = self._plan.data.absolute()
        with locked(data / "up.lock", f"data directory {data}", "--data"):
            await self._serve(data, shutdown)

    async def restart_server(self) -> None:
        """Have the server end in order, and another take its place: once it listens, and once however often
        that is asked of the same one."""
        self._server.replace()

    async def _serve(self, data: Path, shutdown: trio.Event) -> None:
        plan = self._plan
        slots = plan.slots or len(os.sched_getaffinity(0))
        # Whoever is on this machine reaches a node before this server does.
        token = make_secret()
        nodes = [
            _NodeProcess(number, data / f"node-{number}", slots, token) for number in range(1, plan.nodes + 1)
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.keep, shutdown)
            async with trio.open_nursery() as starting:
                for node in nodes:
                    starting.start_soon(nursery.start, node.keep, shutdown)
            # What scripts lack on this machine is the same for all of them.
            for line in nodes[0].said_of_scripts() if nodes else ():
                log.info("%s", line)
            serving = Serving(
                port=plan.port,
                nodes=tuple(node.url for node in nodes),
                slots=slots,
                runs_per_user=plan.runs_per_user,
                max_runs=plan.max_runs,
                data=str(data),
                autoscale=plan.autoscale,
                node_token=token,
            )
            self._server.tell(serving)


class _KeptProcess(ABC):
    """A process that is started again when it ends by itself: always on the port that it had first."""

    def __init__(self, name: str, start_seconds: float, stop_seconds: float) -> None:
        self.url = ""
        self._name = name
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._replaced = trio.Event()
        """Whether the process that is there is to make room for another."""
        self._told_to_end = False

    @property
    def port(self) -> int:
        """Where it has listened; 0 before that."""
        return urlsplit(self.url).port or 0

    async def keep(
        self, shutdown: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run it until `shutdown`. Reports once it listens, or `shutdown` came before. Raises what it failed
        by if it never listens."""
        while not shutdown.is_set():
            first = not self.url
            self._replaced, self._told_to_end = trio.Event(), False
            with self._start() as process:
                try:
                    listened = await self._live(process, shutdown, task_status)
                finally:
                    with trio.CancelScope(shield=True):
                        await end_child(process)
            if first and not listened and not shutdown.is_set():
                raise self._failure(process.returncode)
            if not shutdown.is_set():
                level = logging.ERROR if process.returncode else logging.INFO
                log.log(level, "%s ended with status %s; it is started again", self._name, process.returncode)
                with trio.move_on_after(0 if listened else RESTART_SECONDS):
                    await shutdown.wait()

    async def _live(
        self, process: subprocess.Popen[bytes], shutdown: trio.Event, task_status: trio.TaskStatus[None]
    ) -> bool:
        """Follow the process to its end, or to that of its time to stop. True if it has listened."""
        assert process.stdout is not None
        first, url = not self.url, ""
        async with (
            trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as output,
            trio.open_nursery() as nursery,
        ):

            async def stop_in_time(asked: trio.Event, ask: Callable[[subprocess.Popen[bytes]], None]) -> None:
                await asked.wait()
                ask(process)
                await trio.sleep(self._stop_seconds)
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_in_time, shutdown, self._ask_to_end)
            with trio.move_on_after(self._start_seconds):
                url = await self._hear(process, output)
            self.url = url or self.url
            if first and not url and not shutdown.is_set():
                nursery.cancel_scope.cancel()
                return False
            if first:
                task_status.started()
            if url:
                # Not before: a program that starts would be killed by it, and not end in order.
                nursery.start_soon(stop_in_time, self._replaced, self._terminate)
            # It says nothing more: the end of its output is its end.
            async for _ in output:
                pass
            nursery.cancel_scope.cancel()
        return bool(url)

    @abstractmethod
    def _start(self) -> subprocess.Popen[bytes]:
        """Start it on its port; its output is a pipe."""

    @abstractmethod
    def _failure(self, status: int) -> OrchestratorError:
        """Why it has not listened, and ended with the exit `status`."""

    async def _hear(self, process: subprocess.Popen[bytes], output: trio.abc.ReceiveStream) -> str:
        """Where it listens, once it does; "" if it ends before."""
        return await read_url(output)

    def _ask_to_end(self, process: subprocess.Popen[bytes]) -> None:
        self._terminate(process)

    def _terminate(self, process: subprocess.Popen[bytes]) -> None:
        """Once: asked twice, a process breaks off what is under way."""
        if not self._told_to_end:
            self._told_to_end = True
            process.terminate()


class _NodeProcess(_KeptProcess):
    def __init__(self, number: int, data: Path, slots: int, token: str) -> None:
        super().__init__(f"node {number}", NODE_START_SECONDS, STOP_SECONDS)
        self._data = data
        self._slots = slots
        self._token = token
        self._log = data.parent / f"node-{number}.log"
        self._logged = 0

    def said_of_scripts(self) -> list[str]:
        """What it said at its start of what scripts lack here."""
        with self._log.open(errors="replace") as log_file:
            log_file.seek(self._logged)
            found = [line.partition(_OF_SCRIPTS)[2].strip() for line in log_file]
        return [line for line in found if line]

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--port", str(self.port), "--host", "127.0.0.1", "--data", str(self._data)]
        options += ["--slots", str(self._slots), "--on-stop", "kill", "--grace", str(GRACE_SECONDS)]
        # From this thread, the main one, as `start_bound` wants it.
        with self._log.open("ab") as errors:
            self._logged = errors.tell()
            return start_bound(options, errors, self._token)

    def _failure(self, status: int) -> OrchestratorError:
        return NodeFailed(f"{self._name} did not start: {last_words(self._log)}")


class _ServerProcess(_KeptProcess):
    """The server. Its input ends when everything does; where it is only told to end, another takes its place,
    so nodes that were made with the load are left to that."""

    def __init__(self, on_bound: Callable[[str], None]) -> None:
        super().__init__("the server", math.inf, SERVER_STOP_SECONDS)
        self._on_bound = on_bound
        self._serving: Serving | None = None
        self._told = trio.Event()

    def tell(self, serving: Serving) -> None:
        """What it serves, which it waits for."""
        self._serving = serving
        self._told.set()

    def replace(self) -> None:
        """See `Up.restart_server`."""
        self._replaced.set()

    def _start(self) -> subprocess.Popen[bytes]:
        return start_bound_server()

    def _failure(self, status: int) -> OrchestratorError:
        killed = f"the server was ended by signal {-status} before it listened"
        return ServerFailed(*([killed] if status < 0 else []))

    async def _hear(self, process: subprocess.Popen[bytes], output: trio.abc.ReceiveStream) -> str:
        await self._told.wait()
        assert self._serving is not None and process.stdin is not None
        first = not self.url
        serving = replace(self._serving, port=self.port or self._serving.port)
        with suppress(BrokenPipeError, ValueError):  # it has ended, or its input was closed for it to end
            os.write(process.stdin.fileno(), serving.as_line())
        url = await read_url(output)
        if first and url:
            self._on_bound(url)
        return url

    def _ask_to_end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        self._terminate(process)
