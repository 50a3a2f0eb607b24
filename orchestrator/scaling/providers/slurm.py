"""The provider `slurm`: nodes as allocations of a cluster. Each is a batch job whose script starts a node,
which dials out and joins with the machine's token.

What is whose is in the batch job's name, `jobo-OWNER-TOKEN-SERVICE`: an allocation is ours by that alone, and
none is cancelled by an id that is somebody else's by now. One that waits in Slurm's queue is no machine that
boots; one that was preempted is no failed boot.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from actors.domain.scaling import Machine, MachineEnd, UnreadableMachine
from actors.ports.scaling import ProviderError
from actors.slurm.states import ENDED, TAKEN_AWAY, WAITING, bare_state, read_reason, slurm_environment
from orchestrator.config.scaling import SlurmSettings
from orchestrator.scaling.providers.command import run_command

_NAME: Final = re.compile(r"jobo-([0-9a-f]{32})-([0-9a-f]{32})-(\S{1,64})", re.ASCII)
_ID: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_LISTED: Final = "%i|%T|%j|%r"
STOPPING: Final = 60.0
"""Seconds before its end at which an allocation is told to stop."""
LINGERING: Final = 600.0
"""Seconds beyond the idle time of scaling after which a node stops by itself: nobody has ended it."""


class SlurmProvider:
    """Implements `Provider` for the orchestrator that is called `owner`. `slots`, `idle`: of a node, and the
    seconds after which scaling ends an idle one, by service. `scripts`: a directory of its own."""

    name = "slurm"

    def __init__(
        self,
        settings: SlurmSettings,
        *,
        slots: Mapping[str, int],
        idle: Mapping[str, float],
        join_url: str,
        owner: str,
        scripts: Path,
    ) -> None:
        self._settings = settings
        self._slots = slots
        self._idle = idle
        self._join_url = join_url
        self._scripts = scripts
        self.owner = owner
        self._environment = slurm_environment(os.environ)

    async def create(self, token: str, service: str) -> Machine:
        # Nothing has been done yet when this fails.
        for known in await self._listed(certain=True):
            if isinstance(known, Machine) and (known.token, known.owner) == (token, self.owner):
                if known.ended is None:
                    return known
                raise ProviderError("the allocation of this token has ended already", certain=True)
        self._scripts.mkdir(parents=True, exist_ok=True, mode=0o700)
        script = self._scripts / f"{token}.sh"
        script.touch(0o600)
        script.write_text(batch_script(self._settings, token, service, self._node_options(service)))
        try:
            said = await self._run("sbatch", [*self._options(token, service), str(script)])
        finally:
            script.unlink(missing_ok=True)  # Slurm has a copy of its own
        machine_id = said.strip().partition(";")[0]
        if not _ID.fullmatch(machine_id):
            raise ProviderError(f"sbatch --parsable has to print the job's id, and said {said!r:.200}")
        return Machine(machine_id, token, service, running=False, owner=self.owner, waiting=True)

    async def list(self) -> Sequence[Machine | UnreadableMachine]:
        return await self._listed()

    async def terminate(self, machine_ids: Sequence[str]) -> None:
        if not machine_ids:
            return
        ours = {
            one.machine_id
            for one in await self._listed()
            if isinstance(one, Machine) and one.owner == self.owner and one.ended is None
        }
        if wanted := [machine_id for machine_id in machine_ids if machine_id in ours]:
            await self._run("scancel", wanted)

    # ------------------------------------------------------------------ the commands

    async def _listed(self, *, certain: bool = False) -> Sequence[Machine | UnreadableMachine]:
        """The allocations of all orchestrators of this account, those too that have ended lately."""
        try:
            user = self._environment.get("USER") or str(os.geteuid())
            arguments = ["--noheader", "--states=all", f"--user={user}", f"--format={_LISTED}"]
            said = await self._run("squeue", arguments)
        except ProviderError as error:
            error.certain = certain
            raise
        found = [_read_line(line) for line in said.splitlines()]
        return [one for one in found if one is not None]

    async def _run(self, program: str, arguments: Sequence[str]) -> str:
        return await run_command(program, [program, *arguments], self._environment, self._settings.deadline)

    def _options(self, token: str, service: str) -> Sequence[str]:
        settings = self._settings
        given = {
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "cpus-per-task": settings.cpus and str(settings.cpus),
            "mem": settings.memory,
            "gres": settings.gres,
        }
        minutes = max(1, -int(-settings.max_runtime // 60))
        return [
            "--parsable",
            *(f"--{name}={value}" for name, value in given.items() if value),
            *settings.arguments,
            f"--job-name=jobo-{self.owner}-{token}-{service}",
            f"--time={minutes}",
            f"--signal=B:TERM@{STOPPING:.0f}",
            "--no-requeue",
            f"--output={settings.log}",
        ]

    def _node_options(self, service: str) -> Sequence[str]:
        lifetime = max(1.0, self._settings.max_runtime - STOPPING)
        return [
            *("--join", self._join_url, "--join-services", service, "--dial-out"),
            *("--slots", str(self._slots.get(service, 1)), "--on-stop", "kill"),
            *("--lifetime", f"{lifetime:.0f}"),
            *("--idle-timeout", f"{self._idle.get(service, 0.0) + LINGERING:.0f}"),
        ]


def batch_script(settings: SlurmSettings, token: str, service: str, options: Sequence[str]) -> str:
    """What an allocation runs. The token stands in no argument: whoever lists processes sees these."""
    return f"""#!/bin/sh
# A node of the job orchestrator for the service {service}.
umask 077
here=$(mktemp -d "${{TMPDIR:-/tmp}}/orchestrator-node-XXXXXX") || exit 1
trap 'rm -rf "$here"' EXIT
printf 'machine = "%s"\\n' {token} > "$here/node.toml"
{settings.setup}
{settings.node_command} --config "$here/node.toml" --data "$here/data" {shlex.join(options)} &
node=$!
trap 'kill -TERM "$node"' TERM
wait "$node"
status=$?
# Once more: a signal ends the first one before the node has.
wait "$node" 2>/dev/null || exit "$status"
"""


def _read_line(line: str) -> Machine | UnreadableMachine | None:
    """What a line of `squeue` tells; None for what is no allocation of any orchestrator."""
    machine_id, _, rest = line.partition("|")
    state, _, rest = rest.partition("|")
    name, bar, reason = rest.rpartition("|")
    match = _NAME.fullmatch(name)
    if match is None:
        # Of somebody who has made a name like ours, or cut off amid one.
        return UnreadableMachine(f"squeue says {line!r:.200}") if "jobo-" in line and not bar else None
    if not _ID.fullmatch(machine_id):
        return UnreadableMachine(f"squeue says {line!r:.200}")
    owner, token, service = match[1], match[2], match[3]
    ended = None
    bare = bare_state(state)
    if bare in ENDED:
        ended = MachineEnd(f"Slurm says {state}" + _because(reason), blameless=bare in TAKEN_AWAY)
    waiting = bare in WAITING
    return Machine(
        machine_id,
        token,
        service,
        running=ended is None and not waiting,
        owner=owner,
        waiting=waiting,
        ended=ended,
        note=f"waits in Slurm{_because(reason)}" if waiting else "",
    )


def _because(reason: str) -> str:
    known = read_reason(reason)
    return f": {known}" if known else ""
