"""The executor of the node: scripts under shepherds, in the best tier that works on this machine."""

from __future__ import annotations

import errno
import grp
import logging
import math
import os
import resource
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import trio

from actors.domain.limits import UNLIMITED, JobLimits, limits_to_json
from actors.store.durable import is_passing
from node.confinement import seccomp
from node.confinement.grants import Grants
from node.confinement.passwd import Accounts, make_accounts
from node.confinement.tier_facts import BASH, BUBBLEWRAP, LANDLOCK
from node.confinement.tier_settings import NO_UIDS, RANGES, TIERS, TierName, UidRange
from node.confinement.visible import View
from node.executors.exec_script import REQUEST
from node.executors.executor import (
    HOME,
    PROGRESS,
    SCRIPT,
    STDOUT,
    WORK,
    ExecutorError,
    Run,
    RunEnd,
    RunSpec,
    StartedBefore,
)
from node.executors.shepherded_run import (
    ShepherdedRun,
    end_unmarked,
    find_shepherd,
    give_up,
    parse_run_mark,
    read_run_mark,
)
from node.executors.spawner import DirectoryInUse, Leash, Spawner
from node.executors.tiers import TRIAL, Machine, Tier
from node.executors.uids import Uids, find_closed, find_trouble, give_files, owner

log: Final = logging.getLogger("node")
Isolation = Literal["auto", "pidns", "userns", "subreaper"]

_ATTEMPTS: Final = 5
"""How often a start is handed over when the spawner dies amid it."""
_PATIENCE: Final = 30.0
_PAUSE: Final = 0.5
"""Seconds for which, and after which, a start is tried again that found no process or descriptor."""
_TRIAL_WITHIN: Final = 60.0
_MEMORY: Final = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_TAKEN: Final = f"failed prepare {errno.EEXIST}"
_STAGES: Final = {
    "fork": "no process for it",
    "prepare": "its directory or its namespace cannot be prepared",
    "logs": "its logs cannot be opened",
    "directory": "its work directory cannot be entered",
    "limits": "its limits cannot be set",
    "user": "it cannot run as a user of its own",
    "memory": "it cannot be given shared memory of its own",
    "confine": "what it is given cannot be prepared",
    "bubblewrap": "bubblewrap does not start it",
    "exec": "bash cannot be run",
}
_UIDS: Final = "uids of their own"
_ISOLATIONS: Final = {
    "pidns": "Each job has a PID namespace of its own, so nothing of it outlives it",
    "userns": (
        "Each job has a user and a PID namespace of its own, so nothing of it outlives it, and sudo does"
        " not work in it"
    ),
    "subreaper": "No PID namespaces here: all of a job is ended",
}
_LIMITS: Final = {
    "": "not started: how jobs are kept apart is found out at the start.",
    "pidns": (
        "Each job has a PID namespace of its own, so nothing of it outlives it; it runs as this user"
        " (root), is not kept from the node's files, and what it hands to cron or docker is not ended."
    ),
    "userns": (
        "Each job has a user and a PID namespace of its own, so nothing of it outlives it, and sudo does"
        " not work in it; it runs as this user and is not kept from this user's files."
    ),
    "subreaper": (
        "No namespaces here: a job runs as this user and can kill the node, its own shepherd and guard,"
        " and forge its own end mark; all of it is ended, except what it starts by sudo, and what leaves its"
        " session, directory and logs after it has killed both."
    ),
}
"""Of the tier `bash` without uids."""
_SEEN: Final = {
    "bubblewrap": (
        "it sees its own directory and, read-only, what any user of this machine may read, and has no network"
        " unless its service is given it"
    ),
    "landlock": (
        "it reads what any user of this machine may read and writes only its own directory and /dev/shm; it"
        " may change modes and times of files that its user owns"
    ),
    "bash": "it is not kept from what its user may do",
}


@dataclass(frozen=True, slots=True)
class User:
    """Whom a script runs as. `own`: nobody else does."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    accounts: Accounts | None
    """What it reads of them, where something is kept from it, and its name."""
    own: bool


def pack_request(
    spec: RunSpec, directory: str, nonce: str, user: User, *, bash: str, confined: bool, counted: bool
) -> bytes:
    """The request as `exec_script.Request` reads it, of a payload in this directory. `confined`: something is
    kept from it. `counted`: the kernel counts its processes by its user.

    Raises `ExecutorError` for what no process can have.
    """
    limits = spec.limits
    arguments = [bash, *spec.options, f"{directory}/{WORK}/{SCRIPT}"]
    fields = [
        spec.key,
        nonce,
        directory,
        str(spec.grace),
        str(spec.log_limit),
        str(user.uid if user.own else -1),
        str(user.gid),
        " ".join(map(str, user.groups)),
        "" if limits is UNLIMITED else _rlimits(limits, counted=counted),
        "" if limits is UNLIMITED else " ".join(f"{name}={n}" for name, n in limits_to_json(limits).items()),
    ]
    if confined:
        fields += _pack_given(spec, directory, user, arguments)
    else:
        fields += ["", "", "", "0", "", "", f"{len(arguments)} 0 0 0", *arguments]
    environment = spec.environment
    if user.accounts is not None:
        name = user.accounts.name
        environment = {"USER": name, "LOGNAME": name, **environment}
    for variable in environment.items():
        if not variable[0] or "=" in variable[0]:
            raise ExecutorError(f"no environment variable can be called {variable[0]!r}")
        fields += variable
    text = "\0".join(fields)
    if text.count("\0") >= len(fields):
        del fields[len(fields) - 2 * len(environment) :]
        fields += [f"{name}={value}" for name, value in environment.items()]
        wrong = next(field for field in fields if "\0" in field)
        raise ExecutorError(f"a NUL byte in the environment or a path: {wrong!r}")
    packed = os.fsencode(text) + b"\0"
    if len(packed) > REQUEST:
        raise ExecutorError(f"its environment is too large: {len(packed)} bytes in all, {REQUEST} at most")
    return packed


def _pack_given(spec: RunSpec, directory: str, user: User, arguments: list[str]) -> list[str]:
    """What a script is given from which something is kept, and its arguments."""
    here = {name: os.path.isdir(f"{directory}/{name}") for name in (HOME, PROGRESS)}
    grants = spec.grants
    write = [f"{directory}/{PROGRESS}"] if here[PROGRESS] else []
    listed = (arguments, grants.read, (*write, *grants.write), spec.devices)
    return [
        str(int(grants.network)),
        str(int(grants.containers)),
        f"{directory}/{HOME}" if here[HOME] else "",
        str(spec.limits.memory_bytes or _MEMORY // 4),
        "" if user.accounts is None else user.accounts.passwd,
        "" if user.accounts is None else user.accounts.group,
        " ".join(str(len(each)) for each in listed),
        *(str(one) for each in listed for one in each),
    ]


def _rlimits(limits: JobLimits, *, counted: bool) -> str:
    """Those that the kernel keeps for each process, or each user. Never of its address space: there are
    programs that reserve far more than they use (CUDA, JAX, Java)."""
    given = {
        resource.RLIMIT_CORE: 0,
        # The whole of it is looked at; this ends what uses much between two looks.
        resource.RLIMIT_CPU: None if limits.cpu_seconds is None else math.ceil(limits.cpu_seconds) + 1,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_NPROC: limits.processes if counted else None,
    }
    return " ".join(f"{number}={value}" for number, value in given.items() if value is not None)


class ShepherdExecutor:
    """Runs `bash OPTIONS /absolute/path/run.sh`, each under a shepherd of its own.

    `tier`: that one, or the best that works. `uids`: those of which each payload gets one of its own,
    `NO_UIDS` for none; None: those that work, if any. `grants`: all that payloads may be given. `private`:
    files and directories that no payload sees, besides the data directory. `control_groups`: payloads with
    limits run in some, where they can be made.
    """

    outlives_machine: Final = False

    def __init__(
        self,
        data_directory: Path,
        isolation: Isolation = "auto",
        *,
        tier: TierName = "bash",
        uids: UidRange | None = None,
        grants: Iterable[Grants] = (),
        private: Iterable[Path] = (),
        control_groups: bool = True,
    ) -> None:
        self._data = data_directory
        self._isolation = isolation
        self._asked, self._asked_uids = tier, uids
        self._control_groups = control_groups
        self._machine = Machine((data_directory.absolute(), *private))
        self._grants = tuple(grants)
        self._gids: Mapping[str, int] = {}
        self._tier: Tier | None = None
        self._uids: Uids | None = None
        self._spawner: Spawner | None = None
        bash = shutil.which("bash")
        self._bash = os.path.abspath(bash) if bash is not None else ""

    @property
    def name(self) -> str:
        """The tier; `auto` before `serve` has started, if it was to be found."""
        return self._asked if self._tier is None else self._tier.name

    @property
    def isolation(self) -> str:
        """`pidns`, `userns` or `subreaper`; empty before `serve` has started."""
        return "" if self._spawner is None else self._spawner.isolation

    @property
    def controllers(self) -> frozenset[str]:
        """Of control groups, which keep payloads within limits: `memory`, `pids`, `cpu`; those that work."""
        return frozenset() if self._spawner is None else self._spawner.controllers

    @property
    def keeps_processes(self) -> bool:
        """Whether the limit of the processes of a payload is kept. Where no control group counts them they
        are those of its user. In a user namespace they are so since Linux 5.14, but for root's, whom nobody
        counts."""
        return "pids" in self.controllers or self._counts_by_user

    @property
    def _counts_by_user(self) -> bool:
        return self._uids is not None or (self.isolation == "userns" and os.geteuid() != 0)

    @property
    def spawner_pid(self) -> int:
        """0 while there is none."""
        return 0 if self._spawner is None else self._spawner.pid

    @property
    def limits(self) -> str:
        if self._tier is None or (self._tier.name == BASH and self._uids is None):
            said = _LIMITS[self.isolation]
        else:
            user = "as this user" if self._uids is None else "as a user of its own"
            said = f"{_ISOLATIONS[self.isolation]}; it runs {user}; {_SEEN[self._tier.name]}."
        return f"{said} Limits of jobs are kept: {self._describe_limits()}." if self._tier else said

    @property
    def view(self) -> View | None:
        if self._tier is None or self._tier.name == BASH:
            return None
        return self._machine.view(own_uid=self._uids is not None)

    async def serve(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        if not self._bash:
            raise ExecutorError("there is no bash in PATH")
        self._gids = _find_groups(self._grants)
        tried: dict[str, str] = {}
        for tier in await trio.to_thread.run_sync(self._candidates, tried):
            refused: DirectoryInUse | None = None
            async with trio.open_nursery() as nursery:
                try:
                    tried[str(tier)] = await self._try(tier, nursery)
                except DirectoryInUse as error:
                    refused = error
                else:
                    if not tried[str(tier)]:
                        del tried[str(tier)]
                        self._say(tier, tried)
                        task_status.started()
                        await trio.sleep_forever()
                nursery.cancel_scope.cancel()
            self._spawner, self._tier, self._uids = None, None, None
            if refused is not None:
                raise refused
        raise ExecutorError(_no_tier(self._asked, tried))

    def _candidates(self, tried: dict[str, str]) -> list[Tier]:
        """What is to be tried, the best first. Blocks."""
        ranges = list(RANGES) if self._asked_uids is None else [self._asked_uids]
        uids: UidRange | None = None
        if self._asked_uids != NO_UIDS and self._isolation != "userns":
            self._data.mkdir(parents=True, exist_ok=True)
            troubles = {each: find_trouble(each, self._data) for each in ranges}
            uids = next((each for each, trouble in troubles.items() if not trouble), None)
            if uids is None:
                tried[_UIDS] = troubles[ranges[0]]
        if self._gids and uids is None:
            tried[f"groups {', '.join(self._gids)}"] = "they are for jobs that have uids of their own"
        names = TIERS if self._asked == "auto" else (self._asked,)
        candidates = []
        for name in names:
            if uids is not None and (name != BASH or self._asked_uids is not None):
                candidates.append(Tier(name, uids))
            if self._asked_uids in (None, NO_UIDS) and not self._gids:
                candidates.append(Tier(name, None))
        return candidates

    async def _try(self, tier: Tier, nursery: trio.Nursery) -> str:
        """Set this tier up; what goes wrong with it."""
        facts = await trio.to_thread.run_sync(self._machine.describe, tier)
        if isinstance(facts, str):
            return facts
        isolations = tier.isolations
        if self._isolation != "auto":
            isolations = tuple(each for each in isolations if each == self._isolation)
            if not isolations:
                return f"it is not for jobs kept apart by {self._isolation}"
        self._spawner = Spawner(self._data, isolations, facts, control_groups=self._control_groups)
        self._tier = tier
        self._uids = None if tier.uids is None else Uids(tier.uids)
        try:
            await nursery.start(self._spawner.serve)
        except DirectoryInUse:
            raise
        except ExecutorError as error:
            return str(error)
        return "" if tier.name == BASH and tier.uids is None else await self._run_trial()

    async def _run_trial(self) -> str:
        """Run a payload that is no job; what went wrong."""
        trouble = ""
        for place in (self._data, Path("/dev/shm")):
            try:
                trial = await trio.to_thread.run_sync(_make_trial, place)
            except OSError as error:
                trouble = f"no directory for a trial can be made in {place}: {error.strerror}"
                continue
            try:
                trouble = await self._look_at(trial)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(partial(shutil.rmtree, trial, ignore_errors=True))
            if trial.exists():
                return f"the files of payloads cannot be removed, as {trial}"
            if not _is_of_the_disk(trouble):
                break
        return trouble

    async def _look_at(self, trial: Path) -> str:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(trial / HOME),
            "WORK": str(trial / WORK),
            "SECRET": str(trial / "secret"),
            "CONFINED": "" if self.name == BASH else "1",
        }
        run: ShepherdedRun | None = None
        spec = RunSpec(f"trial{secrets.token_hex(8)}", trial, environment)
        try:
            with trio.fail_after(_TRIAL_WITHIN):
                run = await self.start(spec)
                end = await run.wait()
        except trio.TooSlowError:
            if run is not None:
                await run.stop(0.0)
            return f"a trial did not end within {_TRIAL_WITHIN:.0f} s"
        except (ExecutorError, OSError) as error:
            return str(error)
        said = (trial / STDOUT).read_text(errors="replace").strip()
        if end.exit_code != 0 or said != "fine":
            errors = (trial / "stderr.log").read_text(errors="replace").strip()
            if self._uids is not None and self.name != BUBBLEWRAP and (closed := find_closed(trial.parent)):
                return f"such a user gets to its files only when others may enter {closed} (chmod o+x)"
            return said or errors or f"a trial ended with {end.exit_code}, signal {end.signal}"
        if (trial / "secret.by").exists():
            return "a script writes into the node's directory"
        if self._uids is not None:
            # Who has made a file can always open it again; this takes the rights of root.
            try:
                (trial / WORK / "closed").read_bytes()
            except OSError as error:
                return f"results of such a user cannot be read: {error.strerror}"
        return ""

    def _say(self, tier: Tier, tried: Mapping[str, str]) -> None:
        for other, trouble in tried.items():
            if other == _UIDS:
                log.warning("scripts have no %s, and run as this node's user: %s", other, trouble)
            else:
                log.warning("scripts do not run in the tier %s: %s", other, trouble)
        if tier.name == BASH and self._asked != BASH:
            log.warning(
                "scripts are kept from nothing here; what would change that stands above, and --executor bash"
                " is who wants it so"
            )
        if tier.name == BASH and tier.uids is None and os.geteuid() == 0:
            log.warning("scripts run as root here: whoever may submit a job has this machine")
        if tier.name == LANDLOCK and any(each.containers for each in self._grants):
            log.warning(
                "containers = true changes nothing in the tier landlock, under which nobody mounts: scripts"
                " that start containers need the tier bubblewrap"
            )
        if tier.name != BASH and not seccomp.supports(machine := os.uname().machine):
            log.warning(
                "there is no filter for calls of the kernel on %s; docs/security.md says what"
                " that leaves open",
                machine,
            )

    def _describe_limits(self) -> str:
        names = {"memory": "memory", "cpu": "CPU time", "pids": "processes"}
        kept = [name for controller, name in names.items() if controller in self.controllers]
        looked_at = [name for name in ("memory", "CPU time") if name not in kept]
        said = [f"{' and '.join(kept)} by control groups"] if kept else []
        if looked_at:
            said.append(f"{' and '.join(looked_at)} by looking, as no control groups can be made for that")
        if "processes" not in kept:
            said.append(
                "processes by their user" if self.keeps_processes else "that of processes is not kept"
            )
        return "; ".join(said)

    @property
    def leaves_word(self) -> bool:
        return self._uids is None

    def prepare(self, spec: RunSpec) -> bool:
        if self._uids is None:
            return False
        try:
            uid = self._uids.take(spec.key)
        except LookupError:
            raise ExecutorError(f"all uids of {self._uids.range} are in use") from None
        try:
            give_files(spec.directory, uid, enter=self.name != BUBBLEWRAP)
        except OSError as error:
            self._uids.give_back(spec.key)
            raise ExecutorError(f"its files cannot be given to uid {uid}: {error.strerror}") from error
        return True

    async def start(self, spec: RunSpec) -> ShepherdedRun:
        uids = self._uids
        if uids is not None and uids.taken_by(spec.key) is None:
            await trio.to_thread.run_sync(self.prepare, spec)
        directory = str(spec.directory.absolute())
        try:
            user = self._choose_user(spec, directory)
            run = await self._start(spec, directory, user)
        except ExecutorError:
            # Cancelled it may have started, with this uid.
            if uids is not None:
                uids.give_back(spec.key)
            raise
        if uids is not None:
            uids.note(user.uid, run)
            uids.give_back(spec.key)
        return run

    def _choose_user(self, spec: RunSpec, directory: str) -> User:
        """Raises `ExecutorError`."""
        try:
            groups = {name: self._gids[name] for name in spec.grants.groups}
        except KeyError as error:
            raise ExecutorError(f"there was no group {error} when this node started") from None
        own = None if self._uids is None else self._uids.taken_by(spec.key)
        uid, gid = (os.geteuid(), os.getegid()) if own is None else (own, own)
        accounts = None
        if own is not None or self.name != BASH:
            machine = self._machine
            accounts = make_accounts(
                uid, gid, f"{directory}/{HOME}", passwd=machine.passwd, group=machine.group, extra=groups
            )
        return User(uid, gid, tuple(groups.values()), accounts, own is not None)

    async def _start(self, spec: RunSpec, directory: str, user: User) -> ShepherdedRun:
        nonce = os.urandom(16).hex()
        limited = spec.limits is not UNLIMITED
        request = pack_request(
            spec,
            directory,
            nonce,
            user,
            bash=self._bash,
            confined=self.name != BASH,
            counted=limited and "pids" not in self.controllers and self._counts_by_user,
        )
        for _ in range(_ATTEMPTS):
            answer, leash = await self._launch(spec, request)
            # Without an answer only the mark tells whether this try came through.
            mark = read_run_mark(spec) if leash is None else parse_run_mark(leash.run_mark, spec.key)
            if mark is not None and mark.nonce == nonce and answer in (None, "started", _TAKEN):
                return ShepherdedRun(spec, mark, leash)
            if leash is not None:
                leash.close()
            if answer == _TAKEN:
                raise StartedBefore(f"{spec.directory} was started or given up before")
            if answer is not None:
                raise ExecutorError(_reason(answer))
        raise ExecutorError(f"the spawner of payloads died {_ATTEMPTS} times amid this start")

    async def _launch(self, spec: RunSpec, request: bytes) -> tuple[str | None, Leash | None]:
        """The shepherd's answer. What fails for want of processes or descriptors is tried again for a while,
        as long as nothing of it has begun."""
        end: float | None = None
        while True:
            error: OSError | None = None
            answer: str | None = None
            try:
                assert self._spawner is not None
                answer, leash = await self._spawner.launch(spec.key, request, partial(_go_on, spec))
                if leash is not None:
                    return answer, leash
            except OSError as why:
                error = why
            if end is None:
                end = trio.current_time() + _PATIENCE
            if answer is not None and answer.startswith("failed "):
                error = OSError(int(answer.split(maxsplit=3)[2]), "")
            passes = error is not None and is_passing(error) and read_run_mark(spec) is None
            if not passes or trio.current_time() >= end:
                if error is not None and answer is None:
                    raise error
                return answer, None
            await trio.sleep(_PAUSE)

    async def adopt(self, spec: RunSpec) -> Run | RunEnd:
        if self._spawner is not None:
            self._spawner.let_go(spec.key)
        mark = read_run_mark(spec)
        if mark is None:
            await trio.to_thread.run_sync(give_up, spec)
            # Who is called so has written a mark: now, before us, or one that is lost.
            mark = read_run_mark(spec) or await trio.to_thread.run_sync(find_shepherd, spec)
        if mark is None:
            return await end_unmarked(spec)
        run = ShepherdedRun(spec, mark)
        if self._uids is not None:
            if run.alive():
                self._uids.note(await trio.to_thread.run_sync(owner, spec.directory), run)
            self._uids.give_back(spec.key)
        return run if run.alive() else await run.end()


def _go_on(spec: RunSpec) -> None:
    """Continue the shepherd of a payload, if it has come so far as to write its mark."""
    with suppress(OSError):  # Without descriptors: the next time.
        if (mark := read_run_mark(spec)) is not None:
            mark.shepherd.send(signal.SIGCONT)


def _reason(answer: str) -> str:
    """`failed STAGE ERRNO WORDS`, for people."""
    _, stage, number, *words = answer.split(maxsplit=3)
    said = [*words, *([os.strerror(int(number))] if int(number) else [])]
    return ": ".join((_STAGES.get(stage, stage), *said))


def _find_groups(grants: Iterable[Grants]) -> dict[str, int]:
    """Raises `ExecutorError` for one that is not there."""
    found = {}
    for name in dict.fromkeys(name for each in grants for name in each.groups):
        try:
            found[name] = grp.getgrnam(name).gr_gid
        except KeyError:
            raise ExecutorError(
                f"there is no group {name!r} on this machine: make it, or take it out of the service's groups"
            ) from None
    return found


def _no_tier(asked: str, tried: Mapping[str, str]) -> str:
    troubles = "; ".join(f"{tier}: {trouble}" for tier, trouble in tried.items())
    return f"scripts cannot run here as --executor {asked} and --uids want it: {troubles}"


def _make_trial(place: Path) -> Path:
    """Raises `OSError`."""
    trial = Path(tempfile.mkdtemp(prefix="trial-", dir=place.absolute()))
    for name in (WORK, HOME):
        (trial / name).mkdir()
    (trial / WORK / SCRIPT).write_text(TRIAL)
    (trial / "secret").write_text("secret\n")
    (trial / "secret").chmod(0o600)
    return trial


def _is_of_the_disk(trouble: str) -> bool:
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
    return any(os.strerror(number) in trouble for number in numbers)
