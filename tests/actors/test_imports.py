"""What the start of a server, a node or any command does not import, since nothing of it is used."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import node.server
import orchestrator.server
from actors.process.log_lines import set_up_log
set_up_log()
unused = {"Crypto", "cffi", "pycparser", "pygments", "rich"}
print(sorted(unused & {name.partition(".")[0] for name in sys.modules}))
import rich.console, httpx._main
print(callable(httpx._main.main))
"""


def test_neither_encryption_nor_painting_is_imported_and_painting_can_be() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True"]


COMMAND = """
import sys
import orchestrator.cli
unused = {"actors.domain.job", "actors.domain.node", "asyncio", "httpx", "quart", "sqlite3", "trio"}
print(sorted(unused & sys.modules.keys()))
"""


def test_a_command_does_not_import_what_others_run() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
