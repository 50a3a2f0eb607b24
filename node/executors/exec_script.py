"""What a shepherd is asked to run, and how a process becomes it.

Imported by the shepherd only.
"""

from __future__ import annotations

import _thread
import errno
import os
import resource
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from node.executors import namespaces

REQUEST = 160 << 10
"""Bytes of a request at most: it is one message, which a socket takes without being asked for more room."""
SAID = 400
"""Bytes of what a start failed for at most."""
_SCARCE = (errno.EAGAIN, errno.ENOMEM)
_TRIES = 60
_PAUSE = 0.5
"""Seconds after which a start is tried again for which the machine had no process or no memory."""

_SPENT = 0.01
"""Seconds at most: what is more is the script's, which goes on while we look."""


class Request:
    """What one payload needs to run: fields that each end with a NUL, in the order of `__init__`.

    `uid` -1: the node's user, with its groups. `rlimits`: of each process, by their numbers. `limits`: of all
    of it, by the names of `JobLimits`; `entrances`: of its control group, if it has one. `counts`: how many
    of the rest are its arguments, and how many of `read`, `write`, `devices`: paths that it is given where
    something is kept from it, `work` not among them. `scratch`: where it finds its `/tmp`, empty for nowhere.
    `shared_memory`: bytes of `/dev/shm`. `passwd`, `group`: what it reads in these files. Last come the names
    of its environment, each followed by its value.
    """

    def __init__(self, packed: bytes) -> None:
        (
            self.name,
            nonce,
            self.directory,
            grace,
            log_limit,
            uid,
            gid,
            groups,
            rlimits,
            limits,
            network,
            containers,
            self.scratch,
            shared_memory,
            self.passwd,
            self.group,
            counts,
            *rest,
            _,  # behind the last NUL
        ) = packed.split(b"\0")
        self.key = self.name.decode()
        self.nonce = nonce.decode()
        self.grace = float(grace)
        self.log_limit = int(log_limit)
        self.uid, self.gid = int(uid), int(gid)
        self.groups = [int(each) for each in groups.split()]
        self.rlimits = [(int(number), int(value)) for number, value in _pairs(rlimits)] if rlimits else []
        self.limits = {name.decode(): float(value) for name, value in _pairs(limits)} if limits else {}
        self.entrances: list[int] = []
        self.network = network == b"1"
        self.containers = containers == b"1"
        self.shared_memory = int(shared_memory)
        arguments, read, write, devices = map(int, counts.split())
        read += arguments
        write += read
        devices += write
        self.arguments, self.read = rest[:arguments], rest[arguments:read]
        self.write, self.devices = rest[read:write], rest[write:devices]
        self.environment = dict(zip(rest[devices::2], rest[devices + 1 :: 2], strict=True))

    @property
    def work(self) -> bytes:
        return self.directory + b"/work"


def _pairs(listed: bytes) -> list[list[bytes]]:
    """Of `NAME=VALUE NAME=VALUE`."""
    return [each.split(b"=") for each in listed.split()]


class StartError(Exception):
    """`STAGE ERRNO WORDS`: where a start failed, and why; the words where somebody has said some.

    `passes`: for want of processes or memory.
    """

    def __init__(self, stage: str, number: int | None, words: str = "") -> None:
        super().__init__(f"{stage} {number} {words}".strip()[:SAID])
        self.passes = number in _SCARCE or any(words.endswith(os.strerror(scarce)) for scarce in _SCARCE)


def find_spent(pid: int) -> float:
    """Seconds of the CPU that a process used before it was the script, which it is by now."""
    # The clock of another process, as clock_getcpuclockid(3) makes it.
    return min(time.clock_gettime((~pid << 3) | 2), _SPENT)


def try_again_while_scarce(start: Callable[..., int], *arguments: object) -> int:
    """Raises `StartError`."""
    left = _TRIES
    while True:
        left -= 1
        try:
            return start(*arguments)
        except StartError as error:
            if not error.passes or not left:
                raise
        time.sleep(_PAUSE)


def spawn(request: Request, logs: tuple[int, int]) -> int:
    """The pid of a script that needs nothing to be done before. Raises `StartError`.

    The child borrows our memory until it is bash: a fork would copy what both of us write meanwhile.
    """
    stage = "directory"
    try:
        os.chdir(request.work)
        stage = "exec"
        return _spawn(request.arguments, request, logs)
    except OSError as error:
        raise StartError(stage, error.errno) from None
    finally:
        os.chdir("/")


def _spawn(command: list[bytes], request: Request, logs: tuple[int, int]) -> int:
    return os.posix_spawn(
        command[0],
        command,
        request.environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, logs[0], 1), (os.POSIX_SPAWN_DUP2, logs[1], 2)],
        setsid=True,
        setsigmask=(),
    )


class Confinement(ABC):
    """What is done in the child besides, for one script. `directory`: where it begins."""

    def __init__(self, directory: bytes) -> None:
        self.directory = directory

    def prepare(self) -> None:  # noqa: B027  # not every one has something to do
        """While it still is the node's user. Raises `OSError`."""

    def enforce(self) -> None:  # noqa: B027  # the same
        """As the last thing before the script, as its user. Raises `OSError`."""

    def release(self) -> None:  # noqa: B027  # the same
        """What was prepared is needed no more by this process."""

    @abstractmethod
    def command(self) -> list[bytes]:
        """What is run."""


class NoConfinement(Confinement):
    def __init__(self, request: Request) -> None:
        super().__init__(request.work)
        self._request = request

    def command(self) -> list[bytes]:
        return self._request.arguments


def spawn_from_thread(request: Request, logs: tuple[int, int], confinement: Confinement) -> int:
    """What `fork` does, for a request without limits, at less than half its cost. Raises `StartError`.

    To the kernel user, rights and filters are those of a thread: so one becomes what the child is to be, and
    spawns it. For a moment the script may live beside this thread, which it could signal, being the same
    user: so only for a shepherd that nobody in its namespace can kill, nor look into.
    """
    stage = "directory"
    outcome: list[int | StartError] = []
    ended = _thread.allocate_lock()
    ended.acquire()
    try:
        os.chdir(confinement.directory)
        stage = "confine"
        confinement.prepare()
        stage = "user"
        if request.uid >= 0:
            _give_logs(request, logs)
        _thread.start_new_thread(_spawn_confined, (request, logs, confinement, outcome, ended))
        ended.acquire()
    except OSError as error:
        raise StartError(stage, error.errno, os.fsdecode(error.filename or b"")) from None
    except RuntimeError:  # It is not said why there can be no thread.
        raise StartError("exec", errno.EAGAIN) from None
    finally:
        confinement.release()
        os.chdir("/")
    (started,) = outcome
    if isinstance(started, StartError):
        raise started
    return started


def _spawn_confined(
    request: Request,
    logs: tuple[int, int],
    confinement: Confinement,
    outcome: list[int | StartError],
    ended: _thread.LockType,
) -> None:
    """All of the thread. It only goes on as what it has become."""
    stage = "user"
    try:
        if request.uid >= 0:
            namespaces.become(request.uid, request.gid, request.groups)
            namespaces.drop_privileges()
        stage = "confine"
        confinement.enforce()
        stage = "exec"
        outcome.append(_spawn(confinement.command(), request, logs))
    except OSError as error:
        outcome.append(StartError(stage, error.errno, os.fsdecode(error.filename or b"")))
    finally:
        ended.release()


def _give_logs(request: Request, logs: Iterable[int]) -> None:
    # Else it could not open its own output again, as `> /dev/stderr` does.
    for log in logs:
        os.fchown(log, request.uid, request.gid)


def fork(request: Request, logs: tuple[int, int], confinement: Confinement) -> int:
    """The pid of a child that has become the command. Raises `StartError`."""
    reader, writer = os.pipe()
    try:
        try:
            pid = os.fork()
        except OSError as error:
            raise StartError("exec", error.errno) from None
        if pid == 0:
            _become(request, logs, confinement, writer)
        os.close(writer)
        writer = -1
        said = os.read(reader, SAID)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if said:
        os.waitpid(pid, 0)
        stage, number, *words = said.decode(errors="replace").split(" ", 2)
        raise StartError(stage, int(number), *words)
    return pid


def _become(request: Request, logs: tuple[int, int], confinement: Confinement, errors: int) -> None:
    """Never returns."""
    stage = "exec"
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number, log in enumerate(logs, 1):
            os.dup2(log, number)
        # Before it is somebody who need not get there.
        stage = "directory"
        os.chdir(confinement.directory)
        stage = "confine"
        confinement.prepare()
        stage = "limits"
        for entrance in request.entrances:
            os.write(entrance, b"0")
        for number, value in request.rlimits:
            most = resource.getrlimit(number)[1]
            least = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(number, (least, least))
        stage = "user"
        if request.uid >= 0:
            _give_logs(request, (1, 2))
            os.setgroups(request.groups)
            os.setresgid(request.gid, request.gid, request.gid)
            os.setresuid(request.uid, request.uid, request.uid)
            namespaces.drop_privileges()
        stage = "confine"
        confinement.enforce()
        stage = "exec"
        command = confinement.command()
        os.execve(command[0], command, request.environment)
    except OSError as error:
        words = f" {os.fsdecode(error.filename)}" if error.filename else ""
        os.write(errors, os.fsencode(f"{stage} {error.errno}{words}")[:SAID])
    finally:
        os._exit(127)
