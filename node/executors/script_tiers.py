"""How a shepherd starts a script in its node's tier. Imported by the shepherd only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import termios
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from node.confinement import bubblewrap
from node.confinement.landlock_tier import Given, LandlockTier, Rules
from node.confinement.seccomp import ON_THE_NETWORK, make_filter, supports
from node.confinement.tier_facts import BUBBLEWRAP, LANDLOCK, TierFacts
from node.executors import namespaces
from node.executors.exec_script import (
    SAID,
    Confinement,
    NoConfinement,
    Request,
    StartError,
    find_spent,
    fork,
    spawn,
    spawn_from_thread,
    try_again_while_scarce,
)
from node.executors.script_view import ScriptView

_WITHIN = 60.0
"""Seconds in which bwrap has made its namespaces, or never will."""
_LOOK_EVERY = 0.0002
"""Seconds from one look at what bwrap does to the next: mostly it has done it."""
_INT = struct.Struct("i")
_CHILD = b'"child-pid":'


class Script:
    """A script that has started. `spent`: seconds of the CPU that its process used before that."""

    def __init__(self, pid: int, spent: float = 0.0) -> None:
        self.pid, self.spent = pid, spent


class Tier(ABC):
    """How scripts are started."""

    shows_marks = False
    """Whether a script that is the node's user gets at the marks of its shepherd."""

    @property
    def kept(self) -> Sequence[int]:
        """Descriptors that stay open for scripts to come."""
        return ()

    def prepare(self) -> None:  # noqa: B027  # not every one has something to do
        """In the mounts of a new shepherd, of which each of its scripts gets a copy. Raises `OSError`."""

    def keep(self, request: Request) -> None:  # noqa: B027  # the same
        """What this script can share with others, where each has a shepherd of its own: by the process that
        these come from, before."""

    @abstractmethod
    def start(self, request: Request, logs: tuple[int, int], errors: int) -> Script:
        """`errors`: where what goes into the second of the logs can be read. Raises `StartError`."""


class Bash(Tier):
    """The script is the node's user, or one of its own, and nothing more is kept from it. `threads`: see
    `spawn_from_thread`, here and below."""

    shows_marks = True

    def __init__(self, *, threads: bool) -> None:
        self._threads = threads

    def start(self, request: Request, logs: tuple[int, int], errors: int) -> Script:
        if request.uid < 0 and not request.rlimits and not request.entrances:
            return Script(try_again_while_scarce(spawn, request, logs))
        return _started(request, logs, NoConfinement(request), self._threads)


def _started(request: Request, logs: tuple[int, int], confinement: Confinement, threads: bool) -> Script:
    start = _way_to_start(request, threads)
    pid = try_again_while_scarce(start, request, logs, confinement)
    return Script(pid, find_spent(pid) if start is fork else 0.0)


def _way_to_start(request: Request, threads: bool) -> Callable[[Request, tuple[int, int], Confinement], int]:
    # Limits are a process's, and so is the control group that it is in.
    return spawn_from_thread if threads and not request.rlimits and not request.entrances else fork


class _BehindLandlock(NoConfinement):
    def __init__(self, request: Request, tier: LandlockTier) -> None:
        super().__init__(request)
        self._tier = tier
        self._rules: Rules | None = None

    def prepare(self) -> None:
        self._rules = self._tier.prepare(_given(self._request), network=self._request.network)

    def enforce(self) -> None:
        assert self._rules is not None
        request = self._request
        sockets = any(map(_is_socket, (*request.read, *request.write)))
        self._tier.enforce(self._rules, network=request.network, sockets=sockets)

    def release(self) -> None:
        if self._rules is not None:
            self._rules.close()
            self._rules = None


def _given(request: Request) -> Given:
    """What a script may use behind Landlock."""
    inside = request.directory + b"/"
    own = [request.work, *(path for path in request.write if path.startswith(inside))]
    if request.scratch:
        own.append(request.scratch)
    return Given(
        jobs=os.path.dirname(request.directory),
        own=own,
        read=request.read,
        devices=request.devices,
        write=[path for path in request.write if not path.startswith(inside)],
    )


def _is_socket(path: bytes) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


class Landlock(Tier):
    """Lists of its facts: `abi`, `read`, `devices`, `shared`. `namespaced`: each shepherd has its mounts."""

    def __init__(self, facts: TierFacts, *, namespaced: bool, threads: bool) -> None:
        self._namespaced, self._threads = namespaced, threads
        self._tier = LandlockTier(
            os.uname().machine,
            int(facts.lists["abi"][0]),
            own_uid=facts.own_uid,
            read=facts.lists["read"],
            devices=facts.lists["devices"],
            shared=facts.lists["shared"],
        )

    @property
    def kept(self) -> Sequence[int]:
        return self._tier.common.descriptors

    def prepare(self) -> None:
        self._tier.common.begin()

    def keep(self, request: Request) -> None:
        # If it fails, it does so once more in the shepherd, who says so.
        with contextlib.suppress(OSError):
            self._tier.keep(_given(request))

    def start(self, request: Request, logs: tuple[int, int], errors: int) -> Script:
        if self._namespaced:
            try:
                # What a job leaves there goes with it, and nobody else gets at it.
                namespaces.have_own_shared_memory(request.shared_memory)
            except OSError as error:
                raise StartError("memory", error.errno) from None
            try:
                self._tier.keep(_given(request))
            except OSError as error:
                raise StartError("confine", error.errno, os.fsdecode(error.filename or b"")) from None
        return _started(request, logs, _BehindLandlock(request, self._tier), self._threads)


class _InBubblewrap(Confinement):
    """What it is given is added to the trees, where bwrap gets at it, which is the script's user."""

    def __init__(self, request: Request, tier: Bubblewrap) -> None:
        super().__init__(b"/")  # `work` is covered by what is shown to bwrap.
        self._request, self._tier = request, tier
        self.block = self.info = -1
        """The ends of pipes that are bwrap's."""
        self._command: list[bytes] = []
        self._kept: list[int] = []
        tier.view.give(
            scratch=request.scratch,
            read=[path for path in (*tier.resolver, *request.read) if not path.startswith(bubblewrap.PROC)],
            write=[path for path in (*request.write, request.scratch, request.work) if path],
            devices=request.devices,
            accounts=(request.passwd, request.group),
            shared_memory=request.shared_memory,
        )

    def prepare(self) -> None:
        request = self._request
        for descriptor in (self.block, self.info):
            os.set_inheritable(descriptor, True)
        self._kept = [_keep(program) for program in self._tier.filters[request.containers]]
        self._command = bubblewrap.add_script(
            self._tier.begin,
            network=request.network,
            containers=request.containers,
            read=request.read,
            filters=self._kept,
            work=request.work,
            block=self.block,
            info=self.info,
        )

    def command(self) -> list[bytes]:
        return self._command + self._request.arguments

    def release(self) -> None:
        for descriptor in self._kept:
            os.close(descriptor)
        self._kept = []


def _keep(content: bytes) -> int:
    """A descriptor from which this is read."""
    descriptor = os.memfd_create("bwrap", 0)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class Bubblewrap(Tier):
    """Lists of its facts: `begin`, the beginning of each command; `resolver`, what is shown besides; and
    those of `ScriptView`, which is at `place`.

    bwrap would tell of a signal as of an exit code, and be there as long as the script: so it is ended as
    soon as the script is about to begin, which then is a child of ours as it is in the other tiers.
    """

    def __init__(self, facts: TierFacts, place: bytes, *, threads: bool) -> None:
        self._threads = threads
        self.begin, self.resolver = facts.lists["begin"], facts.lists["resolver"]
        self.view = ScriptView(place, facts.lists)
        machine = os.uname().machine
        domains = {*ON_THE_NETWORK, socket.AF_UNIX}
        self.filters = {
            # Its shepherd is in sight, and that of jobs to come. Other files than its own are read-only.
            containers: [
                make_filter(machine, domains, containers=containers, owners=True, limits=facts.own_uid)
            ]
            if supports(machine)
            else []
            for containers in (False, True)
        }

    def prepare(self) -> None:
        self.view.build()

    def start(self, request: Request, logs: tuple[int, int], errors: int) -> Script:
        if not os.path.isdir(request.work):
            raise StartError("directory", errno.ENOENT)
        try:
            confinement = _InBubblewrap(request, self)
        except OSError as error:
            raise StartError("confine", error.errno, os.fsdecode(error.filename or b"")) from None
        child = try_again_while_scarce(self._start, request, logs, errors, confinement)
        return Script(child, find_spent(child))

    def _start(self, request: Request, logs: tuple[int, int], errors: int, confinement: _InBubblewrap) -> int:
        confinement.block, blocking = os.pipe()
        informed, confinement.info = os.pipe()
        try:
            try:
                bwrap = _way_to_start(request, self._threads)(request, logs, confinement)
            finally:
                os.close(confinement.block)
                os.close(confinement.info)
            child = _read_child(informed)
            try:
                ready = child is not None and _is_done(bwrap, confinement.block)
            finally:
                # Before the script begins: it would collect one that is quick.
                os.kill(bwrap, signal.SIGKILL)
                os.waitpid(bwrap, 0)
            if child is None or not ready or not _let_go(blocking):
                if child is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                raise StartError("bubblewrap", 0, _read_words(errors))
            return child
        finally:
            os.close(blocking)
            os.close(informed)


def _ready(descriptor: int, events: int) -> bool:
    awaited = select.poll()
    awaited.register(descriptor, events)
    return bool(awaited.poll(1000 * _WITHIN))


def _read_child(informed: int) -> int | None:
    said = b""
    while _ready(informed, select.POLLIN):
        piece = os.read(informed, 4096)
        if not piece:
            break
        said += piece
    _, found, rest = said.partition(_CHILD)
    digits = rest.split(b",")[0].strip(b" \n}")
    return int(digits) if found and digits.isdigit() else None


def _is_done(bwrap: int, block: int) -> bool:
    """Whether bwrap has done all that it does for its child: it closes then what it needs no more."""
    deadline = time.monotonic() + _WITHIN
    while time.monotonic() < deadline:
        try:
            os.readlink(f"/proc/{bwrap}/fd/{block}")
        except FileNotFoundError:
            return True
        time.sleep(_LOOK_EVERY)
    return False


def _let_go(blocking: int) -> bool:
    """Whether the child of bwrap has made all, and is about to become the script."""
    try:
        os.write(blocking, b"x")
    except BrokenPipeError:
        return False
    # Nobody holds the other end any more: the child has read.
    return _ready(blocking, 0) and _INT.unpack(fcntl.ioctl(blocking, termios.FIONREAD, bytes(4))) == (0,)


def _read_words(errors: int) -> str:
    try:
        said = os.read(errors, 4096).decode(errors="replace")
    except BlockingIOError:
        said = ""
    return " ".join(said.split())[-SAID // 2 :] or "bwrap ended without a word"


def make_tier(facts: TierFacts, place: bytes, *, namespaced: bool, threads: bool) -> Tier:
    """`place`: an empty directory, to mount on."""
    if facts.tier == BUBBLEWRAP:
        return Bubblewrap(facts, place, threads=threads)
    if facts.tier == LANDLOCK:
        return Landlock(facts, namespaced=namespaced, threads=threads)
    return Bash(threads=threads)
