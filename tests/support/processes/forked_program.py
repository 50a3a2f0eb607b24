"""The command `orchestrator`, imported once and begun any number of times: forked_program.py SOCKET

Each message on that SOCK_SEQPACKET socket is one call, as JSON, with the descriptors that it is to have; the
answer is its pid. What is begun is a child of whoever began this program, and goes through `main` as one does
that was begun anew: it only shares what was imported before.
"""

from __future__ import annotations

import atexit
import ctypes
import encodings.idna
import gc
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

import anyio._backends._trio
import structlog
from click import Context

import actors.process.stop_signals
import node.reloading
import node.server
import orchestrator.server
import orchestrator.up
from orchestrator import http_client
from orchestrator.cli import load_command, main

_IMPORTED: Final = (
    *(node.server, orchestrator.server, *map(load_command, main.list_commands(Context(main)))),
    # What is imported only once it is wanted, which is at each start.
    *(actors.process.stop_signals, node.reloading, orchestrator.up),
    *(anyio._backends._trio, encodings.idna, structlog, structlog.stdlib),
)
_AUTHORITIES: Final = http_client._usual_authorities()
"""Read once, and kept there for all that are begun."""

_SYS_CLONE3: Final = 435
_CLONE_PARENT: Final = 0x8000
_MOST: Final = 1 << 18


def _fork() -> int:
    """As `os.fork`; the child has this process's parent."""
    python = ctypes.PyDLL(None, use_errno=True)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    arguments = (ctypes.c_uint64 * 8)(_CLONE_PARENT, 0, 0, 0, 0, 0, 0, 0)
    python.PyOS_BeforeFork()
    pid: int = python.syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(64))
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return pid


def _become(call: dict[str, Any], given: Sequence[int]) -> None:
    """Be a process as `subprocess.Popen` begins one; `given` are stdin, stdout, stderr and what is passed."""
    os.setsid()
    # Above all that they may have to be.
    high = [os.dup2(one, 1000 + number) for number, one in enumerate(given)]
    for one in given:
        os.close(one)
    for one, wanted in zip(high, call["descriptors"], strict=True):
        os.dup2(one, wanted)
        os.close(one)
    os.chdir(call["directory"])
    os.environ.clear()
    os.environ.update(call["environment"])
    sys.argv = call["arguments"]


def _begun(control: socket.socket) -> bool:
    """Whether this is a process that was begun; False when nobody is there any more to begin one."""
    while True:
        message, given, _, _ = socket.recv_fds(control, _MOST, 64)
        if not message:
            return False
        pid = _fork()
        if pid == 0:
            control.close()
            _become(json.loads(message), given)
            return True
        for one in given:
            os.close(one)
        control.send(str(pid).encode())


def _run() -> None:
    """End as an interpreter does, but for what was imported: to take it apart would copy each page of it."""
    try:
        main()
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code)


if __name__ == "__main__":
    gc.freeze()
    if _begun(socket.socket(fileno=int(sys.argv[1]))):
        _run()
