"""What every executor offers: a payload is started, waited for, stopped, and found again after a restart.

The values are plain so that a server of the node, or a simulation of it, needs to know nothing of processes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeGuard

from actors.domain.batch_request import NOTHING_REQUESTED, BatchRequest
from actors.domain.limits import UNLIMITED, JobLimits
from actors.domain.progress import BatchStand
from node.confinement.grants import NOTHING_GRANTED, Grants
from node.confinement.visible import View
from node.errors import NodeError

SCRIPT: Final = "run.sh"
WORK: Final = "work"
"""The job's own directory inside the payload's: the script's working directory."""
HOME: Final = "home"
"""Its home, which is also its place for temporary files."""
PROGRESS: Final = "progress"
"""Where it says how far it has come."""
STDOUT: Final = "stdout.log"
STDERR: Final = "stderr.log"
SUPERVISION: Final = "run"
"""What is there once an executor has taken a payload for started."""
LOG_LIMIT: Final = 100 << 20


class ExecutorError(NodeError):
    """A payload could not be started, or the means to start payloads are missing."""


class NotTaken(ExecutorError):
    """The batch system does not take what the job asks for: it would not do so from another node either."""


class StartedBefore(ExecutorError):
    """It was started, or given up, at some time before: `Executor.adopt` tells which."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One payload to run.

    `directory` belongs to this payload alone, exists, and is closed to others (0700). It contains `work/`
    with `run.sh`, and `home/` and `progress/` if the script is to have them; the run adds `stdout.log`,
    `stderr.log`, and the marks of its executor.
    """

    key: str
    directory: Path
    environment: Mapping[str, str]
    """All of the script's environment, not an addition to the node's."""
    grace: float = 5.0
    """Seconds between SIGTERM and SIGKILL when somebody else than `Run.stop` asks the shepherd to end."""
    options: tuple[str, ...] = ()
    """For bash, before the script."""
    log_limit: int = LOG_LIMIT
    """Bytes of each log that are kept: its head and its tail."""
    grants: Grants = NOTHING_GRANTED
    service: str = ""
    max_runtime: float = 0.0
    """Seconds after which it is ended by who follows it; 0: never."""
    devices: tuple[Path, ...] = ()
    """What of the bundles in its grants it has been given."""
    limits: JobLimits = UNLIMITED
    batch_request: BatchRequest = NOTHING_REQUESTED

    @property
    def work(self) -> Path:
        return self.directory / WORK

    @property
    def script(self) -> Path:
        return self.directory.joinpath(WORK, SCRIPT)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a payload ended.

    Exactly one of `exit_code` and `signal` is set, unless one of the four flags says why nothing is known.
    Times are seconds since the epoch by the wall clock; `wall_seconds` comes from the monotonic one.
    """

    exit_code: int | None
    signal: int | None
    started_at: float
    ended_at: float
    wall_seconds: float
    cpu_seconds: float
    """User and system time of all that ran, children and orphans included."""
    peak_bytes: int
    """Resident memory of the largest single process. Below about 10 MB it only says "no more than this"."""
    asked: bool = False
    """It was asked to end, by this process of the node or an earlier one, before it had ended by itself."""
    left_out: int = 0
    """Bytes of its logs over their limit, which are missing in them."""
    unwritten: int = 0
    """Bytes of its logs that the disk did not take."""
    supervision_killed: bool = False
    """What watched the payload died without a word; all of the payload has been killed."""
    lost: bool = False
    """It ran when the machine went down."""
    exceeded: str = ""
    """The limit that it was over, by the name that `JobLimits` has for it, or `machine_memory`: the machine
    had no more memory. `processes` only if it failed besides."""
    never_started: bool = False
    """It did not run and never will."""
    told: str = ""
    """What a batch system says of its end. It is no success then. Of what never started: why; `lost` says
    then that the job is not to blame."""
    unreadable: bool = False
    """What would tell its end is damaged or gone. Nothing of it lives."""


class Run(Protocol):
    """A payload that was started and may have ended since."""

    @property
    def pid(self) -> int:
        """The process to look at from outside: the one that watches the payload."""
        ...

    @property
    def started_at(self) -> float: ...

    @property
    def uptime(self) -> float | None:
        """When it started, in seconds since the machine did, sleep included; None: as that process did."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it is known to have ended, so that `wait` need not wait."""
        ...

    async def wait(self) -> RunEnd:
        """Return when the payload has ended and nothing of it is left.

        One task may wait; it may be cancelled.
        """
        ...

    async def stop(self, grace: float) -> None:
        """End it: SIGTERM to all of it, after `grace` seconds SIGKILL; return when nothing of it lives.

        Grace 0 kills at once. Harmless when repeated, and when it has ended.
        """
        ...


TellBatch: TypeAlias = Callable[[str, BatchStand | None], Awaitable[object]]
"""Is told news of a job in a batch system: a line for people, empty for none, and how it stands there."""


class QueuedRun(Run, Protocol):
    """One that waits for its turn in a batch system first."""

    @property
    def queued(self) -> bool:
        """Whether it has not begun, as far as is known."""
        ...

    async def leave_queue(self) -> None:
        """Return when it has begun, or never will."""
        ...

    async def tell_news(self, tell: TellBatch) -> None:
        """Tell what it waits for, and where it runs, until it is cancelled. Raises what `tell` raises."""
        ...

    async def tell_end(self, tell: TellBatch) -> None:
        """Once it has ended, tell what the batch system has said of that, if it has."""
        ...


def may_queue(run: Run) -> TypeGuard[QueuedRun]:
    """Whether it is such a one. `isinstance` would look for each of its parts, at every start."""
    return hasattr(run, "leave_queue")


class Executor(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def limits(self) -> str:
        """One sentence: how payloads are kept apart here, and what that does not cover."""
        ...

    @property
    def view(self) -> View | None:
        """What of the machine's files payloads see; None: what the node sees. Known once it serves."""
        ...

    @property
    def outlives_machine(self) -> bool:
        """Whether what it runs goes on when this machine goes down: then another boot is no loss, and what is
        done to a payload is written through at once."""
        ...

    @property
    def leaves_word(self) -> bool:
        """Whether `start` needs no `prepare`, and has the word of a start count that was written before
        (`mark_files.leave_word`). Known once it serves."""
        ...

    def prepare(self, spec: RunSpec) -> bool:
        """Do what `start` would need a thread for, and tell whether its files have another owner now. Blocks;
        without it `start` does it. Raises `ExecutorError` when it cannot be started."""
        ...

    async def start(self, spec: RunSpec) -> Run:
        """Start a payload, once and only once for each directory.

        Raises `ExecutorError` when it cannot be started, `NotTaken` where that is the job's fault. When it is
        cancelled the payload may have started or not: `adopt` tells.
        """
        ...

    async def adopt(self, spec: RunSpec) -> Run | RunEnd:
        """Find a payload that an earlier process of the node was starting or had started.

        One that has not started by now never will.
        """
        ...

    async def serve(self, *, task_status: Any) -> None:
        """Keep what is needed to start payloads; `task_status.started()` when it is there.

        Runs until it is cancelled. That leaves the payloads running.
        """
        ...
