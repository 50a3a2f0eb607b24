"""What the processes use while there is nothing to do."""

from __future__ import annotations

import threading

from testbed.bench.rows import Row, Wrong, scratch
from testbed.bench.trivial import one_trivial
from testbed.cluster import Limits, running_cluster
from testbed.portal import Portal
from testbed.processes import cpu_shares


def idle(seconds: float, running: int) -> list[Row]:
    """What the processes use with nothing to do, and with jobs that run and do nothing."""
    limits = Limits(runs_per_user=running, max_runs=running)
    slots = -(-running // 2)
    with (
        scratch() as directory,
        running_cluster(directory, nodes=2, slots=slots, limits=limits) as cluster,
        Portal(cluster.url) as portal,
    ):

        def wait() -> None:
            threading.Event().wait(seconds)

        one_trivial(portal)
        threading.Event().wait(2.0)  # what follows a start and a job is over then
        nothing = cpu_shares(cluster.members, wait)
        numbers = [portal.upload({"run.sh": b"exec sleep 3600\n"}, user=1) for _ in range(running)]
        for number in numbers:
            job = portal.wait_status(number, "Running")
            if job["status"] != "Running":
                raise Wrong(f"job {number} should run and is {job['status']}: {job.get('message')}")
        threading.Event().wait(2.0)
        busy = cpu_shares(cluster.members, wait)
    rows = []
    for what, shares in (("nothing to do", nothing), (f"{running} running jobs", busy)):
        rows += [Row(f"CPU of {name}, {what}", 100 * share, "% of a core") for name, share in shares.items()]
    return rows
