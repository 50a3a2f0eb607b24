"""The executor `slurm`: each payload is a batch job of a cluster, which goes on whatever becomes of the node.

There is one question for all of them at a time, by `BatchSystem.list`. That the batch system cannot be asked
says nothing of any job; neither does it that a job is missing in a list: only a second, different question
(`BatchSystem.find`) after a while does.
"""

from __future__ import annotations

import base64
import inspect
import logging
import marshal
import math
import resource
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import trio

from actors.domain.batch_request import BatchRequest
from actors.domain.limits import JobLimits
from actors.kernel.complaint import Complaint
from actors.store.kept_file import Damaged
from node.executors import log_pipes, mark_files
from node.executors.executor import ExecutorError, NotTaken, Run, RunEnd, RunSpec, StartedBefore
from node.executors.slurm import batch_program
from node.executors.slurm.batch_system import (
    BatchId,
    BatchJob,
    BatchSystem,
    OutOfReach,
    Phase,
    Refused,
)
from node.executors.slurm.slurm_run import SlurmRun, give_up, make_order, read_batch_id, read_order
from node.host.inotify import Inotify
from node.slurm_settings import SlurmOptions

log: Final = logging.getLogger("node.slurm")

FASTEST: Final = 1.0
SLOWEST: Final = 15.0
"""Seconds from one question to the next; longer while there is no news."""
ABSENT: Final = 5.0
"""Seconds for which a job is missing in lists before it is asked about by itself."""
UNTOLD: Final = 600.0
"""Seconds for which that question may stay without an answer while lists have one, as where the accounts are
down: then it is taken for forgotten."""
SETTLED: Final = 45.0
"""Seconds after which a submission that was not answered has failed, if it is not listed: the command has
ended by then, and the controller has read what it was sent."""
LINGERS: Final = 15.0
"""Seconds after its own end mark after which a job that is still listed is cancelled, and between two tries:
a controller that was killed may never hear that it has ended, and keeps its CPUs for it."""
REMEMBERED: Final = 600.0
"""Seconds for which what has ended is looked for in lists: a controller that was killed forgets the last few
seconds, and may hold for running what it had told to have ended."""
_EARLIEST: Final = 60.0
"""Seconds by which the batch system's own limit of time is later than ours, which says what it was."""

NEVER_STARTED: Final = RunEnd(None, None, 0.0, 0.0, 0.0, 0.0, 0, never_started=True)


class SlurmExecutor:
    """`options_of`: what is set for a service."""

    name: Final = "slurm"
    limits: Final = (
        "Payloads are batch jobs of this account in Slurm, which keeps them within memory, CPUs and time as"
        " far as it is set up to; they are not kept from each other's files, nor from this account's, and can"
        " forge each other's end marks. Limits of processes and of disk are not kept."
    )
    view: Final = None
    outlives_machine: Final = True

    def __init__(
        self,
        batch: BatchSystem,
        options_of: Callable[[str], SlurmOptions],
        *,
        fastest: float = FASTEST,
        slowest: float = SLOWEST,
        absent: float = ABSENT,
        untold: float = UNTOLD,
        settled: float = SETTLED,
        lingers: float = LINGERS,
    ) -> None:
        self._batch = batch
        self._options_of = options_of
        self._fastest, self._slowest = fastest, slowest
        self._absent, self._untold = absent, untold
        self._settled, self._lingers = settled, lingers
        self._inotify = Inotify()
        self._watched: dict[SlurmRun, int] = {}
        self._leaving: dict[SlurmRun, float] = {}
        """Those that have ended by their own mark, since when, until the batch system says so too."""
        self._left: dict[SlurmRun, float] = {}
        """Those of which it has said so, oldest first, and when they ended."""
        self._wanted = trio.Event()
        self._complaint = Complaint(log)

    # ------------------------------------------------------------------ starting and finding

    leaves_word: Final = False

    def prepare(self, spec: RunSpec) -> bool:
        return False

    async def start(self, spec: RunSpec) -> Run:
        try:
            nonce = await trio.to_thread.run_sync(make_order, spec, _rlimits(spec.limits))
        except FileExistsError as error:
            raise StartedBefore("it was submitted before") from error
        run = self._make(spec, nonce)
        try:
            await self._submit(run)
        except OutOfReach as why:
            # It may have been submitted: the run finds out, and submits it again if it was not.
            self._say_out_of_reach(why)
        if run.refused:
            await trio.to_thread.run_sync(give_up, spec.directory)
            kind = NotTaken if run.is_the_jobs_fault else ExecutorError
            raise kind(f"Slurm does not take it: {run.refused}")
        return run

    async def adopt(self, spec: RunSpec) -> Run | RunEnd:
        order = await trio.to_thread.run_sync(read_order, spec.directory)
        if order is None:
            if await trio.to_thread.run_sync(give_up, spec.directory):
                return NEVER_STARTED
            order = Damaged("it is gone")
        if isinstance(order, Damaged):
            return RunEnd(None, None, 0.0, 0.0, 0.0, 0.0, 0, unreadable=True)
        return self._make(spec, order, await trio.to_thread.run_sync(read_batch_id, spec.directory))

    def _make(self, spec: RunSpec, nonce: str, known: tuple[BatchId, int] | None = None) -> SlurmRun:
        return SlurmRun(spec, nonce, self._batch, self._inotify, watch=self._watch, known=known)

    async def _submit(self, run: SlurmRun) -> None:
        """Raises `OutOfReach`."""
        run.asked_at = trio.current_time()
        options = self._options_of(run.spec.service)
        program = make_program(options.python or sys.executable)
        try:
            found = await self._batch.submit(
                run.name, program, [str(run.spec.directory)], make_options(options, run.spec)
            )
        except Refused as why:
            run.refuse(str(why))
        else:
            await run.submitted(found)

    # ------------------------------------------------------------------ asking

    def _watch(self, run: SlurmRun) -> Callable[[], None]:
        self._watched[run] = self._watched.get(run, 0) + 1
        self._wanted.set()

        def unwatch() -> None:
            self._watched[run] -= 1
            if not self._watched[run]:
                del self._watched[run]
                if run.over:
                    where = self._left if run.settled else self._leaving
                    where[run] = trio.current_time()

        return unwatch

    async def serve(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._inotify.hear)
            task_status.started()
            pace = self._fastest
            while True:
                # Who is new is asked about after a while: many begin at once.
                if not self._watched and not self._leaving:
                    self._wanted = trio.Event()
                    await self._wanted.wait()
                    pace = self._fastest
                before = set(self._watched)
                with trio.move_on_after(pace):
                    await self._has_more(before)
                if not self._leaving and all(run.settled for run in self._watched):
                    await trio.sleep(self._fastest)
                    continue
                try:
                    news = await self._look()
                except OutOfReach as why:
                    self._say_out_of_reach(why)
                    news = False
                pace = self._fastest if news else min(self._slowest, 1.5 * pace)

    async def _has_more(self, before: set[SlurmRun]) -> None:
        """Return when there are others, but not before the quickest pace."""
        await trio.sleep(self._fastest)
        while set(self._watched) <= before:
            self._wanted = trio.Event()
            await self._wanted.wait()

    def _say_out_of_reach(self, why: OutOfReach) -> None:
        self._complaint.say("Slurm does not answer; its jobs stay as they are: %s", why)

    async def _look(self) -> bool:
        """Ask about all at once; whether there is news. Raises `OutOfReach`."""
        asked = [run for run in self._watched if not run.settled]
        clusters = {run.batch_id.cluster for run in (*asked, *self._leaving) if run.batch_id is not None}
        begun = trio.current_time()
        listed = await self._batch.list(clusters)
        await self._end_lingering(listed, begun)
        news = False
        unanswered: OutOfReach | None = None
        for run in asked:
            news |= await run.hear(listed.get(run.name))
            if run.batch_id is None:
                # Nothing of it was under way when the list was made.
                if run.asked_at + self._settled < begun:
                    if run.queued:
                        log.info("payload %s is not in Slurm: it is submitted again", run.spec.key)
                        await self._submit(run)
                    else:
                        run.forget()  # it was there, and another one of its name would only end
                    news = True
            elif run.absent_since + self._absent <= trio.current_time():
                try:
                    found = await self._batch.find(run.batch_id, run.name)
                except OutOfReach as why:
                    if trio.current_time() < run.absent_since + self._untold:
                        unanswered = why
                        continue
                    found = None
                if found is None:
                    run.forget()
                else:
                    await run.hear(found)
                news = True
        if unanswered is not None:
            raise unanswered
        return news

    async def _end_lingering(self, listed: Mapping[str, BatchJob], now: float) -> None:
        """Raises `OutOfReach`."""
        for run, since in list(self._left.items()):
            if since + REMEMBERED <= now:
                del self._left[run]
            elif run.name in listed and listed[run.name].phase is Phase.RUNNING:
                del self._left[run]
                self._leaving[run] = now
        for run, since in list(self._leaving.items()):
            job = listed.get(run.name)
            if job is None or job.phase is Phase.ENDED:
                del self._leaving[run]
                self._left[run] = now
            elif since + self._lingers <= now:
                self._leaving[run] = now
                log.info("payload %s has ended, and Slurm still has it: it is cancelled there", run.spec.key)
                await self._batch.cancel(job.id, run.name)


# ------------------------------------------------------------------ what is submitted


@lru_cache(maxsize=8)
def make_program(python: str) -> str:
    """The batch job's program, for this Python. It brings all that it needs: it may run long after this
    version of the node has gone.

    It begins as soon as it can: of `json` and `signal` it takes what is in C, for the rest of them is longer
    imported than Python is started, and its code is compiled if it meets the Python that has compiled it.
    """
    # In the order in which they need each other.
    sources = {
        module.__name__: inspect.getsource(module) for module in (log_pipes, mark_files, batch_program)
    }
    codes = {name: compile(source, name, "exec", dont_inherit=True) for name, source in sources.items()}
    # Slurm keeps it for each job: packed, it is twice as large with them.
    packed = base64.b64encode(zlib.compress(marshal.dumps(codes)))
    return f"""#!{python} -IS
import sys, types
try:
    import _json, _signal
    how = dict(strict=True, parse_float=float, parse_int=int, parse_constant=None)
    how.update(object_hook=None, object_pairs_hook=None, memo={{}})
    scan = _json.make_scanner(types.SimpleNamespace(**how))
    json = types.ModuleType("json")
    json.load = lambda file: scan(file.read(), 0)[0]
    sys.modules.update(json=json, signal=_signal)
except (ImportError, AttributeError, TypeError):
    pass  # another Python than that of C, which has them whole
codes = {{}}
if (sys.implementation.name, sys.hexversion) == {(sys.implementation.name, sys.hexversion)!r}:
    import binascii, marshal, zlib
    codes = marshal.loads(zlib.decompress(binascii.a2b_base64({packed!r})))
sources = {sources!r}
for name in ("node", "node.executors", "node.executors.slurm", *sources):
    module = sys.modules[name] = types.ModuleType(name)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    exec(codes.get(name) or compile(sources.get(name, ""), name, "exec"), module.__dict__)
sys.exit(sys.modules[{batch_program.__name__!r}].main(sys.argv[1]))
"""


def make_options(options: SlurmOptions, spec: RunSpec) -> list[str]:
    """What `sbatch` is told of a payload."""
    limit = options.time_limit
    if spec.max_runtime > 0:
        limit = min(limit or math.inf, spec.max_runtime + _EARLIEST)
    memory = spec.limits.memory_bytes or options.memory
    if options.memory and spec.limits.memory_bytes:
        memory = min(options.memory, spec.limits.memory_bytes)
    given: Mapping[str, str] = {
        **_show(options),
        "time": str(math.ceil(limit / 60)) if limit else "",
        "mem": f"{math.ceil(memory / 1024)}K" if memory else "",
    }
    place = str(spec.directory).replace("%", "%%")
    return [
        *(f"--{name}={value}" for name, value in given.items() if value),
        *options.arguments,
        # After all that the node has: the last one counts.
        *(f"--{name}={value}" for name, value in _show(spec.batch_request).items() if value),
        f"--chdir={spec.directory}",
        f"--output={place}/slurm.log",
        f"--error={place}/slurm.log",
    ]


def _show(wanted: SlurmOptions | BatchRequest) -> Mapping[str, str]:
    return {
        "partition": wanted.partition,
        "account": wanted.account,
        "qos": wanted.qos,
        "cpus-per-task": str(wanted.cpus) if wanted.cpus else "",
        "gres": f"gpu:{wanted.gpus}" if wanted.gpus else "",
    }


def _rlimits(limits: JobLimits) -> dict[int, int]:
    """Those that the kernel keeps for each process."""
    given = {
        resource.RLIMIT_CPU: None if limits.cpu_seconds is None else math.ceil(limits.cpu_seconds) + 1,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
    }
    return {number: value for number, value in given.items() if value is not None}
