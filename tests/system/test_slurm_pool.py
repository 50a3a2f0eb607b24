"""Nodes as allocations of a real Slurm: they come with the load, are cancelled amid it, and go with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from support.peers.portals import portal
from support.processes.processes import PATIENCE, Place, look_later, soon_lost
from support.processes.slurm_cluster import MISSING, slurm_cluster

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"missing: {', '.join(MISSING)}")

CONFIG = """
join_url = "{url}"
node_lost_after = {lost_after}
[services.example]
runs_per_user = 20
max_runs = 20
max_runtime = 120
[scaling.example]
provider = "slurm"
max_nodes = 2
slots_per_node = 2
target_wait = 0
idle_timeout = 2
cooldown = 1
[scaling.example.slurm]
max_runtime = 900
node_command = "{command} node"
log = "{here}/allocation-%j.log"
"""


async def test_a_pool_goes_up_and_down_with_the_load_and_gets_over_a_cancelled_allocation(
    here: Place,
) -> None:
    with slurm_cluster(here.directory / "slurm") as cluster:
        # The server's port has to be known before its settings are.
        first = here.server(config="[services.example]\n")
        port = first.port
        await first.end(15)
        command = Path(sys.executable).with_name("orchestrator")
        config = CONFIG.format(
            url=f"http://127.0.0.1:{port}", command=command, here=here.directory, lost_after=soon_lost(2)
        )
        server = here.server(config=config, port=port, **cluster.environment)
        async with portal(server.url) as user:

            async def until(nodes: int) -> None:
                """Of a lost one is told for a minute still."""
                with trio.fail_after(PATIENCE):
                    while True:
                        found = [one["status"] for one in (await user.json("/v1/nodes"))["items"]]
                        if found.count("ready") == nodes and {*found} <= {"ready", "lost"}:
                            return
                        await look_later()

            def allocations() -> list[str]:
                listed = cluster.run("squeue", "--noheader", "--format=%i", "--states=PENDING,RUNNING")
                return listed.split()

            await until(0)
            jobs = [await user.upload("sleep 3; echo done > done.txt") for _ in range(8)]
            await until(2)
            killed, *_ = allocations()
            cluster.run("scancel", "--signal=KILL", "--full", killed)
            for job in jobs:
                row = await user.ended(job)
                assert row["status"] == "Completed", row["message"]
                assert (await user.contents(job))["done.txt"] == b"done\n"
            await until(0)
            with trio.fail_after(PATIENCE):
                while allocations():
                    await look_later()
            (scaling,) = (await user.json("/v1/scaling"))["items"]
            assert scaling["trouble"] in (None, ""), scaling
