"""Starting, finding and closing runs: the executor, the workspace around it
(`actors.ports.payloads.Runs`)."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from actors.domain.batch_request import NOTHING_REQUESTED, request_to_json
from actors.domain.failure import Failure
from actors.domain.job import End, change_end
from actors.domain.payload import UNKNOWN, Payload, PayloadMove, RunResult, change_move
from actors.domain.progress import BatchStand
from actors.domain.status import Status
from actors.ports.payloads import Running
from actors.process import procfs
from actors.process.kept_threads import KeptThreads
from actors.runner import without_results
from actors.store.durable import write_plainly
from actors.store.kept_file import Damaged, read_object
from actors.store.reserve import Reserve
from node.confinement.grants import Grants
from node.executors.executor import (
    HOME,
    PROGRESS,
    STDERR,
    Executor,
    ExecutorError,
    NotTaken,
    QueuedRun,
    Run,
    RunEnd,
    RunSpec,
    StartedBefore,
    TellBatch,
    may_queue,
)
from node.host.cards import Card, Cards
from node.host.inotify import Inotify
from node.runs import hints, progress_file
from node.runs.manifest import FrozenManifest, ResultLimit, freeze_manifest
from node.runs.ready_starts import ReadyStarts, make_places, needs_card
from node.runs.received import await_tick, note_given
from node.runs.script_check import ScriptCheck, make_ready
from node.runs.sight import Sight
from node.runs.workspace import INTENT, READY, Workspace

INTENT_MOST: Final = 64 * 1024
"""Bytes of what is left as word of a start."""
THREADS: Final = 40
"""Payloads at most that are made ready, or looked through at their end, at the same time."""
SHORT: Final = 0.25
"""Seconds that a script has run when that is noted, and its progress begins to be followed."""
NEVER_STARTED: Final = "the node went down before it had started"


class ExecutorRuns:
    """Runs of one executor. `environment` is what every script of a service gets, `grants_of` what it may,
    `sight_of` what it sees, which blocks; `grace` in seconds, `log_limit` in bytes. `hear_progress` is told
    what a payload's script says of its progress; it may raise `OSError`. What follows is called in threads:
    `leave_word` says in a payload's directory that somebody has set out to start it, `write_running` since
    when it runs, `write_end` how it ended, which may raise `OSError`; `looked_through` is told of what is
    there to be collected of one that has ended."""

    def __init__(
        self,
        workspace: Workspace,
        executor: Executor,
        *,
        reserve: Reserve,
        environment: Callable[[str], Mapping[str, str]],
        grants_of: Callable[[str], Grants],
        sight_of: Callable[[str], Sight],
        cards: Cards,
        grace: float,
        log_limit: int,
        result_limit: ResultLimit,
        inotify: Inotify,
        hear_progress: Callable[[str, progress_file.ProgressTail], Awaitable[object]],
        leave_word: Callable[[Payload], None],
        write_running: Callable[[Payload], None],
        write_end: Callable[[Payload, PayloadMove], None],
        looked_through: Callable[[Payload, FrozenManifest], None],
        ready: ReadyStarts,
    ) -> None:
        self._ready = ready
        self._looked_through = looked_through
        self._leave_word = leave_word
        self._write_running = write_running
        self._write_end = write_end
        self._reserve = reserve
        self._workspace = workspace
        self._executor = executor
        self._environment = environment
        self._grants_of = grants_of
        self._sight_of = sight_of
        self._cards = cards
        self._grace = grace
        self._log_limit = log_limit
        self._result_limit = result_limit
        self._inotify = inotify
        self._hear_progress = hear_progress
        self._threads = KeptThreads("payloads", THREADS)

    def claim(self, payload: Payload) -> bool:
        return not self._needs_card(payload) or self._cards.claim(payload.key)

    def _needs_card(self, payload: Payload) -> bool:
        return needs_card(self._grants_of(payload.service))

    async def start(self, payload: Payload) -> Running | RunResult:
        intended: tuple[ScriptCheck, ExecutorError | None] | None
        if (options := self._ready.take(payload)) is not None:
            intended = ScriptCheck(options=options), None
        else:
            intend = partial(self._intend, self._spec(payload), payload)
            intended = await self._threads.run(self._reserve.attempt, intend)
        if intended is None:
            # An earlier life of the Runner set out to start it and did not come to say so.
            return await self.adopt(payload)
        checked, trouble = intended
        if checked.invalid:
            return RunResult(invalid=checked.invalid)
        if self._needs_card(payload) and not self._cards.holds(payload.key):
            return RunResult(refused="this machine has no card of NVIDIA (/dev/nvidia0 and on)")
        card = await self._find_card(payload.key)
        try:
            if trouble is not None:
                raise trouble
            run = await self._executor.start(_with_card(self._spec(payload, checked.options), card))
        except StartedBefore:
            return await self.adopt(payload)  # the word that was left of it is lost
        except ExecutorError as why:
            by = Failure.BATCH_SYSTEM if isinstance(why, NotTaken) else Failure.NODE
            return RunResult(refused=str(why), refused_by=by, note=checked.note)
        except OSError as error:
            # Somebody has set out to start it: nobody does so again.
            found = await self.adopt(payload)
            if isinstance(found, RunResult) and found.refused:
                return replace(found, refused=error.strerror or str(error), refused_by=Failure.NODE)
            return found
        if run.is_over:
            return _result(await run.wait(), checked.note, run.pid)
        return self._follow(payload, run, checked.note)

    async def _find_card(self, key: str) -> Card | None:
        if not self._cards.holds(key):
            return None
        return await trio.to_thread.run_sync(self._cards.given, key)

    def _intend(self, spec: RunSpec, payload: Payload) -> tuple[ScriptCheck, ExecutorError | None] | None:
        """Make the script ready and, if it can run, leave word that somebody has set out to start it, and let
        the executor prepare it, with what went wrong with that; None if somebody has set out already. Raises
        `OSError`; nobody has set out then."""
        if self._workspace.is_intended(payload.key):
            return None
        directory = spec.directory
        # Who starts it would put this in the place of the word that is left now.
        (directory / READY).unlink(missing_ok=True)
        checked = make_ready(spec.script)
        if checked.invalid:
            return checked, None
        await_tick(directory)
        make_places(directory)
        self._cards.keep(payload.key)
        try:
            if checked.note:
                write_plainly(directory / INTENT, json.dumps({"note": checked.note}).encode())
            self._leave_word(payload)
        except OSError:
            (directory / INTENT).unlink(missing_ok=True)
            raise
        try:
            if self._executor.prepare(spec):
                note_given(directory, spec.work)
        except ExecutorError as trouble:
            return checked, trouble
        return checked, None

    async def adopt(self, payload: Payload) -> Running | RunResult:
        directory = self._workspace.directory(payload.key)
        note = await trio.to_thread.run_sync(_note, directory)
        # If not, that nothing tells of its start says that there was none.
        ran = payload.started_at is not None or payload.owner == UNKNOWN
        if note is None and not ran and not self._workspace.may_be_starting(payload.key):
            return RunResult(refused=NEVER_STARTED, refused_by=Failure.LOST)
        note = note or ""
        found = await self._executor.adopt(self._spec(payload))
        if isinstance(found, RunEnd):
            # Of what is nobody's, nothing tells in which boot it ended: what it left may not be there.
            if payload.owner == UNKNOWN or (found.never_started and ran):
                return RunResult(unreadable=True, started_at=payload.started_at, note=note)
            return _result(found, note)
        if payload.owner == UNKNOWN:
            # Whose it is, and how long it may run, is known to nobody here: it may run again where that is.
            await found.stop(self._grace)
            return RunResult(unreadable=True, started_at=found.started_at, note=note)
        return self._follow(payload, found, note)

    async def close(self, payload: Payload, move: PayloadMove) -> PayloadMove:
        if self._cards.holds(payload.key):
            await trio.to_thread.run_sync(self._cards.give_back, payload.key)
        closed, said = await self._threads.run(self._close, payload, move)
        if said.tail:
            # Its last word, before its end is told. Nobody waits for it on a disk that has failed.
            with suppress(OSError):
                await self._hear_progress(payload.key, said)
        return closed

    def _close(self, payload: Payload, move: PayloadMove) -> tuple[PayloadMove, progress_file.ProgressTail]:
        """What its script has said last, too. Raises `OSError`."""
        assert move.end is not None
        directory = self._workspace.directory(payload.key)
        freeze = partial(freeze_manifest, directory, self._result_limit, through=payload.through)
        frozen = self._reserve.attempt(freeze)
        end = self._end_with(frozen, payload, move.end)
        move = change_move(move, target=end.status, end=end, written=True)
        said = progress_file.read(directory)
        try:
            self._write_end(payload, move)
        except OSError:
            # The table tries it, for as long as it takes.
            return replace(move, written=False), said
        if not move.lost:
            self._looked_through(payload, frozen)
        return move, said

    def _end_with(self, frozen: FrozenManifest, payload: Payload, end: End) -> End:
        """The end of what has left this."""
        said = [end.message]
        if end.exit_code and end.message.startswith(f"exit code {end.exit_code}"):
            said.append(self._explain(payload.service, end.exit_code, self._workspace.directory(payload.key)))
        if end.started_at is not None:
            # That it outlives the machine tells a batch system's executor, which alone heeds it.
            if payload.batch_request != NOTHING_REQUESTED and not self._executor.outlives_machine:
                said.append(_say_unheeded(payload))
            said.append(frozen.gone)
        end = change_end(end, size=frozen.size, message="; ".join(filter(None, said)))
        return without_results(end, frozen.too_many) if frozen.too_many else end

    def _explain(self, service: str, exit_code: int, directory: Path) -> str:
        said = hints.read_tail(directory / STDERR)
        return hints.explain(exit_code, said, directory.absolute(), self._sight_of(service))

    def _follow(self, payload: Payload, run: Run, note: str) -> _PayloadRun:
        async def follow() -> None:
            await self._threads.run(self._note_running, payload, run)
            tell = partial(self._hear_progress, payload.key)
            await progress_file.follow(self._workspace.directory(payload.key), self._inotify, tell)

        return _PayloadRun(run, note, follow, self._telling(payload.key))

    def _note_running(self, payload: Payload, run: Run) -> None:
        began = replace(payload, status=Status.RUNNING, pid=run.pid, started_at=run.started_at)
        # The executor's mark says the same: this is for who has lost that one.
        with suppress(OSError):
            self._write_running(began)

    def _telling(self, key: str) -> TellBatch:
        async def tell(news: str, batch: BatchStand | None) -> None:
            # A word that is not kept is said anew with the next.
            with suppress(OSError):
                await self._hear_progress(key, progress_file.ProgressTail(news.encode(), batch=batch))

        return tell

    def _spec(self, payload: Payload, options: tuple[str, ...] = ()) -> RunSpec:
        directory = self._workspace.directory(payload.key).absolute()
        home = f"{directory}/{HOME}"
        environment = {
            "HOME": home,
            "TMPDIR": home,
            **self._environment(payload.service),
            "ORCHESTRATOR_JOB_ID": str(payload.job_id or payload.id),
            "ORCHESTRATOR_ATTEMPT": str(payload.n),
            "ORCHESTRATOR_SERVICE": payload.service,
            "ORCHESTRATOR_USER_ID": str(payload.user_id),
            progress_file.VARIABLE: f"{directory}/{PROGRESS}/{progress_file.FILE}",
        }
        return RunSpec(
            payload.key,
            directory,
            environment,
            self._grace,
            options,
            log_limit=self._log_limit,
            limits=payload.limits,
            batch_request=payload.batch_request,
            grants=self._grants_of(payload.service),
            service=payload.service,
            max_runtime=payload.max_runtime,
        )


class _PayloadRun:
    """A run of the executor, as the Runner sees it. `follow` follows one that is not over at once until it is
    cancelled; `tell` is told what a batch system says of it."""

    def __init__(
        self,
        run: Run,
        note: str,
        follow: Callable[[], Awaitable[None]],
        tell: TellBatch,
    ) -> None:
        self._run = run
        self._note = note
        self._follow = follow
        self._tell = tell
        self._born: float | None = None

    @property
    def pid(self) -> int:
        return self._run.pid

    @property
    def started_at(self) -> float:
        return self._run.started_at

    def age(self) -> float:
        if may_queue(self._run) and self._run.queued:
            return -math.inf
        if self._born is None:
            self._born = time.monotonic() - _age(self._run)
        return time.monotonic() - self._born

    async def wait(self) -> Running | RunResult:
        if may_queue(self._run):
            return await self._wait_in_queue(self._run)
        # Of a short script nothing is noted, and what it says is read at its end: to watch it would cost more
        # than it does.
        with trio.move_on_after(SHORT):
            return _result(await self._run.wait(), self._note)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            end = await self._run.wait()
            nursery.cancel_scope.cancel()
        return _result(end, self._note)

    async def _wait_in_queue(self, run: QueuedRun) -> Running | RunResult:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.tell_news, self._tell)
            if run.queued:
                await run.leave_queue()
                nursery.cancel_scope.cancel()
                return self
            nursery.start_soon(self._follow)
            end = await run.wait()
            nursery.cancel_scope.cancel()
        await run.tell_end(self._tell)
        return _result(end, self._note)

    async def stop(self, grace: float) -> None:
        await self._run.stop(grace)


def _with_card(spec: RunSpec, card: Card | None) -> RunSpec:
    if card is None:
        return spec
    grants = replace(spec.grants, read=(*spec.grants.read, *card.read))
    environment = {**spec.environment, **card.environment}
    return replace(spec, grants=grants, environment=environment, devices=card.devices)


def _age(run: Run, now: Callable[[int], float] = time.clock_gettime) -> float:
    """Seconds since the run's process began, by the kernel's reckoning: the wall clock may have jumped."""
    if run.uptime is not None:
        return max(0.0, now(time.CLOCK_BOOTTIME) - run.uptime)
    started = procfs.start_time(run.pid)
    if started is None:
        return max(0.0, time.time() - run.started_at)
    return max(0.0, now(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))


def _say_unheeded(payload: Payload) -> str:
    asked = " and ".join(request_to_json(payload.batch_request))
    return f"its node is no cluster: {asked} had no effect"


def _note(directory: Path) -> str | None:
    """What is to be said of a payload that somebody set out to start; None if nobody did."""
    intent = read_object(directory / INTENT, INTENT_MOST)
    if intent is None:
        return None
    note = "" if isinstance(intent, Damaged) else intent.get("note")
    return note if isinstance(note, str) else ""


def _result(end: RunEnd, note: str, pid: int = 0) -> RunResult:
    if end.never_started:
        by = Failure.LOST if not end.told else Failure.NODE if end.lost else Failure.BATCH_SYSTEM
        return RunResult(refused=end.told or NEVER_STARTED, refused_by=by, note=note)
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
        exceeded=end.exceeded,
        lost=end.lost,
        told=end.told,
        unreadable=end.unreadable,
        note="; ".join(filter(None, (over, note))),
        loss=f"{end.unwritten} bytes of its logs could not be written" if end.unwritten else "",
        pid=pid,
    )
