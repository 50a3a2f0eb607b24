"""What a shepherd is asked to run, and the process that becomes it.

Imported by the shepherd only.
"""

from __future__ import annotations

import os
import signal


class Request:
    """What one payload needs to run."""

    def __init__(self, fields: list[bytes]) -> None:
        self.key = os.fsdecode(fields[0])
        self.nonce = os.fsdecode(fields[1])
        self.directory = fields[2]
        self.grace = float(fields[3])
        self.log_limit = int(fields[4])
        count = int(fields[5])
        self.arguments = fields[6 : 6 + count]
        pairs = (entry.partition(b"=") for entry in fields[6 + count :])
        self.environment = {name: value for name, _, value in pairs}


def read_request(connection: int) -> Request | None:
    """Fields that each end with a NUL, the first being the length of the others; None when cut short."""
    data = bytearray()
    while chunk := os.read(connection, 65536):
        data += chunk
    length, _, rest = bytes(data).partition(b"\0")
    if not length or len(rest) != int(length):
        return None
    return Request(rest.split(b"\0")[:-1])


def become_script(request: Request, logs: tuple[int, int], gate: int, failure: int) -> None:
    """Be the script that prints into `logs`, as soon as the gate opens: the run mark must be on the disk
    before its first command."""
    stage = "session"
    try:
        os.setsid()
        os.umask(0o022)
        stage = "logs"
        for number, log in zip((1, 2), logs, strict=True):
            os.dup2(log, number)
        stage = "directory"
        os.chdir(request.directory + b"/work")
        stage = "gate"
        if not os.read(gate, 1):
            os._exit(126)
        stage = "exec"
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(request.arguments[0], request.arguments, request.environment)
    except OSError as error:
        os.write(failure, f"{stage} {error.errno}".encode())
    finally:
        os._exit(127)
