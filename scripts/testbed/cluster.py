"""A server and its nodes as real processes on loopback: every port a free one, all data in one directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import psutil

SERVICE: Final = "example"
LISTENING: Final = "listening on "
START_SECONDS: Final = 60.0
"""How long a process may take until it listens; a second where nothing else runs."""
STOP_SECONDS: Final = 15.0
"""How long it may take to end after SIGTERM before it is killed."""

begin: Callable[..., subprocess.Popen[str]] = subprocess.Popen
"""How a process is begun, as `subprocess.Popen` has it; tests have a cheaper one."""

_OURS: Final = frozenset({"PORT", "HOST", "DB_PATH", "DATA_PATH", "MAX_AGE"})


class ClusterFailed(Exception):
    """A process did not start, ended by itself or did not end; the text says which and what it said last."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The service's quotas, and what the server may take in one upload, in bytes."""

    runs_per_user: int = 5
    max_runs: int = 10
    upload_limit: int = 400 << 20


@dataclass(slots=True)
class Member:
    """One process. `url` is where it listens, `listening_after` how many seconds it took until it did;
    `began` is when it was started, by the monotonic clock."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    began: float
    url: str = ""
    listening_after: float = 0.0
    told_to_end: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def pid(self) -> int:
        return self.process.pid

    def terminate(self) -> None:
        """Tell it to end, once: a server that is told twice breaks off. Its end is none of its own then."""
        if self.process.poll() is None and not self.told_to_end:
            self.told_to_end = True
            self.process.send_signal(signal.SIGTERM)

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-3:]) or "nothing on standard error"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What runs. `db_path` is the server's ledger."""

    server: Member
    nodes: tuple[Member, ...]
    directory: Path
    db_path: Path

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def members(self) -> tuple[Member, ...]:
        return (self.server, *self.nodes)

    def check(self) -> None:
        """Raises ClusterFailed if a process has ended by itself."""
        for member in self.members:
            status = member.process.poll()
            if status is not None:
                raise ClusterFailed(f"{member.name} ended with status {status}: {member.last_words()}")


@contextmanager
def running_cluster(
    directory: Path,
    *,
    nodes: int,
    slots: int,
    limits: Limits | None = None,
    within: Callable[[str], Sequence[str]] = lambda _name: (),
    more: Mapping[str, str] | None = None,
    node_arguments: Sequence[str] = (),
    node_environ: Mapping[str, str] | None = None,
    of_jobs: Mapping[str, float] | None = None,
) -> Iterator[Cluster]:
    """A cluster from when all of it listens until all of it has ended, jobs included. What an earlier one
    left in the directory is gone on with.
    `within` says what command runs a process of that name, see `start`; `more` is for the environment of
    the server alone, `node_arguments` and `node_environ` are for the nodes; `of_jobs` are the
    service's limits of each job.

    Raises ClusterFailed when a process does not start, when it does not end in time or ends badly, and when
    something that it started is left over.
    """
    limits = limits or Limits()
    db_path = directory / "server" / "db.sqlite"
    with _no_interruption_of_the_end() as from_now, ExitStack() as stack:
        # Left last, so it looks when everything else was told to end.
        stack.callback(_refuse_leftovers, directory)
        members = []
        for number in range(1, nodes + 1):
            arguments = ["node", "--slots", str(slots), "--on-stop", "kill"]
            arguments += ["--upload-limit", str(max(limits.upload_limit, 1 << 30))]
            arguments += node_arguments
            environ = {"PORT": "0", "DATA_PATH": str(directory / f"node-{number}"), **(node_environ or {})}
            name = f"node-{number}"
            members.append(stack.enter_context(_process(name, arguments, environ, directory, within(name))))
        for member in members:
            wait_until_listening(member)
        config = directory / "server.toml"
        lines = "".join(f"{name} = {value}\n" for name, value in (of_jobs or {}).items())
        config.write_text(server_toml(limits, [member.url for member in members]) + lines)
        environ = {"PORT": "0", "DB_PATH": str(db_path), "DATA_PATH": str(directory / "server" / "data")}
        environ |= more or {}
        db_path.parent.mkdir(exist_ok=True)
        arguments = ["server", "--config", str(config)]
        server = stack.enter_context(_process("server", arguments, environ, directory, within("server")))
        wait_until_listening(server)
        try:
            yield Cluster(server, tuple(members), directory, db_path)
        finally:
            from_now()


@contextmanager
def _no_interruption_of_the_end() -> Iterator[Callable[[], None]]:
    """An impatient second Ctrl-C must not leave a cluster that is half stopped: from the call of what is
    handed out until this is left, signals to end are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}

    def from_now() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    try:
        yield from_now
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def server_toml(limits: Limits, urls: Sequence[str], more: Mapping[str, float] | None = None) -> str:
    """The server's settings; `more` goes to the top level."""
    # A JSON string, list or number is the same in TOML.
    top = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (more or {}).items())
    return (
        f"upload_limit = {limits.upload_limit}\n{top}\n[services.{SERVICE}]\nnodes = {json.dumps(urls)}\n"
        f"runs_per_user = {limits.runs_per_user}\nmax_runs = {limits.max_runs}\n"
    )


@contextmanager
def _process(
    name: str, arguments: list[str], environ: Mapping[str, str], directory: Path, within: Sequence[str]
) -> Iterator[Member]:
    member = start(name, arguments, environ, directory, within=within)
    try:
        yield member
    finally:
        stop(member)


def start(
    name: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    directory: Path,
    *,
    within: Sequence[str] = (),
    command: Sequence[str] | None = None,
) -> Member:
    """Start `command`, the console command if there is none; what it says on standard error is appended to
    `name`.log in `directory`. `within` is a command that runs it, such as nsenter."""
    log = directory / f"{name}.log"
    inherited = {
        key: value for key, value in os.environ.items() if key not in _OURS and not key.startswith("SERVICE_")
    }
    program = [str(Path(sys.executable).with_name("orchestrator"))] if command is None else command
    began = time.monotonic()
    with log.open("a") as errors:
        # A session of its own: Ctrl-C comes to us alone, and we end the processes in order.
        process = begin(
            [*within, *program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Nobody else is here: what measures and attacks asks as a program of this machine.
            # What scripts tell, they tell outside of their directories.
            env={
                "EXECUTOR": "bash",
                **inherited,
                "OPEN_LOCAL": "1",
                "XDG_STATE_HOME": str(directory),
                **environ,
            },
            cwd=directory,
            text=True,
            start_new_session=True,
        )
    return Member(name, process, log, began)


def wait_until_listening(member: Member) -> None:
    """Fill in where it listens. Its output is read to the end, so that it never fills the pipe. Raises
    ClusterFailed."""
    lines: SimpleQueue[str | None] = SimpleQueue()
    stdout = member.process.stdout
    assert stdout is not None

    def read() -> None:
        for line in stdout:
            lines.put(line.strip())
        lines.put(None)
        member.ended.set()

    threading.Thread(target=read, name=f"output of {member.name}", daemon=True).start()
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            raise ClusterFailed(f"{member.name} does not listen after {START_SECONDS:.0f} s") from None
        if line is None:
            status = member.process.wait()
            raise ClusterFailed(f"{member.name} ended with status {status}: {member.last_words()}")
        if LISTENING in line:
            member.listening_after = time.monotonic() - member.began
            member.url = line.split(LISTENING, 1)[1].split()[0].rstrip("/")
            return


def stop(member: Member) -> None:
    """End it with SIGTERM and wait for it. Raises ClusterFailed if it does not end in time, or badly."""
    process = member.process
    member.terminate()
    try:
        status = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise ClusterFailed(
            f"{member.name} did not end within {STOP_SECONDS:.0f} s after SIGTERM: {member.last_words()}"
        ) from None
    finally:
        if process.stdout is not None and member.ended.wait(1.0):
            process.stdout.close()
    if status != 0 or not member.told_to_end:
        raise ClusterFailed(f"{member.name} ended with status {status}: {member.last_words()}")


def _refuse_leftovers(directory: Path) -> None:
    """End what is left of the cluster: whatever works in its directory or was started with a path in it.
    Raises ClusterFailed if there is any."""
    left = []
    for process in belonging(directory):
        try:
            left.append(f"{process.pid} ({' '.join(process.cmdline())[:80]})")
            process.kill()
        except psutil.Error:
            continue  # it has ended meanwhile
    if left:
        raise ClusterFailed(f"left behind, and killed now: {', '.join(left)}")


def belonging(directory: Path) -> list[psutil.Process]:
    """The processes that work in this directory or were started with a path in it; not this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and _belongs(process, directory):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended meanwhile, is somebody else's, or stands too deep to be named
    return found


def _belongs(process: psutil.Process, directory: Path) -> bool:
    # What traces one ends by itself with the last of those that it traces.
    if process.status() == psutil.STATUS_ZOMBIE or process.name() == "strace":
        return False
    inside = f"{directory}/"
    # What a script starts inherits its environment, wherever it goes and whatever it calls itself.
    return (
        any(inside in part for part in process.cmdline())
        or any(inside in value for value in process.environ().values())
        or f"{process.cwd()}/".startswith(inside)
    )
