"""The executor `bash`: the script runs as the node's own user, with all that this user may do."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Final, Literal

import trio

from actors.store.durable import is_passing
from node.executors.exec_script import REQUEST
from node.executors.executor import ExecutorError, Run, RunEnd, RunSpec, StartedBefore
from node.executors.shepherded_run import (
    ShepherdedRun,
    end_unmarked,
    find_shepherd,
    give_up,
    read_run_mark,
)
from node.executors.spawner import Spawner

Isolation = Literal["auto", "pidns", "userns", "subreaper"]

_ATTEMPTS: Final = 5
"""How often a start is handed over when the spawner dies amid it."""
_PATIENCE: Final = 30.0
_PAUSE: Final = 0.5
"""Seconds for which, and after which, a start is tried again that found no process or descriptor."""
_TAKEN: Final = f"failed prepare {errno.EEXIST}"
_STAGES: Final = {
    "fork": "no process for it",
    "prepare": "its directory or its namespace cannot be prepared",
    "logs": "its logs cannot be opened",
    "directory": "its work directory cannot be entered",
    "exec": "bash cannot be run",
}

_LIMITS: Final = {
    "": "not started: how payloads are kept apart is found out at the start.",
    "pidns": (
        "Each payload has a PID namespace of its own, so nothing of it outlives it; it runs as this user"
        " (root), is not kept from the node's files, and what it hands to cron or docker is not ended."
    ),
    "userns": (
        "Each payload has a user and a PID namespace of its own, so nothing of it outlives it, and sudo does"
        " not work in it; it runs as this user and is not kept from this user's files."
    ),
    "subreaper": (
        "No namespaces here: a payload runs as this user and can kill the node, its own shepherd and guard,"
        " and forge its own end mark; all of it is ended, except what it starts by sudo, and what leaves its"
        " session, directory and logs after it has killed both."
    ),
}


def pack_request(spec: RunSpec, nonce: str, arguments: list[str]) -> bytes:
    """The request as `exec_script.Request` reads it.

    Raises `ExecutorError` for what no process can have.
    """
    fields = [
        spec.key,
        nonce,
        str(spec.directory.absolute()),
        str(spec.grace),
        str(spec.log_limit),
        str(len(arguments)),
        *arguments,
    ]
    for name, value in spec.environment.items():
        if not name or "=" in name:
            raise ExecutorError(f"no environment variable can be called {name!r}")
        fields.append(f"{name}={value}")
    for field in fields:
        if "\0" in field:
            raise ExecutorError(f"a NUL byte in the environment or a path: {field!r}")
    packed = b"".join(os.fsencode(field) + b"\0" for field in fields)
    if len(packed) > REQUEST:
        raise ExecutorError(f"its environment is too large: {len(packed)} bytes in all, {REQUEST} at most")
    return packed


class BashExecutor:
    """Runs `bash OPTIONS /absolute/path/run.sh`, each under a shepherd of its own."""

    name: Final = "bash"
    outlives_machine: Final = False

    def __init__(self, data_directory: Path, isolation: Isolation = "auto") -> None:
        if isolation == "auto":
            candidates: tuple[str, ...] = ("userns", "subreaper")
            if os.geteuid() == 0:
                candidates = ("pidns", *candidates)
        else:
            candidates = (isolation,)
        self._spawner = Spawner(data_directory, candidates)
        bash = shutil.which("bash")
        self._bash = os.path.abspath(bash) if bash is not None else ""

    @property
    def isolation(self) -> str:
        """`pidns`, `userns` or `subreaper`; empty before `serve` has started."""
        return self._spawner.isolation

    @property
    def spawner_pid(self) -> int:
        """0 while there is none."""
        return self._spawner.pid

    @property
    def limits(self) -> str:
        return _LIMITS[self.isolation]

    async def serve(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        if not self._bash:
            raise ExecutorError("there is no bash in PATH")
        await self._spawner.serve(task_status=task_status)

    async def start(self, spec: RunSpec) -> ShepherdedRun:
        nonce = secrets.token_hex(16)
        request = pack_request(spec, nonce, [self._bash, *spec.options, str(spec.script.absolute())])
        for _ in range(_ATTEMPTS):
            answer = await self._launch(spec, request)
            mark = read_run_mark(spec)
            # Without an answer only the mark tells whether this try came through.
            if mark is not None and mark.nonce == nonce and answer in (None, "started", _TAKEN):
                return ShepherdedRun(spec, mark)
            if answer == _TAKEN:
                raise StartedBefore(f"{spec.directory} was started or given up before")
            if answer is not None:
                raise ExecutorError(_reason(spec, answer))
        raise ExecutorError(f"the spawner of payloads died {_ATTEMPTS} times amid this start")

    async def _launch(self, spec: RunSpec, request: bytes) -> str | None:
        """The shepherd's answer. What fails for want of processes or descriptors is tried again for a while,
        as long as nothing of it has begun."""
        end = trio.current_time() + _PATIENCE
        while True:
            error: OSError | None = None
            answer: str | None = None
            try:
                answer = await self._spawner.launch(request)
            except OSError as why:
                error = why
            if answer is not None and answer.startswith("failed "):
                error = OSError(int(answer.split()[2]), "")
            passes = error is not None and is_passing(error) and read_run_mark(spec) is None
            if not passes or trio.current_time() >= end:
                if error is not None and answer is None:
                    raise error
                return answer
            await trio.sleep(_PAUSE)

    async def adopt(self, spec: RunSpec) -> Run | RunEnd:
        mark = read_run_mark(spec)
        if mark is None:
            await trio.to_thread.run_sync(give_up, spec)
            # Who is called so has written a mark: now, before us, or one that is lost.
            mark = read_run_mark(spec) or await trio.to_thread.run_sync(find_shepherd, spec)
        if mark is None:
            return await end_unmarked(spec)
        run = ShepherdedRun(spec, mark)
        return run if run.alive() else await run.end()


def _reason(spec: RunSpec, answer: str) -> str:
    """`failed STAGE ERRNO`, for people."""
    _, stage, number = answer.split()
    return f"cannot start {spec.script}: {_STAGES.get(stage, stage)}: {os.strerror(int(number))}"
