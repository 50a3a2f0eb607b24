"""`orchestrator up`: the server in this process, and nodes as processes of their own beside it.

Whatever ends this process, the nodes end with it, and their jobs with them: asked to when it stops in order,
by the kernel when it is killed. Only nodes that were made with the load (`--autoscale`) outlive a kill, as
machines do; the next `up` on the same data takes them over.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trio

from actors.domain.node import NodeAddress
from actors.domain.service import ServiceLimits
from actors.process.identity import end_child
from orchestrator.access.tokens import make_secret
from orchestrator.config.scaling import for_up
from orchestrator.config.settings import SERVICE_VARIABLE, VARIABLES, Settings
from orchestrator.errors import OrchestratorError
from orchestrator.nodes.local_process import GRACE_SECONDS, last_words, read_url, start_bound
from orchestrator.server import serve_orchestrator
from orchestrator.startup import locked

log: Final = logging.getLogger("orchestrator.up")

SERVICE: Final = "example"
START_SECONDS: Final = 30.0
RESTART_SECONDS: Final = 1.0
_READ_HERE: Final = "OPEN_LOCAL"
_OF_SCRIPTS: Final = " node.scripts: "
"""In a node's log, before what it says of what scripts lack."""


class NodeFailed(OrchestratorError):
    """A node process does not start; the text says which one and where its log is."""


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


async def serve_all(plan: Plan, *, shutdown: trio.Event, on_bound: Callable[[str], None]) -> None:
    """Run all of it until `shutdown` is set; no process is left then. Raises NodeFailed, StartError, and what
    the server raises when it cannot start."""
    data = plan.data.absolute()
    with locked(data / "up.lock", f"data directory {data}", "--data"):
        await _serve_all(plan, data, shutdown, on_bound)


def find_ignored(environ: Mapping[str, str]) -> list[str]:
    """The variables that set something of a server, and nothing of the one here; its nodes read their own."""
    known = (*VARIABLES, *(name for name in environ if SERVICE_VARIABLE.fullmatch(name)))
    return sorted(name for name in known if environ.get(name) and name != _READ_HERE)


async def _serve_all(plan: Plan, data: Path, shutdown: trio.Event, on_bound: Callable[[str], None]) -> None:
    if ignored := find_ignored(os.environ):
        verb = "reads it" if len(ignored) == 1 else "reads them"
        log.warning("the server of `up` ignores %s: `orchestrator server` %s", ", ".join(ignored), verb)
    slots = plan.slots or len(os.sched_getaffinity(0))
    # Whoever is on this machine reaches a node before this server does.
    token = make_secret()
    nodes = [
        _NodeProcess(number, data / f"node-{number}", slots, token) for number in range(1, plan.nodes + 1)
    ]
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for node in nodes:
                starting.start_soon(nursery.start, node.keep, shutdown)
        # What scripts lack on this machine is the same for all of them.
        for line in nodes[0].said_of_scripts() if nodes else ():
            log.info("%s", line)
        limits = ServiceLimits(
            SERVICE,
            runs_per_user=plan.runs_per_user,
            max_runs=plan.max_runs,
            addresses=tuple(NodeAddress(node.url, services=(SERVICE,)) for node in nodes),
        )
        settings = Settings(
            port=plan.port,
            db_path=data / "server" / "db.sqlite",
            data_path=data / "server" / "data",
            services={SERVICE: limits},
            scaling={} if plan.autoscale is None else {SERVICE: for_up(SERVICE, *plan.autoscale, slots)},
            end_machines=True,
            node_token=token,
            open_local=os.environ.get("OPEN_LOCAL") or "auto",
        )
        await serve_orchestrator(settings, shutdown=shutdown, on_bound=on_bound)
        shutdown.set()


class _NodeProcess:
    """One node process, started again when it ends by itself: always on the port that it had first."""

    def __init__(self, number: int, data: Path, slots: int, token: str) -> None:
        self.url = ""
        self._name = f"node {number}"
        self._data = data
        self._slots = slots
        self._token = token
        self._log = data.parent / f"node-{number}.log"
        self._logged = 0

    async def keep(
        self, shutdown: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run it until `shutdown`. Reports once it listens. Raises NodeFailed if it never does."""
        while not shutdown.is_set():
            with self._started() as process:
                try:
                    await self._live(process, shutdown, task_status)
                finally:
                    with trio.CancelScope(shield=True):
                        await end_child(process)
            if not shutdown.is_set():
                log.error("%s ended with status %s; it is started again", self._name, process.returncode)
                with trio.move_on_after(RESTART_SECONDS):
                    await shutdown.wait()

    async def _live(
        self, process: subprocess.Popen[bytes], shutdown: trio.Event, task_status: trio.TaskStatus[None]
    ) -> None:
        assert process.stdout is not None
        first = not self.url
        async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as output:
            with trio.move_on_after(START_SECONDS):
                self.url = await read_url(output) or self.url
            if first and not self.url:
                raise NodeFailed(f"{self._name} did not start: {last_words(self._log)}")
            if first:
                task_status.started()
            async with trio.open_nursery() as nursery:

                async def until_shutdown() -> None:
                    await shutdown.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_shutdown)
                # It says nothing more: the end of its output is its end.
                async for _ in output:
                    pass
                nursery.cancel_scope.cancel()

    def said_of_scripts(self) -> list[str]:
        """What it said at its start of what scripts lack here."""
        with self._log.open(errors="replace") as log_file:
            log_file.seek(self._logged)
            found = [line.partition(_OF_SCRIPTS)[2].strip() for line in log_file]
        return [line for line in found if line]

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen[bytes]]:
        port = str(urlsplit(self.url).port or 0)
        options = ["--port", port, "--host", "127.0.0.1", "--data", str(self._data)]
        options += ["--slots", str(self._slots), "--on-stop", "kill", "--grace", str(GRACE_SECONDS)]
        # From this thread, the main one, as `start_bound` wants it.
        with self._log.open("ab") as errors:
            self._logged = errors.tell()
            with start_bound(options, errors, self._token) as process:
                yield process
