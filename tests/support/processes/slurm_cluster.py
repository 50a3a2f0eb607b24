"""A Slurm of one machine, all of it on loopback and in a directory of its own: munged, slurmctld, slurmd, and
slurmdbd with its MariaDB where accounts are wanted."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final


def _missing(*tools: str) -> Sequence[str]:
    return [tool for tool in tools if shutil.which(tool, path=_PATH) is None]


_PATH: Final = f"{os.environ['PATH']}:/usr/sbin"
MISSING: Final = _missing("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
MISSING_ACCOUNTS: Final = _missing("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")
PATIENCE: Final = 60.0
USER: Final = os.environ.get("USER") or "root"

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

_ACCOUNTS_CONF: Final = """\
AuthType=auth/munge
AuthInfo=socket={here}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
PidFile={here}/slurmdbd.pid
LogFile={here}/slurmdbd.log
"""


class SlurmCluster:
    """`environment` is what its commands need."""

    def __init__(self, here: Path, cpus: int, settings: Mapping[str, str], *, accounts: bool) -> None:
        self.here = here
        self.cpus = cpus
        self._settings = dict(settings)
        self._accounts = accounts
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
        if self._accounts:
            self._start_accounts()
        while True:
            self.begin_controller()
            self._begin("slurmd", ["-D", "-f", f"{self.here}/slurm.conf"])
            if self._is_up():
                return
            # A port that was free has been taken by somebody meanwhile.
            self._kill("slurmd", "slurmctld")
            self._configure()

    def _start_accounts(self) -> None:
        data = f"--datadir={self.here}/database"
        made = ["mariadb-install-db", "--no-defaults", data, f"--user={USER}"]
        self.run(*made, "--auth-root-authentication-method=normal", "--skip-test-db")
        own = [f"--socket={self.here}/database.sock", f"--pid-file={self.here}/database.pid"]
        # Who reaches it may do all: it is on loopback, and holds what a test has done.
        own += ["--skip-grant-tables", "--bind-address=127.0.0.1", f"--user={USER}"]
        while True:
            port, database = _free_port(), _free_port()
            self._begin("mariadbd", ["--no-defaults", data, *own, f"--port={database}"])
            conf = self.here / "slurmdbd.conf"
            conf.touch(0o600)
            conf.write_text(_ACCOUNTS_CONF.format(here=self.here, user=USER, port=port, database=database))
            _wait(lambda database=database: self._ended() or _answers(database))
            self._begin("slurmdbd", ["-D"])
            _wait(lambda port=port: self._ended() or _answers(port))
            if not self._ended():
                break
            self._kill("slurmdbd", "mariadbd")
        self._settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": str(port),
            "AccountingStoragePass": f"{self.here}/munge.sock",
        }
        self._configure()
        self.run("sacctmgr", "--immediate", "add", "cluster", "test")

    def _ended(self) -> bool:
        return any(process.poll() is not None for process in self._processes.values())

    def _kill(self, *names: str) -> None:
        for name in names:
            process = self._processes.pop(name)
            process.kill()
            process.wait()

    def _configure(self) -> None:
        usual = _CONF.format(
            host=socket.gethostname().partition(".")[0],
            here=self.here,
            port=_free_port(),
            node_port=_free_port(),
            cpus=self.cpus,
            user=USER,
        )
        lines = [line for line in usual.splitlines() if line.partition("=")[0] not in self._settings]
        lines += [f"{name}={value}" for name, value in self._settings.items()]
        (self.here / "slurm.conf").write_text("\n".join([*lines, ""]))
        (self.here / "cgroup.conf").write_text("CgroupAutomount=no\nConstrainRAMSpace=yes\n")

    def _is_up(self) -> bool:
        """Whether both daemons are, once they are; one of them may have ended."""

        def is_idle() -> bool:
            return "idle" in self.run("sinfo", "--noheader", "--format=%t", "--partition=main")

        _wait(lambda: self._ended() or is_idle())
        return not self._ended()

    def begin_controller(self, *flags: str) -> None:
        """`-c`: it forgets all jobs."""
        self._begin("slurmctld", ["-D", "-f", f"{self.here}/slurm.conf", *flags])

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        """One that is killed forgets the last few seconds."""
        process = self._processes.pop("slurmctld")
        process.send_signal(number)
        process.wait(PATIENCE)

    def stop(self) -> None:
        jobs = subprocess.run(
            ["scancel", "--state=RUNNING", f"--user={USER}"],
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
        path = shutil.which(program, path=_PATH)
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
def slurm_cluster(
    here: Path,
    cpus: int = 4,
    settings: Mapping[str, str] = MappingProxyType({}),
    *,
    accounts: bool = False,
) -> Iterator[SlurmCluster]:
    """One whose node is idle. `settings` of its `slurm.conf` come in the place of the usual ones; `accounts`:
    with a slurmdbd, so that `sacct` tells what has ended."""
    cluster = SlurmCluster(here, cpus, settings, accounts=accounts)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
