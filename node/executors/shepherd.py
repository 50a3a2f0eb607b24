"""The spawner and the shepherds: `python3 -I -S shepherd.py CONTROL ISOLATION LOCK`.

One small process, the spawner, forks a shepherd for each payload and forgets it. Forking without exec
makes a shepherd cost about a megabyte and a few milliseconds. It belongs to no agent: it goes on when the
agent and the spawner are killed, waits for the script, ends all the script left behind, and writes one
end mark.

Standard library only, no threads, few imports: all of its memory is there once for each payload, and is the
least that the kernel reports as a payload's peak.

CONTROL is a SOCK_SEQPACKET socket to the agent. First the spawner says which isolation works here; then each
message is one request (`exec_script.Request`) and brings one descriptor: a connection on which the shepherd
answers with one line, `started` or `failed STAGE ERRNO`.

What a child of a fork touches is copied for it, page by page, and that is most of what it costs: so the
spawner does what can be done before, and a shepherd does little, with the plainest means.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import struct
import sys
import time

# -I leaves out the program's directory; appended, so that nothing here can shadow the standard library.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from actors.process import procfs
from node.executors import mark_files, namespaces
from node.executors.exec_script import REQUEST, Request, StartError, start_script
from node.executors.log_pipes import LogPipe
from node.executors.process_tree import Tree

_CONNECTION = 3
_CLOEXEC = socket.MSG_CMSG_CLOEXEC
_INT = struct.Struct("i")
_DESCRIPTORS = os.sysconf("SC_OPEN_MAX")
_AWAITED = namespaces.SignalSet((signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1))
_LOOK_EVERY = 0.05
"""Seconds from one try for the lock to the next."""
_LONGEST_GRACE = 30 * 86400.0
_LONGEST_WAIT = 86400.0
"""Seconds, for a poll: the kernel counts its milliseconds in 32 bits."""
_RETRY_EVERY = 1.0
"""Seconds from one try to write what a full disk did not take to the next."""


def answer(connection: int, line: str) -> None:
    # The agent may be gone. The payload runs all the same: the next agent finds its mark.
    with contextlib.suppress(OSError):
        os.write(connection, line.encode())


class Host:
    """What the spawner knows of this machine and tells each shepherd."""

    def __init__(self, isolation: str) -> None:
        self.isolation = isolation
        self.namespaced = isolation != namespaces.SUBREAPER
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.boot = procfs.boot_id()
        with open("/proc/self/mounts", "rb") as mounts:
            # Where /proc shows only what one may look into, a closed shepherd would look dead to the agent.
            self.may_close = not any(line.split()[2] == b"proc" and b"hidepid=" in line for line in mounts)


class Shepherd:
    """Watches one payload, from the start of its script to the end mark. `logs` are its output and errors."""

    def __init__(
        self, request: Request, host: Host, guard: int | None, logs: tuple[LogPipe, LogPipe]
    ) -> None:
        self._request = request
        self._logs = {log.reader: log for log in logs}
        self._host = host
        # All of this needs the outer /proc, the one the agent sees.
        if host.isolation == namespaces.USERNS:
            namespaces.map_own_ids(host.uid, host.gid)
        self._pid = int(os.readlink("/proc/self"))
        self._identity = {
            "boot": host.boot,
            "pid": str(self._pid),
            "since": str(procfs.start_time("self")),
        }
        if guard is not None:
            self._identity |= {"guard": str(guard), "guard_since": str(procfs.start_time(guard))}
        self._started = self._begun = 0.0

    def begin(self) -> bool:
        """Start the script; False when that failed, which has then been said. Raises `OSError` before."""
        request = self._request
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._directory = os.open(request.directory, flags)
        if not self._host.namespaced:
            namespaces.adopt_orphans()
        else:
            namespaces.mount_own_proc()
        if self._host.may_close:
            namespaces.close_to_others()
        self._end = mark_files.Draft(mark_files.END, self._directory)
        self._started, self._begun = time.time(), time.monotonic()
        try:
            mark_files.create(mark_files.RUN, self._run_mark(), self._directory)
        except OSError:
            self._end.discard()
            raise
        # Should the mark be lost while it runs, it is found by this; not before there was one.
        namespaces.be_called(request.key)
        trouble = self._start_script()
        for log in self._logs.values():
            log.close_writer()
        if trouble:
            # The mark first: who hears the answer may look for it at once.
            self._end.publish(self._end_mark({"failed": trouble}))
        answer(_CONNECTION, f"failed {trouble}" if trouble else "started")
        os.close(_CONNECTION)
        return not trouble

    def _start_script(self) -> str:
        """The mark is there before its first command. What went wrong, as `StartError` says it."""
        request = self._request
        if self._host.namespaced:
            # It spares the mark from a script of the same user; without it, it is as safe as elsewhere.
            with contextlib.suppress(OSError):
                namespaces.hide(request.directory + b"/run")
        output, errors = self._logs.values()
        try:
            self._script = start_script(request, (output.writer, errors.writer))
        except StartError as error:
            return str(error)
        if not self._host.namespaced:
            # By its session its processes are known, should nothing hold them together any more.
            with contextlib.suppress(OSError):
                mark_files.add(mark_files.RUN, {"session": str(self._script)}, self._directory)
        return ""

    def finish(self) -> None:
        """Return when all of it has ended and the end mark is on the disk."""
        outcome = self._watch()
        for log in self._logs.values():
            log.finish()
        outcome["left_out"] = str(sum(log.left_out for log in self._logs.values()))
        outcome["unwritten"] = str(sum(log.unwritten for log in self._logs.values()))
        os.fchmod(self._directory, 0o700)  # A script of the same user may have closed it to all.
        self._end.publish(self._end_mark(outcome))

    def _end_mark(self, outcome: dict[str, str]) -> bytes:
        return mark_files.pack({"key": self._request.key, "nonce": self._request.nonce} | outcome)

    def _run_mark(self) -> bytes:
        return mark_files.pack(
            {
                "key": self._request.key,
                "nonce": self._request.nonce,
                "isolation": self._host.isolation,
                "pipes": " ".join(log.pipe for log in self._logs.values()),
                "started": repr(self._started),
            }
            | self._identity
        )

    def _watch(self) -> dict[str, str]:
        tree = Tree(self._host.namespaced, self._script)
        signals = _AWAITED.open()
        awaited = select.poll()
        for descriptor in (signals, *self._logs):
            awaited.register(descriptor, select.POLLIN)
        deadline: float | None = None
        ended, duration, asked = 0.0, 0.0, False
        while True:
            anything_left = tree.reap()
            now = time.monotonic()
            if tree.status is not None and not ended:
                ended, duration = time.time(), now - self._begun
            # Asked to end, the children have their grace even when bash, as it does, is gone at once.
            if (
                not anything_left
                or (ended and deadline is None)
                or (deadline is not None and now >= deadline)
            ):
                break
            self._carry(awaited, None if deadline is None else deadline - now)
            number, sender = namespaces.read_signal(signals) or (signal.SIGCHLD, 0)
            if number == signal.SIGCHLD:
                continue
            if self._host.namespaced and sender != 0:
                continue  # From inside the namespace: the script does not command its shepherd.
            # Whoever asked may not live to say so; the next node would take it for the script's own end.
            tree.reap()
            asked = asked or tree.status is None
            if number == signal.SIGUSR1:
                break
            until = time.monotonic() + self._grace()
            deadline = until if deadline is None else min(deadline, until)
            tree.ask()
        tree.end()
        if not ended:
            ended, duration = time.time(), time.monotonic() - self._begun
        return {
            "status": str(tree.status),
            "started": repr(self._started),
            "ended": repr(ended),
            "wall": repr(duration),
            "cpu": repr(tree.cpu_seconds),
            "peak": str(tree.peak_bytes),
            "asked": str(int(asked)),
        }

    def _carry(self, awaited: select.poll, timeout: float | None) -> None:
        """Wait for a signal or for something that was printed, which goes into its log."""
        stuck = [log for log in self._logs.values() if log.stuck]
        longest = _RETRY_EVERY if stuck else _LONGEST_WAIT
        ready = awaited.poll(1000 * (longest if timeout is None else min(timeout, longest)))
        for descriptor, _ in ready:
            if descriptor in self._logs and self._logs[descriptor].take() == 0:
                awaited.unregister(descriptor)
        if not ready:
            for log in stuck:
                log.keep(b"")

    def _grace(self) -> float:
        """Seconds, from the file that the agent writes before it asks; else what the request said."""
        try:
            descriptor = os.open(
                mark_files.GRACE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory
            )
            try:
                # Bounded, as the kernel's timers are; not a number counts as no grace.
                return max(0.0, min(float(os.read(descriptor, 64)), _LONGEST_GRACE))
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            return self._request.grace


def guard(shepherd: int) -> None:
    """Without a namespace: end what a killed shepherd leaves, which becomes ours because we adopt orphans."""
    os.closerange(_CONNECTION, _DESCRIPTORS)
    while os.wait()[0] != shepherd:
        pass
    Tree(namespaced=False, script=shepherd).end()


def become_shepherd(request: Request, connection: int, host: Host) -> None:
    """The child of the spawner: nothing of the spawner's stays open, or its lock would outlive it."""
    namespaces.heed_children()
    os.setsid()
    if connection != _CONNECTION:
        os.dup2(connection, _CONNECTION, inheritable=False)
    os.closerange(_CONNECTION + 1, _DESCRIPTORS)
    guarded_by: int | None = None
    stage = "fork"
    try:
        if not host.namespaced:
            namespaces.adopt_orphans()
            guarded_by = os.getpid()
            if pid := os.fork():
                guard(pid)
                return
            os.setsid()
        stage = "logs"
        output = LogPipe(request.directory + b"/stdout.log", request.log_limit)
        errors = LogPipe(request.directory + b"/stderr.log", request.log_limit)
        stage = "prepare"
        shepherd = Shepherd(request, host, guarded_by, (output, errors))
        begun = shepherd.begin()
    except OSError as error:
        answer(_CONNECTION, f"failed {stage} {error.errno}")
        return
    if begun:
        shepherd.finish()


def spawn_for_ever(control: socket.socket, host: Host) -> None:
    room = bytearray(REQUEST)
    while True:
        size, passed, _, _ = control.recvmsg_into([room], socket.CMSG_SPACE(_INT.size), _CLOEXEC)
        if not size:
            return  # The agent has ended. The shepherds go on.
        for _, _, data in passed:
            (connection,) = _INT.unpack(data)
            request = Request(bytes(room[:size]))
            try:
                pid = namespaces.fork(host.isolation)
            except OSError as error:
                answer(connection, f"failed fork {error.errno}")
                pid = -1
            if pid == 0:
                try:
                    become_shepherd(request, connection, host)
                except BaseException:  # noqa: ASYNC103  # no trio here: a forked child
                    sys.excepthook(*sys.exc_info())  # Into the spawner's log.
                finally:
                    os._exit(0)
            os.close(connection)


def alone(lock: int, control: socket.socket) -> bool:
    """Wait for the lock; False when the agent has ended meanwhile. It says nothing before it is greeted."""
    control.settimeout(_LOOK_EVERY)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            with contextlib.suppress(TimeoutError):
                control.recv(1)
                return False
    control.settimeout(None)
    return True


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    # Payloads must not inherit what the agent, or whoever started it, chose to ignore.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except OSError:
            continue
    # Blocked here, they are so in each shepherd from its first moment, who polls for them.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    os.umask(0o022)  # the scripts'
    # A predecessor whose agent was killed is about to end; two at once would be two agents on one directory.
    lock = os.open(sys.argv[3], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not alone(lock, control):
        return
    candidates = sys.argv[2].split(",")
    isolation = next((each for each in candidates if namespaces.works(each)), "")
    control.send(isolation.encode() or b"none")
    if not isolation:
        return
    # Shepherds are nobody's to wait for: they leave marks, and must not leave zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    host = Host(isolation)
    gc.disable()
    gc.freeze()
    spawn_for_ever(control, host)


if __name__ == "__main__":
    main()
