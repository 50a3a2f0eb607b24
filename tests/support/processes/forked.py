"""Processes of the command `orchestrator` without the start of an interpreter, which is most of what a server
or a node costs that serves a test: they are forked off one that has everything imported.

They are children of this process and begin with the environment, directory, descriptors and session that they
are given, as any; each has a session of its own. What a test of the start itself begins is the installed
command.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

_PROGRAM: Final = Path(__file__).with_name("forked_program.py")
_COMMAND: Final = Path(sys.executable).with_name("orchestrator")
_ROOT: Final = Path(__file__).parents[3]
_HEEDED: Final = re.compile("LANG|LC_|LD_|PYTHON|TZ")


def heeded(environment: Mapping[str, str]) -> dict[str, str]:
    """What of it an interpreter heeds when it starts, or what comes before it."""
    return {name: value for name, value in environment.items() if _HEEDED.match(name)}


def _inherited() -> tuple[object, ...]:
    """What a process takes over from who starts it, and a test may have changed: namespaces, users, signals
    that are ignored or blocked, limits."""
    status = Path("/proc/thread-self/status").read_text().splitlines()
    kept = [line for line in status if line.startswith(("Uid:", "Gid:", "SigBlk:", "SigIgn:"))]
    namespaces = [os.readlink(f"/proc/thread-self/ns/{kind}") for kind in ("net", "mnt", "pid", "user")]
    limits = [
        resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")
    ]
    return kept, namespaces, limits


_OURS: Final = heeded(os.environ), _inherited()


def can_be_forked(environment: Mapping[str, str]) -> bool:
    """Whether a process that is begun now, in this environment, starts as one did before any test."""
    return (heeded(environment), _inherited()) == _OURS


class ForkedProcess(subprocess.Popen[bytes]):
    """`args` are those of the command, with any name before them."""

    def _execute_child(self, args: Any, *how: Any) -> None:
        (_, _, _, passed, directory, environment, *_) = how
        pipes = how[9:15]
        # What is not given is this process's own.
        standard = [own if one < 0 else one for own, one in enumerate((pipes[0], pipes[3], pipes[5]))]
        call = {
            "arguments": args,
            "descriptors": [0, 1, 2, *passed],
            "directory": str(directory or Path.cwd()),
            "environment": environment,
        }
        try:
            control, _ = _imported()
            socket.send_fds(control, [json.dumps(call).encode()], [*standard, *passed])
            self.pid = int(control.recv(64))
        finally:
            whole: Any = self
            whole._close_pipe_fds(*pipes)
        self._child_created = True


def begin(command: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
    """As `subprocess.Popen`, which it is for any other program than the installed command."""
    forked = command[0] == str(_COMMAND) and can_be_forked(how["env"])
    return (ForkedProcess if forked else subprocess.Popen)(command, **how)


@cache
def _imported() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The way to the one with everything imported; it ends with this process."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), str(far.fileno())],
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[far.fileno()],
            start_new_session=True,
        )
    return near, process
