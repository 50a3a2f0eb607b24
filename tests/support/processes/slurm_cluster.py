"""A Slurm of one machine, all of it on loopback and in a directory of its own: munged, slurmctld, slurmd."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

NEEDED: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
MISSING: Final = tuple(
    tool for tool in NEEDED if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None
)
PATIENCE: Final = 60.0

_CONF: Final = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={here}/munge.sock
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd.pid
SlurmctldLogFile={here}/slurmctld.log
SlurmdLogFile={here}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
ReturnToService=2
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=300
KillWait=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=first Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class SlurmCluster:
    """`environment` is what its commands need."""

    def __init__(self, here: Path, cpus: int) -> None:
        self.here = here
        self.cpus = cpus
        self.environment = {"SLURM_CONF": f"{here}/slurm.conf"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.here / name).mkdir(parents=True)
        key = self.here / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._configure()
        places = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munge.pid"}
        places |= {"log-file": "munged.log", "seed-file": "munge.seed"}
        files = [f"--{name}={self.here}/{place}" for name, place in places.items()]
        self._begin("munged", ["--foreground", "--force", *files])
        _wait((self.here / "munge.sock").exists)
        while True:
            self.begin_controller()
            self._begin("slurmd", ["-D", "-f", f"{self.here}/slurm.conf"])
            if self._is_up():
                return
            # A port that was free has been taken by somebody meanwhile.
            for name in ("slurmd", "slurmctld"):
                process = self._processes.pop(name)
                process.kill()
                process.wait()
            self._configure()

    def _configure(self) -> None:
        (self.here / "slurm.conf").write_text(
            _CONF.format(
                host=socket.gethostname().partition(".")[0],
                here=self.here,
                port=_free_port(),
                node_port=_free_port(),
                cpus=self.cpus,
                user=os.environ.get("USER") or "root",
            )
        )

    def _is_up(self) -> bool:
        """Whether both daemons are, once they are; one of them may have ended."""

        def has_ended() -> bool:
            return any(process.poll() is not None for process in self._processes.values())

        def is_idle() -> bool:
            return "idle" in self.run("sinfo", "--noheader", "--format=%t", "--partition=main")

        _wait(lambda: has_ended() or is_idle())
        return not has_ended()

    def begin_controller(self) -> None:
        self._begin("slurmctld", ["-D", "-f", f"{self.here}/slurm.conf"])

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        """One that is killed forgets the last few seconds."""
        process = self._processes.pop("slurmctld")
        process.send_signal(number)
        process.wait(PATIENCE)

    def stop(self) -> None:
        jobs = subprocess.run(
            ["scancel", "--state=RUNNING", f"--user={os.environ.get('USER') or 'root'}"],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        if jobs.returncode == 0:
            _wait(lambda: not self.run("squeue", "--noheader", "--states=RUNNING,COMPLETING").strip())
        for process in reversed(list(self._processes.values())):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _begin(self, program: str, arguments: Sequence[str]) -> None:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
        assert path is not None
        with (self.here / f"{program}.out").open("ab") as output:
            self._processes[program] = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.here,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )


class CountedCommands:
    """Slurm's commands, in a directory that goes first in PATH, each of which counts how often it was run."""

    names: Final = ("sbatch", "squeue", "scontrol", "sacct", "scancel")

    def __init__(self, here: Path) -> None:
        self._here = here
        here.mkdir()
        self.environment = {"PATH": f"{here}:{os.environ['PATH']}"}
        for name in self.names:
            real = shutil.which(name)
            program = here / name
            program.write_text(f'#!/bin/sh\necho >> {program}.count\nexec {real} "$@"\n')
            program.chmod(0o755)

    def __getitem__(self, name: str) -> int:
        count = self._here / f"{name}.count"
        return len(count.read_bytes()) if count.exists() else 0


@contextmanager
def slurm_cluster(here: Path, cpus: int = 4) -> Iterator[SlurmCluster]:
    """One whose node is idle."""
    cluster = SlurmCluster(here, cpus)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline
        time.sleep(0.05)
