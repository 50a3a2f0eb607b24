"""Slurm, asked by its commands: `sbatch`, `squeue`, `scontrol`, `sacct`, `scancel`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import trio

from actors.process.command_run import OUTPUT_MOST, CommandEnd, run_command
from actors.slurm.states import ENDED, WAITING, bare_state, read_reason, slurm_environment
from node.errors import NodeError
from node.executors.slurm.batch_system import BatchId, BatchJob, OutOfReach, Phase, Refused

PREFIX: Final = "orchestrator-job-"
"""How the names of our jobs begin."""

FORMAT: Final = "%i|%T|%U|%V|%N|%r|%j|."
"""The last field shows that a line is whole. Names of others may contain a bar, ours do not."""
_ACCOUNTED: Final = "JobID,State,UID,Submit,NodeList,JobName"

_ID: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_CLUSTER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_NOT_ANSWERED: Final = re.compile(
    r"unable to contact|timed out|timeout|connect failure|connection|communication|zero bytes|try again"
    r"|temporarily|authentication|munge|configuration source|unexpected message|backup|standby|slurm_persist",
    re.IGNORECASE,
)
"""In what a command says when it did not get as far as to be refused."""
_KILL_AFTER: Final = 5.0
_UNKNOWN: Final = "Invalid job id"


def find_commands(environ: Mapping[str, str]) -> SlurmCommands:
    """Blocks. Raises NodeError where one of them is missing."""
    commands = SlurmCommands(environ)
    if missing := commands.missing():
        raise NodeError(f"--executor: slurm needs {', '.join(missing)} in PATH: run it on a login node")
    return commands


class SlurmCommands:
    """Implements `BatchSystem`. `deadline`: seconds that a command may take."""

    def __init__(self, environ: Mapping[str, str], deadline: float = 30.0) -> None:
        self._deadline = deadline
        self._uid = os.getuid()
        self._at_once = trio.CapacityLimiter(8)
        self._environment = {**slurm_environment(environ), "SLURM_TIME_FORMAT": "%s"}
        self._has_accounts = shutil.which("sacct", path=self._environment.get("PATH")) is not None

    def missing(self) -> Sequence[str]:
        """Those of the commands that are not there; without `sacct` it works, too. Blocks."""
        path = self._environment.get("PATH")
        wanted = ("sbatch", "squeue", "scontrol", "scancel", "timeout")
        return [name for name in wanted if shutil.which(name, path=path) is None]

    async def submit(
        self, name: str, program: str, arguments: Sequence[str], options: Sequence[str]
    ) -> BatchId:
        # Ours come last, and count.
        ours = ["--parsable", "--export=ALL", "--no-requeue", f"--job-name={name}"]
        said = await self._ask("sbatch", [*options, *ours, "/dev/stdin", *arguments], program.encode())
        # Plugins of a site may print lines of their own.
        for line in reversed(said.splitlines()):
            number, _, cluster = line.strip().partition(";")
            if _ID.fullmatch(number) and (not cluster or _CLUSTER.fullmatch(cluster)):
                return BatchId(number, cluster)
        raise OutOfReach(f"sbatch --parsable has to print the job's id, and said {said!r:.200}")

    async def list(self, clusters: Collection[str]) -> Mapping[str, BatchJob]:
        arguments = ["--noheader", "--states=all", f"--user={self._uid}", f"--format={FORMAT}"]
        if any(clusters):
            arguments.append(f"--clusters={','.join(sorted(filter(None, clusters)))}")
        try:
            said = await self._ask("squeue", arguments)
        except Refused as why:
            raise OutOfReach(str(why)) from why
        found: dict[str, BatchJob] = {}
        for job in read_queue(said, self._uid):
            # One that was submitted twice: the other one ends by itself at once.
            if job.name not in found or found[job.name].phase is Phase.ENDED:
                found[job.name] = job
        return found

    async def find(self, job: BatchId, name: str) -> BatchJob | None:
        try:
            said = await self._ask("scontrol", [*_at(job), "--oneliner", "show", "job", job.number])
        except Refused as why:
            if _UNKNOWN not in str(why):
                raise OutOfReach(str(why)) from why
        else:
            found = read_job(said, self._uid)
            if found is None:
                raise OutOfReach(f"scontrol says what cannot be read: {said!r:.200}")
            if found.name == name:
                return found
        return await self._find_accounted(job, name)

    async def _find_accounted(self, job: BatchId, name: str) -> BatchJob | None:
        """Its end by the accounts, where there are any: the controller has said that it knows no such job."""
        if not self._has_accounts:
            return None
        arguments = [*_at(job), "--noheader", "--allocations", "--duplicates", "--parsable2"]
        try:
            said = await self._ask("sacct", [*arguments, f"--jobs={job.number}", f"--format={_ACCOUNTED}"])
        except Refused:
            return None
        # One that is in them only as it once began has ended without their hearing of it.
        found = (one for one in read_accounts(said, self._uid) if one.phase is Phase.ENDED)
        return next((one for one in found if one.name == name), None)

    async def cancel(self, job: BatchId, name: str) -> None:
        await self._signal(job, name)

    async def stop(self, job: BatchId, name: str) -> None:
        await self._signal(job, name, "--state=PENDING")
        await self._signal(job, name, "--signal=TERM", "--batch")

    async def _signal(self, job: BatchId, name: str, *arguments: str) -> None:
        try:
            # With its name: the id may be somebody else's by now.
            await self._ask("scancel", [*_at(job), f"--name={name}", *arguments, job.number])
        except Refused:
            return  # It has ended, or does not run: who cancels looks at what becomes of it.

    async def _ask(self, program: str, arguments: Sequence[str], given: bytes = b"") -> str:
        # `timeout` ends it even if this process does not live to do it: none is left that submits later.
        limit = ["timeout", f"--kill-after={_KILL_AFTER:g}", f"{self._deadline:g}"]
        try:
            async with self._at_once:
                end = await run_command(
                    [*limit, program, *arguments], self._environment, self._deadline + 2 * _KILL_AFTER, given
                )
        except (OSError, ValueError) as error:
            raise OutOfReach(f"{program} cannot be run: {error}") from error
        return _read_answer(program, end)


def _read_answer(program: str, end: CommandEnd) -> str:
    words = " ".join(end.errors.split())[-300:]
    if end.status == 0 and len(end.output) <= OUTPUT_MOST:
        return end.output.decode(errors="replace")
    if end.status in (None, 124, 137):
        raise OutOfReach(f"{program} was not answered in time")
    if end.status == 0:
        raise OutOfReach(f"{program} said more than {OUTPUT_MOST} bytes")
    if end.status < 0 or end.status in (125, 126, 127):
        raise OutOfReach(words or program)
    if not words or _NOT_ANSWERED.search(words):
        raise OutOfReach(words or f"{program} ended with exit code {end.status}, without a word")
    raise Refused(words)


def _at(job: BatchId) -> Sequence[str]:
    return [f"--clusters={job.cluster}"] if job.cluster else []


# ------------------------------------------------------------------ what the commands print


def read_queue(said: str, uid: int) -> Iterator[BatchJob]:
    """What `squeue` says of our jobs. With several clusters each has a line with its name before its own."""
    cluster = ""
    for line in said.split("\n"):
        if line.startswith("CLUSTER: "):
            cluster = line.removeprefix("CLUSTER: ").strip()
            continue
        fields = line.strip().split("|")
        if len(fields) != 8 or fields[7] != ".":
            continue
        number, state, owner, submitted, host, reason, name, _ = fields
        if (
            owner == str(uid)
            and (
                job := _job(
                    number=number, name=name, state=state, reason=reason, submitted=submitted, host=host
                )
            )
            is not None
        ):
            yield _of_cluster(job, cluster)


def _of_cluster(job: BatchJob, cluster: str) -> BatchJob:
    return BatchJob(
        BatchId(job.id.number, cluster), job.name, job.phase, job.state, job.reason, job.submitted, job.host
    )


def read_job(said: str, uid: int) -> BatchJob | None:
    """What `scontrol --oneliner show job` says; None if it cannot be read, or is of somebody else."""
    for line in said.splitlines():
        pairs = (pair.partition("=") for pair in line.split(" "))
        # The first counts: what comes after may be a person's own words.
        values: dict[str, str] = {}
        for key, _, value in pairs:
            values.setdefault(key, value)
        owner = re.search(r"\(([0-9]+)\)", values.get("UserId", ""))
        if owner is None or owner[1] != str(uid) or "JobState" not in values:
            continue
        job = _job(
            number=values.get("JobId", ""),
            name=values.get("JobName", ""),
            state=values["JobState"],
            reason=values.get("Reason", ""),
            submitted=values.get("SubmitTime", ""),
            host=values.get("NodeList", ""),
        )
        if job is not None:
            return job
    return None


def read_accounts(said: str, uid: int) -> Iterator[BatchJob]:
    """What `sacct --parsable2` says."""
    for line in said.splitlines():
        fields = line.split("|")
        if len(fields) != 6:
            continue
        number, state, owner, submitted, host, name = fields
        if owner == str(uid):
            job = _job(number=number, name=name, state=state, reason="", submitted=submitted, host=host)
            if job is not None:
                yield job


def _job(*, number: str, name: str, state: str, reason: str, submitted: str, host: str) -> BatchJob | None:
    if not _ID.fullmatch(number) or not name.startswith(PREFIX):
        return None
    bare = bare_state(state)
    phase = Phase.ENDED if bare in ENDED else Phase.WAITING if bare in WAITING else Phase.RUNNING
    return BatchJob(
        BatchId(number),
        name,
        phase,
        state.strip()[:60],
        read_reason(reason),
        read_time(submitted),
        "" if host in ("(null)", "None assigned") else host[:100],
    )


def read_time(text: str) -> int:
    """Seconds since the epoch; 0 for what is no time, or one that a clock shows twice.

    `SLURM_TIME_FORMAT=%s` makes a number of it. Where a version does not, it is this machine's local time.
    """
    if text.isascii() and text.isdigit() and len(text) < 12:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        first, second = (moment.replace(fold=fold).timestamp() for fold in (0, 1))
    except (ValueError, OverflowError, OSError):
        return 0
    return int(first) if first == second and moment.tzinfo is None else 0
