"""The spawner and the shepherds: `python3 -I -S shepherd.py CONTROL ISOLATION LOCK`.

One small process, the spawner, forks a shepherd for each payload and forgets it. Forking without exec
makes a shepherd cost about a megabyte and a few milliseconds. It belongs to no agent: it goes on when the
agent and the spawner are killed, waits for the script, ends all the script left behind, and writes one
durable end mark.

Standard library only, no threads, few imports: all of its memory is there once for each payload, and is the
least that the kernel reports as a payload's peak.

CONTROL is a SOCK_SEQPACKET socket to the agent. First the spawner says which isolation works here; then each
message brings one descriptor: a connection on which the agent sends one request (`script.read_request`) and
the shepherd answers with one line, `started` or `failed STAGE ERRNO`.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import time

# -I leaves out the program's directory; appended, so that nothing here can shadow the standard library.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from actors.process import procfs
from node.executors import mark_files, namespaces
from node.executors.exec_script import Request, become_script, read_request
from node.executors.log_pipes import LogPipe
from node.executors.process_tree import Tree

_CONNECTION = 3
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
            "boot": procfs.boot_id(),
            "pid": str(self._pid),
            "since": str(procfs.start_time("self")),
        }
        if guard is not None:
            self._identity |= {"guard": str(guard), "guard_since": str(procfs.start_time(guard))}
        self._started = self._begun = 0.0

    def begin(self) -> bool:
        """Start the script; False when that failed, which has then been said. Raises `OSError` before."""
        request = self._request
        path = request.directory + b"/run"
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._enter(path)
        self._end = mark_files.Draft(mark_files.END, self._directory)
        gate, opener = os.pipe()
        failed, failure = os.pipe()
        output, errors = self._logs.values()
        script = self._script = os.fork()
        if script == 0:
            os.close(opener)
            become_script(request, (output.writer, errors.writer), gate, failure)
        output.close_writer()
        errors.close_writer()
        os.close(gate)
        os.close(failure)
        self._started, self._begun = time.time(), time.monotonic()
        try:
            mark_files.create(mark_files.RUN, self._run_mark(script), self._directory)
        except OSError:
            self._end.discard()
            raise  # The gate was never opened: the script's process ends by itself.
        # Should the mark be lost while it runs, it is found by this; not before there was one.
        namespaces.be_called(request.key)
        with contextlib.suppress(BrokenPipeError):  # It has failed before the gate, and says so below.
            os.write(opener, b"!")
        os.close(opener)
        trouble = os.read(failed, 256).decode()
        os.close(failed)
        if trouble:
            # The mark first: who hears the answer may look for it at once.
            os.waitpid(script, 0)
            self._end.publish(self._end_mark({"failed": trouble}))
        answer(_CONNECTION, f"failed {trouble}" if trouble else "started")
        os.close(_CONNECTION)
        return not trouble

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

    def _enter(self, path: bytes) -> None:
        if not self._host.namespaced:
            namespaces.adopt_orphans()
        else:
            namespaces.mount_own_proc()
            # It spares the marks from a script of the same user; without it they are as safe as elsewhere.
            with contextlib.suppress(OSError):
                namespaces.hide(path)
        if self._host.may_close:
            namespaces.close_to_others()

    def _run_mark(self, script: int) -> bytes:
        return mark_files.pack(
            {
                "key": self._request.key,
                "nonce": self._request.nonce,
                "isolation": self._host.isolation,
                "session": str(script),
                "pipes": " ".join(log.pipe for log in self._logs.values()),
                "started": repr(self._started),
            }
            | self._identity
        )

    def _watch(self) -> dict[str, str]:
        tree = Tree(self._host.namespaced, self._script)
        signals = namespaces.open_signals((signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1))
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
    os.closerange(_CONNECTION, os.sysconf("SC_OPEN_MAX"))
    while os.wait()[0] != shepherd:
        pass
    Tree(namespaced=False, script=shepherd).end()


def become_shepherd(connection: int, host: Host) -> None:
    """The child of the spawner: nothing of the spawner's stays open, or its lock would outlive it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    if connection != _CONNECTION:
        os.dup2(connection, _CONNECTION)
    os.set_inheritable(_CONNECTION, False)
    os.closerange(_CONNECTION + 1, os.sysconf("SC_OPEN_MAX"))
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
        stage = "request"
        request = read_request(_CONNECTION)
        if request is None:
            return  # The agent died, or changed its mind, before it had said all.
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
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not message:
            return  # The agent has ended. The shepherds go on.
        for connection in descriptors:
            try:
                pid = namespaces.fork(host.isolation)
            except OSError as error:
                answer(connection, f"failed fork {error.errno}")
                pid = -1
            if pid == 0:
                try:
                    become_shepherd(connection, host)
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
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
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
