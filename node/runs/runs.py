"""Starting, finding and closing runs: the executor, the workspace around it
(`actors.ports.payloads.Runs`)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from actors.domain.job import End
from actors.domain.payload import UNKNOWN, Payload, RunResult
from actors.ports.payloads import Running
from actors.process import procfs
from actors.runner import without_results
from actors.store.durable import write_plainly
from actors.store.kept_file import Damaged, read_object
from actors.store.reserve import Reserve
from node.executors.executor import Executor, ExecutorError, Run, RunEnd, RunSpec, StartedBefore
from node.host.inotify import DirectoryWatch, Inotify
from node.runs import progress_file
from node.runs.manifest import FrozenManifest, ResultLimit, freeze_manifest
from node.runs.received import await_tick
from node.runs.script_check import ScriptCheck, make_ready
from node.runs.workspace import HOME, INTENT, MANIFEST, WORK, Workspace

INTENT_MOST: Final = 64 * 1024
"""Bytes of what is left as word of a start."""
NEVER_STARTED: Final = "the node went down before it had started"


class ExecutorRuns:
    """Runs of one executor. `environment` is what every script gets; `grace` in seconds, `log_limit` in
    bytes. `hear_progress` is told what a payload's script says of its progress; it may raise `OSError`.
    `leave_word` says in a payload's directory, in a thread, that somebody has set out to start it."""

    def __init__(
        self,
        workspace: Workspace,
        executor: Executor,
        *,
        reserve: Reserve,
        environment: Mapping[str, str],
        grace: float,
        log_limit: int,
        result_limit: ResultLimit,
        inotify: Inotify,
        hear_progress: Callable[[str, progress_file.ProgressTail], Awaitable[object]],
        leave_word: Callable[[Payload], None],
    ) -> None:
        self._leave_word = leave_word
        self._reserve = reserve
        self._workspace = workspace
        self._executor = executor
        self._environment = environment
        self._grace = grace
        self._log_limit = log_limit
        self._result_limit = result_limit
        self._inotify = inotify
        self._hear_progress = hear_progress

    async def start(self, payload: Payload) -> Running | RunResult:
        directory = self._workspace.directory(payload.key)
        intend = partial(self._intend, payload, directory)
        checked = await trio.to_thread.run_sync(self._reserve.attempt, intend)
        if checked is None:
            # An earlier life of the Runner set out to start it and did not come to say so.
            return await self.adopt(payload)
        if checked.invalid:
            return RunResult(invalid=checked.invalid)
        # Before the script begins, so that what it says at once is heard without looking for it.
        armed = self._inotify.arm(directory / progress_file.DIRECTORY)
        disarm = armed.disarm if armed is not None else lambda: None
        try:
            run = await self._executor.start(replace(self._spec(payload), options=checked.options))
        except StartedBefore:
            disarm()
            return await self.adopt(payload)  # the word that was left of it is lost
        except ExecutorError as why:
            disarm()
            return RunResult(refused=str(why), note=checked.note)
        except BaseException:
            disarm()
            raise
        return _PayloadRun(run, checked.note, armed, self._following(payload.key, armed))

    def _intend(self, payload: Payload, directory: Path) -> ScriptCheck | None:
        """Make the script ready and, if it can run, leave word that somebody has set out to start it; None if
        somebody has already. Raises `OSError`; nobody has set out then."""
        if self._workspace.is_intended(payload.key):
            return None
        checked = make_ready(directory / WORK / "run.sh")
        if not checked.invalid:
            await_tick(directory)
            for name in (progress_file.DIRECTORY, HOME):
                with suppress(FileExistsError):
                    os.mkdir(directory / name, 0o700)
            # There, so that its end finds room for it however many files the script makes.
            write_plainly(directory / MANIFEST, b"")
            try:
                if checked.note:
                    write_plainly(directory / INTENT, json.dumps({"note": checked.note}).encode())
                self._leave_word(payload)
            except OSError:
                (directory / INTENT).unlink(missing_ok=True)
                raise
        return checked

    async def adopt(self, payload: Payload) -> Running | RunResult:
        directory = self._workspace.directory(payload.key)
        note = await trio.to_thread.run_sync(_note, directory)
        # If not, that nothing tells of its start says that there was none.
        ran = payload.started_at is not None or payload.owner == UNKNOWN
        if note is None and not ran and not self._workspace.is_intended(payload.key):
            return RunResult(refused=NEVER_STARTED, lost=True)
        note = note or ""
        found = await self._executor.adopt(self._spec(payload))
        if isinstance(found, RunEnd):
            if found.never_started and ran:
                return RunResult(unreadable=True, started_at=payload.started_at, note=note)
            return _result(found, note)
        if payload.owner == UNKNOWN:
            # Whose it is, and how long it may run, is known to nobody here: it may run again where that is.
            await found.stop(self._grace)
            return RunResult(unreadable=True, started_at=found.started_at, note=note)
        return _PayloadRun(found, note, None, self._following(payload.key, None))

    async def freeze(self, payload: Payload, end: End) -> End:
        freeze = partial(
            _frozen, self._workspace.directory(payload.key), self._result_limit, through=payload.through
        )
        frozen, said = await trio.to_thread.run_sync(self._reserve.attempt, freeze)
        if said.tail:
            # Its last word, before its end is told. Nobody waits for it on a disk that has failed.
            with suppress(OSError):
                await self._hear_progress(payload.key, said)
        end = replace(end, size=frozen.size)
        if frozen.gone and end.started_at is not None:
            end = replace(end, message="; ".join(filter(None, (end.message, frozen.gone))))
        return without_results(end, frozen.too_many) if frozen.too_many else end

    def _following(self, key: str, armed: DirectoryWatch | None) -> Callable[[], Awaitable[None]]:
        tell = partial(self._hear_progress, key)
        return partial(progress_file.follow, self._workspace.directory(key), self._inotify, armed, tell)

    def _spec(self, payload: Payload) -> RunSpec:
        directory = self._workspace.directory(payload.key).absolute()
        home = str(directory / HOME)
        environment = {
            "HOME": home,
            "TMPDIR": home,
            **self._environment,
            "ORCHESTRATOR_JOB_ID": str(payload.job_id or payload.id),
            "ORCHESTRATOR_ATTEMPT": str(payload.n),
            "ORCHESTRATOR_SERVICE": payload.service,
            "ORCHESTRATOR_USER_ID": str(payload.user_id),
            progress_file.VARIABLE: str(directory / progress_file.DIRECTORY / progress_file.FILE),
        }
        return RunSpec(payload.key, directory, environment, self._grace, log_limit=self._log_limit)


class _PayloadRun:
    """A run of the executor, as the Runner sees it. `follow` follows its progress until it is cancelled; not
    before `armed` has fired, as most scripts tell none."""

    def __init__(
        self, run: Run, note: str, armed: DirectoryWatch | None, follow: Callable[[], Awaitable[None]]
    ) -> None:
        self._run = run
        self._note = note
        self._armed = armed
        self._follow = follow
        self._born: float | None = None

    @property
    def pid(self) -> int:
        return self._run.pid

    @property
    def started_at(self) -> float:
        return self._run.started_at

    def age(self) -> float:
        if self._born is None:
            self._born = time.monotonic() - _age(self._run)
        return time.monotonic() - self._born

    async def wait(self) -> RunResult:
        async with trio.open_nursery() as nursery:
            armed, self._armed = self._armed, None
            if armed is None:
                nursery.start_soon(self._follow)
                end = await self._run.wait()
            else:
                armed.call_when_fired(partial(nursery.start_soon, self._follow))
                try:
                    end = await self._run.wait()
                finally:
                    armed.disarm()
            nursery.cancel_scope.cancel()
        return _result(end, self._note)

    async def stop(self, grace: float) -> None:
        await self._run.stop(grace)


def _age(run: Run, now: Callable[[int], float] = time.clock_gettime) -> float:
    """Seconds since the run's process began, by the kernel's reckoning: the wall clock may have jumped."""
    started = procfs.start_time(run.pid)
    if started is None:
        return max(0.0, time.time() - run.started_at)
    return max(0.0, now(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))


def _frozen(
    directory: Path, limit: ResultLimit, *, through: bool
) -> tuple[FrozenManifest, progress_file.ProgressTail]:
    return freeze_manifest(directory, limit, through=through), progress_file.read(directory)


def _note(directory: Path) -> str | None:
    """What is to be said of a payload that somebody set out to start; None if nobody did."""
    intent = read_object(directory / INTENT, INTENT_MOST)
    if intent is None:
        return None
    note = "" if isinstance(intent, Damaged) else intent.get("note")
    return note if isinstance(note, str) else ""


def _result(end: RunEnd, note: str) -> RunResult:
    if end.never_started:
        return RunResult(refused=NEVER_STARTED, lost=True, note=note)
    over = f"{end.left_out} bytes are missing in its logs: they are over the limit" if end.left_out else ""
    return RunResult(
        exit_code=end.exit_code,
        signal=end.signal,
        started_at=end.started_at or None,
        ended_at=end.ended_at,
        wall_seconds=end.wall_seconds,
        cpu_seconds=end.cpu_seconds,
        peak_bytes=end.peak_bytes,
        supervision_killed=end.supervision_killed,
        asked=end.asked,
        lost=end.lost,
        unreadable=end.unreadable,
        note="; ".join(filter(None, (over, note))),
        loss=f"{end.unwritten} bytes of its logs could not be written" if end.unwritten else "",
    )
