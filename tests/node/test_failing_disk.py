"""A disk that fails to keep what was written to it: the node ends, and the next one trusts no more than was
written through before."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import trio
from support.data.directories import until
from support.peers.node_clients import NodeClient
from support.processes.node_processes import NODE, next_url, node_process
from support.processes.processes import promised

from node.payloads.recovery import UNWRITTEN

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

FAILING = ("strace", "-D", "-f", "-q", "-e", "signal=none", "-o", "/dev/null")
INJECTED = ("-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO:when=1")
RUNS, HAD_ENDED, NEXT = "a" * 32, "b" * 32, "c" * 32


async def test_it_ends_the_node_and_what_runs_is_ended_by_the_next(tmp_path: Path) -> None:
    data, beats = tmp_path / "data", tmp_path / "beats"
    # What the script says, it says outside of its directory.
    command = [*FAILING, *INJECTED, *NODE, "--port", "0", "--data", str(data), "--executor", "bash"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        with trio.fail_after(promised(60)):
            url = await next_url(process)
            async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as client:
                node = NodeClient(url, client)
                before = (await client.get("/v1/info")).json()["machine_boot"]
                script = f"while sleep 0.02; do echo >> {beats}; done".encode()
                await node.submit({RUNS: {"run.sh": script}}, named=True)
                await node.until(RUNS, "Running")
                await node.submit({HAD_ENDED: {"run.sh": b"true"}}, named=True)
                await node.until(HAD_ENDED, "Completed")
            said = b""
            # Not until its end: the tracer goes on with what runs, and has it open.
            while b"the node ends" not in said:
                said += await process.stderr.receive_some()
            assert await process.wait() == 1
        assert b"failed to keep what was written to it (Input/output error): the node ends" in said
        await until(beats.exists, tmp_path)
    finally:
        process.kill()
    async with node_process(data) as again:
        assert (await again.client.get("/v1/info")).json()["machine_boot"] == f"{before}.1"
        views = [await again.until(key, "Failed") for key in (RUNS, HAD_ENDED)]
        assert [view["lost"] for view in views] == [True, True]
        assert views[1]["end"]["message"] == UNWRITTEN
        beaten = beats.stat().st_size
        assert (await again.run("sleep 0.2", NEXT))["status"] == "Completed"
        assert beats.stat().st_size == beaten
