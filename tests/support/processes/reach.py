"""What whoever runs this can reach: `python3 reach.py < TARGETS`, a job's script among others.

TARGETS is a JSON object, by the names of the targets below; those without one are not tried. Prints a JSON
object: what was tried, and `reached`, or the error that was met instead. Standard library only, from Python
3.9 on: it runs where the packages of the tests are not seen.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206


def check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def write(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def make(directory: str) -> None:
    os.close(os.open(f"{directory}/made", os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def truncate_by_opening(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))


def trace(pid: int) -> None:
    check(LIBC.ptrace(PTRACE_SEIZE, pid, None, None))


def change_limits(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def change_priority(pid: int) -> None:
    os.setpriority(os.PRIO_PROCESS, pid, 19)


def watch(directory: str) -> None:
    check(LIBC.inotify_add_watch(LIBC.inotify_init(), os.fsencode(directory), 0x100))


def connect_tcp(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 30).close()


def listen_tcp(_: Any) -> None:
    socket.create_server(("127.0.0.1", 0)).close()


def send_udp(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", port))


def connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)


def make_user_namespace(_: Any) -> None:
    subprocess.run(["unshare", "-U", "true"], check=True, capture_output=True)


def mount(directory: str) -> None:
    check(LIBC.mount(b"none", os.fsencode(directory), b"tmpfs", 0, None))
    check(LIBC.umount2(os.fsencode(directory), 0))


def add_key(_: Any) -> None:
    check(LIBC.syscall({"x86_64": 248, "aarch64": 217}[os.uname().machine], b"user", b"x", b"x", 1, -3))


def run_io_uring(_: Any) -> None:
    parameters = ctypes.create_string_buffer(120)
    check(LIBC.syscall(425, 1, parameters))


REACHES: dict[str, Callable[[Any], object]] = {
    "read a file that only root may read": read,
    "read a private file that any user may read": read,
    "read a file that only the node may read": read,
    "read a file of another job": read,
    "write a file of another job": write,
    "list the jobs": os.listdir,
    "see the size of a file of another job": os.stat,
    "watch which files another job makes": watch,
    "write a file outside that any user may write": write,
    "make a file outside where any user may": make,
    "truncate a file outside that any user may write": lambda path: os.truncate(path, 0),
    "truncate a file outside by opening it": truncate_by_opening,
    "change the mode of a file of the node": lambda path: os.chmod(path, 0o606),
    "change the times of a file of the node": lambda path: os.utime(path, (1, 1)),
    "change the group of a file of the node": lambda path: os.chown(path, -1, os.getgid()),
    "add an attribute to a file of the node": lambda path: os.setxattr(path, "user.x", b"x"),
    "signal a process of the node": lambda pid: os.kill(pid, 0),
    "trace a process of the node": trace,
    "read the environment of a process of the node": lambda pid: read(f"/proc/{pid}/environ"),
    "read the memory of a process of the node": lambda pid: open(f"/proc/{pid}/mem", "rb").close(),
    "read the arguments of a process of the node": lambda pid: read(f"/proc/{pid}/cmdline"),
    "change the limits of a process of the node": change_limits,
    "change the priority of a process of the node": change_priority,
    "read a file of the node in /dev/shm": read,
    "connect by TCP": connect_tcp,
    "listen by TCP": listen_tcp,
    "send by UDP": send_udp,
    "connect to a socket of a program": connect_unix,
    "connect to an abstract socket of a program": lambda name: connect_unix(f"\0{name}"),
    "make a user namespace": make_user_namespace,
    "mount": mount,
    "add a key": add_key,
    "use io_uring": run_io_uring,
}


def main() -> None:
    signal.alarm(120)  # Whatever hangs must not stay.
    targets = json.load(sys.stdin)
    met = {}
    for name, target in targets.items():
        try:
            REACHES[name](target)
        except OSError as error:
            met[name] = f"{type(error).__name__}: {error.strerror}"
        except subprocess.CalledProcessError as error:
            met[name] = error.stderr.decode().strip()
        else:
            met[name] = "reached"
    json.dump(met, sys.stdout)


if __name__ == "__main__":
    main()
