"""The command `orchestrator`, writing down in order what its durability rests on: traced_server_program.py
TRACE ARGUMENT...

A line a step: fsync PATH, rename SOURCE TARGET, sql STATEMENT, sent FIRST-LINE. The real calls are made in
any case; whatever is traced is traced before an answer is sent and after a sync or rename was made.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from typing import Any

TRACE = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

_fsync = os.fsync
_rename = os.rename
_connect = sqlite3.connect
_send = socket.socket.send
_write = os.write


def note(*words: str) -> None:
    _write(TRACE, (" ".join(words).replace("\n", " ") + "\n").encode())


def fsync(file: Any) -> None:
    number = file if isinstance(file, int) else file.fileno()
    _fsync(number)
    note("fsync", os.readlink(f"/proc/self/fd/{number}"))


def rename(source: Any, target: Any, **how: Any) -> None:
    _rename(source, target, **how)
    note("rename", os.fspath(source), os.fspath(target))


def note_answer(data: Any) -> None:
    if bytes(data[:5]) == b"HTTP/":
        note("sent", bytes(data[:64]).partition(b"\r\n")[0].decode())


def send(sock: socket.socket, data: Any, *flags: Any) -> int:
    note_answer(data)
    return _send(sock, data, *flags)


def write(file: int, data: Any) -> int:
    note_answer(data)
    return _write(file, data)


def connect(*arguments: Any, **how: Any) -> sqlite3.Connection:
    connection = _connect(*arguments, **how)
    connection.set_trace_callback(lambda statement: note("sql", statement))
    return connection


if __name__ == "__main__":
    # Before anything else is imported: what is taken by name at an import stays as it was.
    os.fsync = fsync
    os.rename = rename
    os.write = write
    socket.socket.send = send  # type: ignore[assignment, method-assign]  # a stand-in
    sqlite3.connect = connect  # type: ignore[assignment]  # a stand-in
    sys.argv[1:2] = []
    from orchestrator.cli import main

    main()
