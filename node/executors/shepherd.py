"""The spawner and the shepherds: `python3 -I -S shepherd.py CONTROL ISOLATION LOCK FACTS GROUPS`.

One small process, the spawner, forks shepherds and forgets them. Forking without exec makes one cost about a
megabyte and a few milliseconds. It belongs to no agent: it goes on when the agent and the spawner are killed,
waits for the script, ends all the script left behind, and writes one end mark. One with a PID namespace, of
whose payload nothing is left then, waits for another one from the same agent, and ends when that has gone.

Standard library only, few imports: all of its memory is there once for each payload, and is the least that
the kernel reports as a payload's peak. No threads but the one that starts a script (`spawn_from_thread`).

CONTROL is a SOCK_SEQPACKET socket to the agent. First the spawner says which isolation works here; then each
message is one request (`exec_script.Request`) and brings one descriptor: a SOCK_SEQPACKET connection on which
the shepherd answers with `failed STAGE ERRNO WORDS`, which is its last word, or with the line `started` and
the run mark; then with the line `ended` and the end mark, when it is ready for another request, on the same
connection. Of a script that is over at once it says both in one message. LOCK is held by the one spawner of
its directory, in which `view` is an empty one. FACTS is a descriptor of a file: the tier
(`tier_facts.TierFacts`). GROUPS is `none` where no control groups are to be made, else `groups`; those that
can be are named behind the isolation.

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
from collections.abc import Iterable

# -I leaves out the program's directory; appended, so that nothing here can shadow the standard library.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from actors.process import procfs
from node.confinement.bubblewrap import DEVICES, OF_ROOT_ALONE
from node.confinement.tier_facts import BASH, TierFacts
from node.executors import control_groups, mark_files, namespaces
from node.executors.exec_script import REQUEST, Request, StartError
from node.executors.limit_watch import LimitWatch, make_group
from node.executors.log_pipes import LogPipe
from node.executors.process_tree import Tree
from node.executors.script_tiers import make_tier

_CONNECTION = 3
_STARTING, _IDLE = mark_files.STARTING.encode(), mark_files.IDLE.encode()
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


def answer(connection: int, said: bytes) -> None:
    try:
        os.write(connection, said)
    except OSError:
        return  # The agent may be gone. The payload runs all the same: the next agent finds its mark.


def answer_failed(connection: int, stage: str, error: OSError) -> None:
    answer(connection, f"failed {stage} {error.errno}".encode())


def close_all_from(first: int, kept: Iterable[int]) -> None:
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = max(first, descriptor + 1)
    os.closerange(first, _DESCRIPTORS)


class Host:
    """What the spawner knows of this machine and tells each shepherd."""

    def __init__(
        self, isolation: str, facts: TierFacts, groups: control_groups.ControlGroups, place: bytes
    ) -> None:
        self.isolation, self.groups = isolation, groups
        self.namespaced = isolation != namespaces.SUBREAPER
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.boot = procfs.boot_id()
        with open("/proc/self/mounts", "rb") as mounts:
            # Where /proc shows only what one may look into, a closed shepherd would look dead to the agent.
            self.may_close = not any(line.split()[2] == b"proc" and b"hidepid=" in line for line in mounts)
        safe = self.namespaced and self.may_close and namespaces.can_become()
        self.tier = make_tier(facts, place, namespaced=self.namespaced, threads=safe)
        self.scripts_are_root = self.uid == 0 and not facts.own_uid and facts.tier != BASH
        """And kept from what is root's alone."""


class Shepherd:
    """What this process is to all of its payloads. `signals`: those that it is sent."""

    def __init__(self, host: Host, guard: int | None) -> None:
        """Raises `OSError`."""
        self.host = host
        # All of this needs the outer /proc, the one the agent sees.
        if host.isolation == namespaces.USERNS:
            namespaces.map_own_ids(host.uid, host.gid)
        self.identity = {
            "isolation": host.isolation,
            "boot": host.boot,
            "pid": str(int(os.readlink("/proc/self"))),
            "since": str(procfs.start_time("self")),
        }
        if guard is not None:
            self.identity |= {"guard": str(guard), "guard_since": str(procfs.start_time(guard))}
        if not host.namespaced:
            namespaces.adopt_orphans()
        else:
            self.identity["shared"] = "1"
            namespaces.mount_own_proc()
            if host.scripts_are_root:
                namespaces.keep_modes(DEVICES)
                for name in OF_ROOT_ALONE:
                    with contextlib.suppress(FileNotFoundError):
                        namespaces.hide(f"/proc/{name}".encode())
            host.tier.prepare()
            self._mounts = namespaces.Mounts()
        if host.may_close:
            namespaces.close_to_others()
        self.signals = _AWAITED.open()

    def serve(self, request: Request) -> None:
        """This payload, and all that follow. Raises `OSError`, or answers, if one cannot be started."""
        # All that is opened from now on belongs to one payload.
        first = max(self.signals, _CONNECTION, self._mounts.descriptor if self.host.namespaced else 0) + 1
        while True:
            if self.host.namespaced:
                self._mounts.copy()
            stage = "logs"
            try:
                output = LogPipe(request.directory + b"/stdout.log", request.log_limit)
                errors = LogPipe(request.directory + b"/stderr.log", request.log_limit)
                stage = "prepare"
                watch = Watch(request, self, (output, errors))
                begun = watch.begin()
            except OSError as error:
                # Who hears it may look at once for what is left of the payload: by its logs this would be.
                close_all_from(first, self.host.tier.kept)
                answer_failed(_CONNECTION, stage, error)
                return
            if not begun:
                return
            try:
                end = watch.finish()
            except OSError:
                watch.say()  # Or it would count as one that has not begun.
                raise
            # Before it is told: from then on no payload is ended by a signal to us, nor found by our name.
            namespaces.be_called(_IDLE)
            watch.say(mark_files.ENDED + end)
            if not self.host.namespaced:
                return
            close_all_from(first, self.host.tier.kept)
            try:
                self._mounts.leave_copy()
            except OSError:
                return  # Another one does it.
            packed = os.read(_CONNECTION, REQUEST)
            if not packed:
                return  # The agent has ended, or has enough of us.
            while namespaces.read_signal(self.signals):
                pass  # Meant for the one before.
            request = Request(packed)


class Watch:
    """One payload, from the start of its script to the end mark. `logs` are its output and errors."""

    def __init__(self, request: Request, shepherd: Shepherd, logs: tuple[LogPipe, LogPipe]) -> None:
        self._request = request
        output, errors = self._both = logs
        self._logs = {output.reader: output, errors.reader: errors}
        self._shepherd, self._host = shepherd, shepherd.host
        self._started = self._begun = 0.0
        self._unsaid = b""

    def begin(self) -> bool:
        """Start the script; False when that failed, which has then been said. Raises `OSError` before."""
        request = self._request
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._directory = os.open(request.directory, flags)
        self._end = mark_files.Draft(mark_files.END, self._directory)
        self._started, self._begun = time.time(), time.monotonic()
        namespaces.be_called(_STARTING + request.name)
        self._mark = self._run_mark()
        try:
            mark_files.leave_word(self._directory)
            mark_files.create(mark_files.RUN, self._mark, self._directory)
        except OSError:
            self._end.discard()
            raise
        # Should the mark be lost while it runs, it is found by this; not before there was one.
        namespaces.be_called(request.name)
        trouble = self._start_script()
        for log in self._both:
            log.close_writer()
        if trouble:
            # What was to start it may have been killed as all else here is about to be (see `HOLD`).
            time.sleep(mark_files.HOLD)
            # The mark first: who hears the answer may look for it at once.
            mark = {"key": request.key, "nonce": request.nonce, "failed": trouble}
            self._end.publish(mark_files.pack(mark))
            answer(_CONNECTION, f"failed {trouble}".encode())
        self._unsaid = mark_files.STARTED + self._mark
        if not trouble and not self._host.namespaced:
            self.say()  # Such a script may stop its shepherd: only who knows of it can have it go on.
        return not trouble

    def say(self, end: bytes = b"") -> None:
        """Tell the agent that it has started, if that was not told, and how it has ended."""
        if said := self._unsaid + end:
            answer(_CONNECTION, said)
        self._unsaid = b""

    def _start_script(self) -> str:
        """The mark is there before its first command. What went wrong, as `StartError` says it."""
        request = self._request
        if self._host.namespaced and self._host.tier.shows_marks and request.uid < 0:
            self._hide_mark()
        output, errors = self._both
        self._group = make_group(request, self._host.groups) if request.limits else None
        try:
            self._script = self._host.tier.start(request, (output.writer, errors.writer), errors.reader)
        except StartError as error:
            if self._group is not None:
                self._group.remove()
            return str(error)
        if self._group is not None:
            self._group.close()
        if not self._host.namespaced:
            # By its session its processes are known, should nothing hold them together any more.
            more = mark_files.pack({"session": str(self._script.pid)})
            with contextlib.suppress(OSError):
                mark_files.add(mark_files.RUN, more, self._directory)
            self._mark += more
        return ""

    def _hide_mark(self) -> None:
        """It spares the mark from a script of the same user."""
        try:
            namespaces.hide(self._request.directory + b"/run")
        except OSError:
            return  # It is as safe as elsewhere.

    def finish(self) -> bytes:
        """Return when all of it has ended and the end mark is on the disk: what that says."""
        tree = Tree(self._host.namespaced, self._script.pid, self._script.spent)
        ended, duration, asked, exceeded = self._watch(tree)
        for log in self._both:
            log.finish()
        if os.fstat(self._directory).st_mode & 0o7777 != 0o700:
            os.fchmod(self._directory, 0o700)  # A script of the same user may have closed it to all.
        mark = mark_files.pack_end(
            self._request.key,
            self._request.nonce,
            self._both,
            status=tree.status,
            started=self._started,
            ended=ended,
            wall=duration,
            cpu=max(0.0, tree.cpu_seconds),
            peak=tree.peak_bytes,
            asked=asked,
            exceeded=exceeded,
        )
        self._end.publish(mark)
        return mark

    def _run_mark(self) -> bytes:
        mark = {
            "key": self._request.key,
            "nonce": self._request.nonce,
            "started": repr(self._started),
            "uptime": repr(time.clock_gettime(time.CLOCK_BOOTTIME)),
            **self._shepherd.identity,
        }
        if not self._host.namespaced:
            # Where a namespace holds it together nobody looks for it by these.
            mark["pipes"] = " ".join(log.pipe for log in self._both)
        return mark_files.pack(mark)

    def _watch(self, tree: Tree) -> tuple[float, float, bool, str]:
        """Return when all of it has ended: when the script did and how many seconds it had taken, whether
        that was asked for, and the limit that was exceeded, if one was."""
        watch = (
            LimitWatch(self._request, self._group, tree, self._directory) if self._request.limits else None
        )
        exceeded = ""
        signals = self._shepherd.signals
        awaited = select.poll()
        for descriptor in (signals, *self._logs):
            awaited.register(descriptor, select.POLLIN)
        said_by: float | None = time.monotonic() + mark_files.BRIEF
        deadline: float | None = None
        ended, duration, asked = 0.0, 0.0, False
        anything_left = True  # Of what has ended by now there is a signal.
        while True:
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
            if said_by is not None and now >= said_by:
                self.say()
                said_by = None
            if watch is not None and (exceeded := watch.look()):
                break
            dues = (deadline, said_by, None if watch is None else watch.due())
            due = min((due for due in dues if due is not None), default=None)
            self._carry(awaited, None if due is None else max(0.0, due - now))
            number, outside = namespaces.read_signal(signals) or (signal.SIGCHLD, False)
            anything_left = tree.reap()
            if number == signal.SIGCHLD:
                continue
            if self._host.namespaced and not outside:
                continue  # From inside the namespace: the script does not command its shepherd.
            # Whoever asked may not live to say so; the next node would take it for the script's own end.
            asked = asked or tree.status is None or mark_files.was_killed(tree.status)
            if number == signal.SIGUSR1:
                break
            until = time.monotonic() + self._grace()
            deadline = until if deadline is None else min(deadline, until)
            tree.ask()
        if anything_left:
            self.say()  # What the kernel waits for may not end.
            tree.end()
        if not ended:
            ended, duration = time.time(), time.monotonic() - self._begun
        if watch is not None:
            exceeded = exceeded or watch.at_end()
        if self._group is not None:
            self._group.remove()
        if not asked and not exceeded and tree.status is not None and mark_files.was_killed(tree.status):
            self.say()  # Who does not know that it has started tells nobody to end it.
            asked = _is_told_to_end(signals, self._host.namespaced)
        return ended, duration, asked, exceeded

    def _carry(self, awaited: select.poll, timeout: float | None) -> None:
        """Wait for a signal or for something that was printed, which goes into its log."""
        stuck = [log for log in self._both if log.stuck]
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


def _is_told_to_end(signals: int, namespaced: bool) -> bool:
    """Whether this shepherd is, while it holds an end back. Nothing lives that is inside of its namespace;
    what was sent from there may still be pending."""
    until = time.monotonic() + mark_files.HOLD
    awaited = select.poll()
    awaited.register(signals, select.POLLIN)
    while (left := until - time.monotonic()) > 0:
        awaited.poll(1000 * left)
        number, outside = namespaces.read_signal(signals) or (signal.SIGCHLD, False)
        if number != signal.SIGCHLD and (outside or not namespaced):
            return True
    return False


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
    close_all_from(_CONNECTION + 1, host.tier.kept)
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
        stage = "prepare"
        shepherd = Shepherd(host, guarded_by)
        shepherd.serve(request)
    except OSError as error:
        answer_failed(_CONNECTION, stage, error)


def spawn_for_ever(control: socket.socket, host: Host) -> None:
    room = bytearray(REQUEST)
    while True:
        size, passed, _, _ = control.recvmsg_into([room], socket.CMSG_SPACE(_INT.size), _CLOEXEC)
        if not size:
            return  # The agent has ended. The shepherds go on.
        for _, _, data in passed:
            (connection,) = _INT.unpack(data)
            request = Request(bytes(room[:size]))
            if not host.namespaced:
                host.tier.keep(request)
            try:
                pid = namespaces.fork(host.isolation)
            except OSError as error:
                answer_failed(connection, "fork", error)
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
    groups = control_groups.ControlGroups({}, "")
    if isolation and sys.argv[5] == "groups":
        # So called by all spawners of this node, and by none of another.
        own = os.fstat(lock)
        groups = control_groups.find(f"job-{own.st_dev:x}-{own.st_ino:x}-")
        groups.sweep(time.time())
    control.send(" ".join((isolation or "none", *groups.controllers)).encode())
    if not isolation:
        return
    # Shepherds are nobody's to wait for: they leave marks, and must not leave zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    facts = int(sys.argv[4])
    packed = b"".join(iter(lambda: os.read(facts, 1 << 20), b""))
    place = os.path.join(os.fsencode(os.path.dirname(sys.argv[3])), b"view")
    host = Host(isolation, TierFacts.unpack(packed), groups, place)
    gc.disable()
    gc.freeze()
    spawn_for_ever(control, host)


if __name__ == "__main__":
    main()
