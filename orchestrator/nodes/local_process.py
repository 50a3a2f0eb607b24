"""Nodes as processes of this machine, and a server beside them: how they are started, and what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import trio

_TOKEN: Final = "ORCHESTRATOR_TOKEN"
_PAIR_TOKEN: Final = "ORCHESTRATOR_PAIR_TOKEN"

GRACE_SECONDS: Final = 2
"""Seconds that jobs have after SIGTERM when their node ends. With a second more the node has ended too."""

_RUN: Final = """
sys.argv = ["orchestrator", *sys.argv[3:]]
from orchestrator.cli import main
main()
"""

# The process asks the kernel for a signal at the death of whoever started it.
_BOUND: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("whoever started this process is gone already")
"""

# The node does nothing before it is told that it is on record. Whoever dies in between leaves no node behind
# that nobody knows: the pipe ends and so does the process.
_HELD: Final = """
import os, sys
if os.read(0, 1) != b"!":
    sys.exit("whoever started this node is gone already")
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
os.close(nothing)
"""


def start_bound(
    options: Sequence[str], errors: IO[bytes], pair_token: str | None = None
) -> subprocess.Popen[bytes]:
    """A node that ends its jobs and itself when this process ends, however that comes. Its output is a pipe.
    It pairs by the `pair_token`.

    To be called in the main thread: the kernel's signal comes when the thread that began the node ends.
    """
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    told = {_PAIR_TOKEN: pair_token}
    return _start(_BOUND, ["node", *options], stdin=nothing, stdout=pipe, stderr=errors, told=told)


def start_bound_server() -> subprocess.Popen[bytes]:
    """The server of `up`: it waits on its input, a pipe, for what to serve. Its output is a pipe. It is
    killed when this process ends, so that the next one finds nothing in use.

    To be called in the main thread, as `start_bound`.
    """
    pipe = subprocess.PIPE
    return _start(_BOUND, ["server-of-up"], stdin=pipe, stdout=pipe, stderr=None, at_death=signal.SIGKILL)


def start_held(
    options: Sequence[str], output: IO[bytes], token: str | None = None
) -> subprocess.Popen[bytes]:
    """A node that outlives this process, once `release` has been called; until then it waits, and ends when
    this process does. It joins by the `token`."""
    told, pipe = {_TOKEN: token}, subprocess.PIPE
    return _start(_HELD, ["node", *options], stdin=pipe, stdout=output, stderr=output, told=told)


def release(process: subprocess.Popen[bytes]) -> None:
    """Let a held node begin. Raises BrokenPipeError if it is gone."""
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(b"!")


def _start(
    program: str,
    arguments: Sequence[str],
    *,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: IO[bytes] | None,
    told: Mapping[str, str | None] | None = None,
    at_death: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    # Never this process's own tokens, which may be for everything, nor whom to tell that it is ready.
    withheld = (_TOKEN, "NOTIFY_SOCKET")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(withheld)}
    given = {name: value for name, value in (told or {}).items() if value is not None}
    whose = [str(os.getpid()), str(int(at_death))]
    return subprocess.Popen(
        [sys.executable, "-X", "utf8", "-c", program + _RUN, *whose, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=inherited | given,
        # A session of its own: Ctrl-C comes to this process alone, which ends the others in order.
        start_new_session=True,
    )


async def read_url(output: trio.abc.ReceiveStream) -> str:
    """What a process says that it listens on; "" when it ends before."""
    said = b""
    async for piece in output:
        said += piece
        if b"\n" in said:
            return said.partition(b"\n")[0].decode().removeprefix("listening on ")
    return ""


def last_words(log: Path) -> str:
    """The last line of a node's log that says something, and where the log is."""
    # A traceback of several errors has a frame around it.
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"{log} cannot be read: {error.strerror}"
    lines = [line.strip(" |+-") for line in text.splitlines() if line.strip(" |+-")]
    return f"{lines[-1] if lines else 'it said nothing'} (its log is {log})"
