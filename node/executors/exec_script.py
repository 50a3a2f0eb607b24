"""What a shepherd is asked to run, and how it starts it.

Imported by the shepherd only.
"""

from __future__ import annotations

import errno
import os
import time

REQUEST = 160 << 10
"""Bytes of a request at most: it is one message, which a socket takes without being asked for more room."""
_SCARCE = (errno.EAGAIN, errno.ENOMEM)
_TRIES = 60
_PAUSE = 0.5
"""Seconds after which a start is tried again for which the machine had no process or no memory."""


class Request:
    """What one payload needs to run: fields that each end with a NUL."""

    def __init__(self, packed: bytes) -> None:
        fields = packed.split(b"\0")[:-1]
        self.key = os.fsdecode(fields[0])
        self.nonce = os.fsdecode(fields[1])
        self.directory = fields[2]
        self.grace = float(fields[3])
        self.log_limit = int(fields[4])
        count = int(fields[5])
        self.arguments = fields[6 : 6 + count]
        pairs = (entry.partition(b"=") for entry in fields[6 + count :])
        self.environment = {name: value for name, _, value in pairs}


class StartError(Exception):
    """`STAGE ERRNO`: where a start failed, and why."""


def start_script(request: Request, logs: tuple[int, int]) -> int:
    """The pid of the script, which prints into `logs`, in a session of its own and in its directory. Raises
    `StartError`.

    The child borrows our memory until it is bash: a fork would copy what both of us write meanwhile.
    """
    stage = "directory"
    try:
        os.chdir(request.directory + b"/work")
        stage = "exec"
        for left in reversed(range(_TRIES)):
            try:
                return os.posix_spawn(
                    request.arguments[0],
                    request.arguments,
                    request.environment,
                    file_actions=[(os.POSIX_SPAWN_DUP2, log, number) for number, log in enumerate(logs, 1)],
                    setsid=True,
                    setsigmask=(),
                )
            except OSError as error:
                if error.errno not in _SCARCE or not left:
                    raise
                time.sleep(_PAUSE)
        raise AssertionError
    except OSError as error:
        raise StartError(f"{stage} {error.errno}") from None
    finally:
        os.chdir("/")
