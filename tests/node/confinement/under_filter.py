"""Run a command under a filter: `under_filter.py OPTIONS COMMAND…`, OPTIONS as JSON for `make_filter`."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))

from node.confinement.seccomp import Filter, make_filter

PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    machine = os.uname().machine
    program = make_filter(machine, **json.loads(sys.argv[1]))
    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    Filter(machine, program).install()
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
