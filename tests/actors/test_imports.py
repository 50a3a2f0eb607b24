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
import click
from orchestrator import cli
of_others = {"logging", "node", "orchestrator.backups", "orchestrator.commands.connection"}
print(sorted(of_others & sys.modules.keys()))
for name in cli.main.list_commands(click.Context(cli.main)):
    cli.load_command(name)
unused = {"actors.domain.job", "actors.domain.node", "asyncio", "httpx", "quart", "sqlite3", "trio"}
print(sorted(unused & sys.modules.keys()))
"""


def test_a_command_does_not_import_what_others_run() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


BLOCKING = """
import sys
from orchestrator.commands.connection import Connection
with Connection("http://127.0.0.1:1", "", None, None).client():
    print(sorted({"anyio", "asyncio", "h2", "httpx", "rich", "trio"} & sys.modules.keys()))

import trio
from orchestrator.client import AsyncClient, Retries, Unreachable

async def ask():
    await Connection("http://127.0.0.1:1", "", None, None).async_client().close()
    async with AsyncClient("http://127.0.0.1:1", token="", retries=Retries(tries=1)) as client:
        try:
            await client.job(1)
        except Unreachable:
            print("asked")

trio.run(ask)
"""


def test_a_command_that_blocks_imports_no_event_loop_and_may_wait_in_one_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKING], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "asked"]
