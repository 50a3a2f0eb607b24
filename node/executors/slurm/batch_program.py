"""What Slurm runs for a payload: it starts the script, keeps its logs, and leaves a mark of its end on disk.

It runs on a node of the cluster by whatever Python is there, and needs nothing but the standard library and
the two modules that come with it. The job's directory is one that both machines see.

    DATA/payloads/KEY/order    what is to be run
    DATA/payloads/KEY/begun    it has begun, or never will: whoever makes this file first decides
    DATA/payloads/KEY/stop     the node wants it to end, after so many seconds of grace
    DATA/payloads/KEY/ended    how it ended

A mark carries the key and the nonce of the order. All jobs of a node run as one user, whom Slurm does not
keep from these files: a script that sets out to can change what is told of itself and of others.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time

from node.executors import mark_files
from node.executors.log_pipes import LogPipe

ORDER = "order"
BEGUN = "begun"
STOP = "stop"
BEAT = 10.0
"""Seconds after which the time of `begun` is set anew while it lives, whatever Slurm knows of it."""
NOT_RUN = 75
"""The exit code of one that has begun before, or never will."""
_PASSED = (
    "SLURM_",
    "SLURMD_",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY",
)
_SUBREAPER = 36
_LISTS = 16


def main(directory: str) -> int:
    """Run the payload of this directory; how the batch job is to end."""
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with open(os.path.join(directory, ORDER), encoding="utf-8", errors="surrogateescape") as file:
        order = json.load(file)
    word = {
        "key": order["key"],
        "nonce": order["nonce"],
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "started": repr(time.time()),
    }
    try:
        mark_files.create(BEGUN, mark_files.pack(word), place)
    except FileExistsError:
        print("this job has begun before, or is not to begin any more", file=sys.stderr)
        return NOT_RUN
    return _Job(directory, place, order).run()


class _Job:
    def __init__(self, directory: str, place: int, order: dict) -> None:  # type: ignore[type-arg]
        self._directory = directory
        self._place = place
        self._order = order
        self._asked = False
        self._told = False
        self._kill_at = None  # type: float | None

    def run(self) -> int:
        _inherit_orphans()
        draft = mark_files.Draft(mark_files.END, self._place)
        logs = []
        for name in ("stdout.log", "stderr.log"):
            path = os.path.join(self._directory, name)
            logs.append(LogPipe(os.fsencode(path), self._order["log_limit"]))
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        started, begun = time.time(), time.monotonic()
        script = self._start(logs)
        for log in logs:
            log.close_writer()
        status = self._follow(script, logs, wake)
        if not (self._asked or self._told) and mark_files.was_killed(status):
            self._hear_late(wake)
        self._end_rest()
        for log in logs:
            log.finish()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        draft.publish(
            mark_files.pack_end(
                self._order["key"],
                self._order["nonce"],
                logs,
                status=status,
                started=started,
                ended=time.time(),
                wall=time.monotonic() - begun,
                cpu=used.ru_utime + used.ru_stime,
                peak=used.ru_maxrss * 1024,
                asked=self._asked,
                told=str(int(self._told)),
            )
        )
        self._sync()
        if not os.WIFSIGNALED(status):
            return os.WEXITSTATUS(status)
        # Not the signal itself: Slurm takes a batch script that is killed for one that could not begin.
        return 128 + os.WTERMSIG(status)

    def _sync(self) -> None:
        """The mark and the logs outlive this machine."""
        for name in (mark_files.END, "stdout.log", "stderr.log"):
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._place)
            except OSError:
                continue
            os.fsync(file)
            os.close(file)
        os.fsync(self._place)

    def _start(self, logs) -> int:  # type: ignore[no-untyped-def]
        kept = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
        kept.pop("SLURM_TIME_FORMAT", None)  # ours, for sbatch
        environment = {**kept, **self._order["environment"]}
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for stream, log in enumerate(logs, 1):
                os.dup2(log.writer, stream)
            for kind, value in self._order["rlimits"].items():
                _, hard = resource.getrlimit(int(kind))
                most = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(int(kind), (most, most))
            work = os.path.join(self._directory, "work")
            os.chdir(work)
            command = ["bash", *self._order["options"], os.path.join(work, "run.sh")]
            os.execvpe("bash", command, environment)
        except (OSError, ValueError) as error:
            os.write(2, f"the script cannot be run: {error}\n".encode())
        finally:
            os._exit(126)

    def _follow(self, script: int, logs, wake: int) -> int:  # type: ignore[no-untyped-def]
        """Take what it prints and what Slurm signals until the script has ended; its status."""
        open_logs = {log.reader: log for log in logs}
        beat = time.monotonic()
        while True:
            if time.monotonic() >= beat + BEAT:
                beat = time.monotonic()
                os.utime(BEGUN, dir_fd=self._place)
            for log in logs:
                if log.stuck:
                    log.keep(b"")
            timeout = 0.5 if any(log.stuck for log in logs) else BEAT
            if self._kill_at is not None:
                timeout = min(timeout, max(0.0, self._kill_at - time.monotonic()))
            ready, _, _ = select.select([wake, *open_logs], [], [], timeout)
            for reader in ready:
                if reader == wake:
                    if signal.SIGTERM in os.read(wake, 4096):
                        self._hear_term()
                elif open_logs[reader].take() == 0:
                    del open_logs[reader]
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_at = time.monotonic() + 0.2
                self._send(signal.SIGKILL)
            status = _reap(script)
            if status is not None:
                return status

    def _hear_late(self, wake: int) -> None:
        """Who ends a job signals all of it, in any order: the script may be gone before this hears."""
        until = time.monotonic() + mark_files.HOLD
        while not self._told and not self._asked and time.monotonic() < until:
            select.select([wake], [], [], max(0.0, until - time.monotonic()))
            try:
                if signal.SIGTERM in os.read(wake, 4096):
                    self._hear_term()
            except BlockingIOError:
                continue

    def _hear_term(self) -> None:
        grace = self._order["grace"]
        try:
            with open(os.path.join(self._directory, STOP), encoding="ascii") as file:
                grace = float(file.read())
            self._asked = True
        except (OSError, ValueError):
            self._told = True  # Slurm wants it to end, or somebody else.
        kill_at = time.monotonic() + grace
        if self._kill_at is None or kill_at < self._kill_at:
            first, self._kill_at = self._kill_at is None, kill_at
            if first and grace > 0:
                _ask_all()

    def _send(self, number: int) -> bool:
        """Signal all that the script has started; whether there is any."""
        found = _descendants()
        for pid in found:
            _signal(pid, number)
        return bool(found)

    def _end_rest(self) -> None:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return  # it is heir to all that it has started: without a child there is nothing left
        while self._send(signal.SIGKILL):
            _reap(0)
            time.sleep(0.005)


def _inherit_orphans() -> None:
    """Become the parent of whatever the script leaves behind."""
    try:
        # What `ctypes` itself does: the rest of it takes long to import.
        import _ctypes

        prctl = _ctypes.dlsym(_ctypes.dlopen("", 0), "prctl")
        _ctypes.call_function(prctl, (_SUBREAPER, 1, 0, 0, 0))
    except (ImportError, AttributeError, OSError):
        import ctypes

        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _reap(script: int) -> int | None:
    """The script's status, if it has ended."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == script:
            found = status


def _ask_all() -> None:
    """SIGTERM to all that the script has started, parents first, and SIGCONT, or what is stopped would not
    hear it."""
    asked = set()  # type: set[int]
    # Who was forked before its parent was asked is in the next list. Who forks for ever is let be.
    for _ in range(_LISTS):
        found = [pid for pid in _descendants() if pid not in asked]
        if not found:
            return
        for pid in found:
            _signal(pid, signal.SIGTERM)
            _signal(pid, signal.SIGCONT)
        asked.update(found)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # Gone, or of another user by sudo: nothing that we could do about it.


def _descendants() -> list[int]:
    """Parents before their children."""
    children = {}  # type: dict[int, list[int]]
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(name))
    found, unseen = [], [os.getpid()]
    while unseen:
        under = children.get(unseen.pop(), [])
        found += under
        unseen += under
    return found
