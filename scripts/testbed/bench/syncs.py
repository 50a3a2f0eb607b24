"""How often the disk is made to keep something, for a job. strace tells, so it has a run of its own."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from typing import Final

from testbed.bench.backlog import AFTER, end_of, uploaded
from testbed.bench.rows import Row, Wrong, scratch
from testbed.bench.target import Target, quotas
from testbed.bench.trivial import WARM_UP
from testbed.bench.wire import Wire
from testbed.cluster import SERVICE, running_cluster

_CALLS: Final = "fsync,fdatasync,sync_file_range,syncfs,sync,msync"


def syncs(jobs: int, users: int, clients: int, *, nodes: int, slots: int) -> list[Row]:
    """By the server, and by a node with its shepherds. Raises Wrong where there is no strace."""
    if shutil.which("strace") is None:
        raise Wrong("counting syncs needs strace")
    with scratch() as directory:

        def within(name: str) -> Sequence[str]:
            # -D: the process is our child, not strace. Only these calls stop it.
            options = ("-D", "-f", "-qq", "--seccomp-bpf", "-e", "signal=none", "-e", f"trace={_CALLS}")
            return ("strace", *options, "-o", str(directory / f"{name}.syncs"))

        def counted(name: str) -> int:
            lines = (directory / f"{name}.syncs").read_text().splitlines()
            return sum("resumed>" not in line for line in lines)

        def run(jobs: int) -> None:
            numbers, _ = uploaded(target, jobs, users, clients)
            with Wire(target.url) as wire:
                end_of(wire, numbers, 0.05)
            threading.Event().wait(AFTER)

        with running_cluster(
            directory, nodes=nodes, slots=slots, limits=quotas(nodes * slots), within=within
        ) as cluster:
            target = Target(cluster.url, SERVICE, {})
            run(WARM_UP)
            before = {member.name: counted(member.name) for member in cluster.members}
            run(jobs)
            made = {name: counted(name) - earlier for name, earlier in before.items()}
    server = made.pop("server")
    return [
        Row("syncs of server", server / jobs, "a job"),
        Row("syncs of nodes and shepherds", sum(made.values()) / jobs, "a job"),
    ]
