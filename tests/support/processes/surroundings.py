"""What is around a job that should not get at it, and what it gets at all the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.processes.reach import REACHES


class Surroundings:
    """Files of the node and of another job, what every user may write, a process, and servers.

    `directory`: one that every user gets to. `other`: the uid of the other job, None for that of the node.
    """

    def __init__(self, directory: Path, other: int | None, held: ExitStack) -> None:
        directory.chmod(0o755)
        self.jobs, self.shown, private = (directory / name for name in ("jobs", "shown", "private"))
        another, mountpoint = self.jobs / "other", directory / "mountpoint"
        for each in (self.jobs, self.shown, private, another, mountpoint):
            each.mkdir()
        another.chmod(0o700)
        self.shown.chmod(0o777)
        for file, mode in (
            (private / "open", 0o644),
            (private / "closed", 0o600),
            (another / "file", 0o600),
            (self.shown / "writable", 0o666),
            (self.shown / "nodes", 0o644),
        ):
            file.write_text("content")
            file.chmod(mode)
        if other is not None:
            for each in (another, another / "file"):
                os.chown(each, other, other)
        victim = held.enter_context(subprocess.Popen(["sleep", "600"], env={"SECRET": "x"}))
        held.callback(victim.kill)
        number, memory = tempfile.mkstemp(dir="/dev/shm")
        held.callback(os.unlink, memory)
        os.close(number)
        tcp = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        unix = held.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(directory / "socket"))
        (directory / "socket").chmod(0o777)
        abstract = held.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind("")
        for listener in (unix, abstract):
            listener.listen()
        of_the_node = {"mode", "times", "group", "attribute"}
        self.targets: dict[str, Any] = {
            "read a file that only root may read": "/etc/shadow",
            "read a private file that any user may read": str(private / "open"),
            "read a file that only the node may read": str(private / "closed"),
            "read a file of another job": str(another / "file"),
            "write a file of another job": str(another / "file"),
            "list the jobs": str(self.jobs),
            "see the size of a file of another job": str(another / "file"),
            "watch which files another job makes": str(another),
            "write a file outside that any user may write": str(self.shown / "writable"),
            "make a file outside where any user may": str(self.shown),
            "truncate a file outside that any user may write": str(self.shown / "writable"),
            "truncate a file outside by opening it": str(self.shown / "writable"),
            **{
                name: str(self.shown / "nodes")
                for name in REACHES
                if name.endswith("a file of the node") and of_the_node & set(name.split())
            },
            **{name: victim.pid for name in REACHES if name.endswith("a process of the node")},
            "read a file of the node in /dev/shm": memory,
            "connect by TCP": tcp.getsockname()[1],
            "listen by TCP": None,
            "send by UDP": udp.getsockname()[1],
            "connect to a socket of a program": str(directory / "socket"),
            "connect to an abstract socket of a program": abstract.getsockname()[1:].decode(),
            "make a user namespace": None,
            "mount": str(mountpoint),
            "add a key": None,
            "use io_uring": None,
        }


def reached(said: str) -> set[str]:
    """By what `reach.py` has printed. All of it must have been tried."""
    met: dict[str, str] = json.loads(said)
    assert met.keys() == REACHES.keys()
    return {name for name, how in met.items() if how == "reached"}


def reached_behind_landlock(abi: int, *, own_uid: bool, alone: bool = False) -> set[str]:
    """What the tier does not keep from a script, as the documents say. `alone`: it has namespaces of its own,
    for processes, mounts and IPC."""
    processes = {"read the arguments of a process of the node"}
    if own_uid:
        return set() if alone else processes
    if abi < 6:
        processes |= {"signal a process of the node"}
    if os.geteuid():
        # Root's have capabilities, which the script has not: the kernel keeps it from them.
        processes |= {"change the priority of a process of the node"}
    files = {
        "change the mode of a file of the node",
        "change the times of a file of the node",
        "see the size of a file of another job",
        "watch which files another job makes",
    }
    return files if alone else files | processes | {"read a file of the node in /dev/shm"}
