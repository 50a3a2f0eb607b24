"""The node as a process of its own, with its real executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import trio
from support.peers.node_clients import KEY, NodeClient
from support.processes.forked import ForkedProcess, can_be_forked
from support.processes.processes import promised

NODE = (sys.executable, "-c", "from node.cli import node_command; node_command()")
ENDED = ("Completed", "Failed", "Invalid", "Killed")


@dataclass(slots=True)
class NodeProcess(NodeClient):
    process: trio.Process

    async def run(self, script: str, key: str = KEY, **how: Any) -> dict[str, Any]:
        """The end of an attempt with this script."""
        answer = await self.submit({key: {"run.sh": script.encode()}}, **how)
        assert answer.status_code == 200, answer.text
        return await self.end_of(key)

    async def end_of(self, key: str = KEY) -> dict[str, Any]:
        end: dict[str, Any] = (await self.until(key, *ENDED))["end"]
        return end


@asynccontextmanager
async def node_process(
    data: Path, *flags: str, how: int = signal.SIGTERM, within: Sequence[str] = ()
) -> AsyncIterator[NodeProcess]:
    """A node; at the end it gets the signal `how`, and must end by it in time. `within` is a command that
    runs another one, which its arguments end with; what it starts as a child gets the signal in its place."""
    environment = {
        "EXECUTOR": "bash",  # Most scripts of tests tell outside of their directories how far they are.
        **os.environ,
        "PORT": "1",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "MINE": "kept",
        "SERVERS": "127.0.0.1",
    }
    arguments = ["--port", "0", "--data", str(data), *flags]
    if within or not can_be_forked(environment):
        process = await trio.lowlevel.open_process(
            [*within, *NODE, *arguments], stdout=subprocess.PIPE, env=environment
        )
    else:
        process = _forked(["orchestrator", "node", *arguments], environment)
    assert process.stdout is not None
    try:
        with trio.fail_after(promised(60)):
            url = await next_url(process)
            # Nothing is encrypted here: what authorities there are need not be read each time.
            async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as client:
                yield NodeProcess(url, client, process)
            os.kill(inner(process.pid) if within else process.pid, how)
            with trio.fail_after(promised()):
                assert await process.wait() == (-how if how == signal.SIGKILL else 0)
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


def _forked(command: Sequence[str], environment: Mapping[str, str]) -> trio.Process:
    popen = ForkedProcess(command, stdout=subprocess.PIPE, env=environment)
    assert popen.stdout is not None
    with popen.stdout as stdout:
        return trio.Process._create(popen, None, trio.lowlevel.FdStream(os.dup(stdout.fileno())), None)


async def next_url(process: trio.Process) -> str:
    """Where the node listens that a process is, or is about to start."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        piece = await process.stdout.receive_some()
        assert piece, "the node ended before it listened"
        line += piece
    return line.decode().split()[-1]


def inner(pid: int) -> int:
    """The only child of a process, or itself when it has become another program instead."""
    program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    if program == sys.executable.encode():
        return pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
