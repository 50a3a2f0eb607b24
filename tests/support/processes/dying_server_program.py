"""The command `orchestrator`, which kills itself at the first commit that stores a job with its attempt:
dying_server_program.py before|after ARGUMENT...
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any

WHEN = sys.argv[1]
BOTH = ("INSERT INTO jobs ", "INSERT INTO attempts ")

_connect = sqlite3.connect


class DyingConnection(sqlite3.Connection):
    """`_stored` is what of these two was stored since the last BEGIN."""

    def __init__(self, *arguments: Any, **how: Any) -> None:
        super().__init__(*arguments, **how)
        self._stored: set[str] = set()

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if statement.startswith("BEGIN"):
            self._stored.clear()
        self._stored |= {one for one in BOTH if statement.startswith(one)}
        dies = statement == "COMMIT" and len(self._stored) == len(BOTH)
        if dies and WHEN == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = super().execute(statement, *arguments)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return done


def connect(*arguments: Any, **how: Any) -> sqlite3.Connection:
    return _connect(*arguments, **{"factory": DyingConnection, **how})


if __name__ == "__main__":
    # Before anything else is imported: what is taken by name at an import stays as it was.
    sqlite3.connect = connect  # type: ignore[assignment]  # a stand-in
    sys.argv[1:2] = []
    from orchestrator.cli import main

    main()
