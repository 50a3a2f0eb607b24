"""Real processes for tests: the installed command, programs beside it, and the certainty that all are gone.

A `Place` is a directory with the processes that a test started in it. Each has the place in its environment,
and hands it down to whatever it starts: so what is left of it can be found, whatever it calls itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil
import trio
from click.testing import CliRunner
from support.processes.forked import ForkedProcess, can_be_forked

from orchestrator.cli import main

COMMAND: Final = (str(Path(sys.executable).with_name("orchestrator")),)
LISTENING: Final = b"listening on "
PATIENCE: Final = 60.0
"""Seconds that anything may take on a machine that is busy with something else."""
PROMISED: Final = 5.0
"""Seconds within which a process ends that was asked to, on a machine that has a core for it."""

_MARK: Final = "SYSTEM_TEST_PLACE"
_OURS: Final = frozenset({"PORT", "HOST", "DB_PATH", "DATA_PATH", "MAX_AGE"})
_OUR_PREFIXES: Final = ("SERVICE_", "CALLBACK_")


@dataclass(slots=True)
class Started:
    """A process that listens at `url`. Its standard error goes to `log`."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    async def end(self, number: int, within: float | None = None) -> int:
        """Send it a signal; its exit status, which has to come in time."""
        self.send(number)
        return await self.ended(within)

    async def ended(self, within: float | None = None) -> int:
        await gone([self.pid], promised() if within is None else within)
        return self.process.wait()

    def errors(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass(frozen=True, slots=True)
class Refused:
    """How a process ended that was not to start."""

    status: int
    out: str
    lines: Sequence[str]


class Place:
    """See the module. Left by `close`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = ExitStack()
        self._started: list[Started] = []

    # ------------------------------------------------------------------ the product

    def server(
        self,
        name: str = "server",
        *,
        nodes: Sequence[str] = (),
        port: str = "0",
        config: str = "",
        **environment: str,
    ) -> Started:
        """An orchestrator with the service `example` on these nodes; `config` is TOML."""
        data = self.directory / name
        data.mkdir(exist_ok=True)
        ours = {"DB_PATH": str(data / "db.sqlite"), "DATA_PATH": str(data / "data"), "PORT": port}
        if nodes:
            ours["SERVICE_EXAMPLE_NODES"] = ",".join(nodes)
        arguments = ["server"]
        if config:
            file = self.directory / f"{name}.toml"
            file.write_text(config)
            arguments += ["--config", str(file)]
        return self.start(*arguments, name=name, environment={**ours, **environment})

    def node(
        self, name: str = "node", *flags: str, port: str = "0", on_stop: str = "kill", grace: str = "0.5"
    ) -> Started:
        arguments = ["node", "--port", port, "--data", str(self.directory / name)]
        servers = {"SERVERS": "127.0.0.1"}
        return self.start(
            *arguments, "--on-stop", on_stop, "--grace", grace, *flags, name=name, environment=servers
        )

    def up(self, *flags: str, **environment: str) -> Started:
        arguments = ["up", "--port", "0", "--data", str(self.directory / "up"), *flags]
        return self.start(*arguments, name="orchestrator", environment=environment)

    def credentials(self, name: str) -> dict[str, str]:
        """The header of an operator of a server that was started here."""
        line = (self.directory / name / "data" / "operator.token").read_text().strip()
        header, _, value = line.partition(": ")
        return {header: value}

    # ------------------------------------------------------------------ any process

    def start(
        self,
        *arguments: str,
        name: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> Started:
        """The command, once it listens."""
        begun = self.begin(*arguments, name=name, environment=environment, command=command, forked=True)
        begun.url = self._url(begun)
        return begun

    def begin(
        self,
        *arguments: str,
        name: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
        pass_fds: Sequence[int] = (),
        forked: bool = False,
    ) -> Started:
        """A process of which nothing is expected yet. The command itself may be `forked`."""
        log = self.directory / f"{name}.log"
        whole = self._environment(environment or {})
        with log.open("ab") as errors:
            process = self._popen(command, arguments, whole, errors, pass_fds, forked=forked)
        started = Started(process, log)
        self._started.append(started)
        self._stack.callback(self._stop, started)
        return started

    def refused(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> Refused:
        """The command's end; it must not go on."""
        whole = self._environment(environment or {})
        with self._popen(command, arguments, whole, subprocess.PIPE) as process:
            try:
                out, errors = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Refused(process.returncode, out.decode(), errors.decode().splitlines())

    def command(self, *arguments: str, environment: Mapping[str, str]) -> Refused:
        """The command's end, as a call in this process: without the start of an interpreter."""
        with contextlib.chdir(self.directory):
            done = CliRunner().invoke(main, arguments, env=dict(environment))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Refused(done.exit_code, done.stdout, done.stderr.splitlines())

    def run(self, *command: str) -> str:
        """What a program prints that has to end well."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment({}),
            cwd=self.directory,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # ------------------------------------------------------------------ what is left

    def left(self) -> list[psutil.Process]:
        """Every process that began here and lives, in whatever generation; zombies do not live."""
        return [process for process in psutil.process_iter() if self._belongs(process)]

    def close(self) -> None:
        """End everything. What was never told to end must do so in order."""
        try:
            self._stack.close()
        finally:
            for process in self.left():
                with _vanishing():
                    process.kill()

    def _popen(
        self,
        command: Sequence[str],
        arguments: Sequence[str],
        environment: Mapping[str, str],
        errors: int | IO[bytes],
        pass_fds: Sequence[int] = (),
        *,
        forked: bool = True,
    ) -> subprocess.Popen[bytes]:
        forked = forked and command is COMMAND and can_be_forked(environment)
        return (ForkedProcess if forked else subprocess.Popen)(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=self.directory,
            # Ctrl-C at the tests' terminal is for the tests alone.
            start_new_session=True,
            pass_fds=pass_fds,
        )

    def _belongs(self, process: psutil.Process) -> bool:
        with _vanishing():
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            inside = f"{self.directory}/"
            # Its command line first: servers and nodes show nothing else to others.
            return (
                any(inside in part for part in process.cmdline())
                or process.environ().get(_MARK) == str(self.directory)
                or f"{process.cwd()}/".startswith(inside)
            )
        return False

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in _OURS and not name.startswith(_OUR_PREFIXES)
        }
        # Most tests are about something else than who may what: they ask as programs of this machine, and
        # their scripts tell outside of their directories how far they are.
        usual = {"OPEN_LOCAL": "1", "EXECUTOR": "bash", "XDG_STATE_HOME": str(self.directory)}
        return {**inherited, **usual, _MARK: str(self.directory), **more}

    def _url(self, started: Started) -> str:
        """Where it listens, by the line it prints."""
        stdout = started.process.stdout
        assert stdout is not None
        said = b""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in said.partition(LISTENING)[2]:
            readable, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"it does not listen after {PATIENCE:.0f} s: {started.errors()}"
            piece = os.read(stdout.fileno(), 65536)
            assert piece, f"it ended with status {started.process.wait()}: {started.errors()}"
            said += piece
        return said.partition(LISTENING)[2].split()[0].decode()

    def _stop(self, started: Started) -> None:
        process = started.process
        assert process.stdout is not None
        with process.stdout:
            if process.poll() is not None:
                return
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                status = process.wait(PATIENCE / 2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"it did not end after SIGTERM: {started.errors()}") from None
        assert status == 0, f"it ended with status {status}: {started.errors()}"


def promised(seconds: float = PROMISED) -> float:
    """How long may take what is promised within `seconds`, as busy as the machine is now: of a core that
    three want each gets a third."""
    cores = os.cpu_count() or 1
    lately, _, _, now, _ = Path("/proc/loadavg").read_text().split()
    return seconds * max(1.0, float(lately) / cores, int(now.partition("/")[0]) / cores)


def soon_lost(seconds: float) -> float:
    """After how many seconds of silence a node is lost in a test: soon, and no living one is silent for so
    long, as busy as the machine is now."""
    return min(promised(seconds), PATIENCE / 6)


async def look_later() -> None:
    """Before what tells of no change is looked at again: meanwhile others have the cores."""
    await trio.sleep(0.05)


async def gone(pids: Sequence[int], within: float = PATIENCE) -> None:
    """Wait until these processes have ended, by the kernel's word."""
    with trio.fail_after(within):
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                await trio.lowlevel.wait_readable(fd)
            finally:
                os.close(fd)


@contextmanager
def limited(pid: int, what: int, most: int) -> Iterator[None]:
    """A living process may have no more of it meanwhile than `most`; what it has stays."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


@contextmanager
def own_place(name: str) -> Iterator[Place]:
    """A place in a directory that is made for it, and goes with it."""
    # Short: a socket's address has room for about a hundred characters.
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as directory, place(Path(directory)) as found:
        yield found


def shared_server(here: Place, nodes: int = 1) -> Started:
    """An orchestrator with nodes, for tests that leave nothing behind but ended jobs."""
    urls = [here.node(f"node-{number}", "--slots", "4").url for number in range(1, nodes + 1)]
    quotas = {"SERVICE_EXAMPLE_RUNS_PER_USER": "8", "SERVICE_EXAMPLE_MAX_RUNS": "8"}
    return here.server(nodes=urls, **quotas)


@contextmanager
def place(directory: Path) -> Iterator[Place]:
    with closing(Place(directory)) as here:
        yield here


@contextmanager
def _vanishing() -> Iterator[None]:
    """A process may end, or turn out to be somebody else's, while it is looked at. It may also stand in a
    directory that is too deep to be named, as hostile scripts do."""
    try:
        yield
    except (psutil.Error, OSError):
        return
