"""Many trivial jobs of portals that each wait for their own."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from testbed.baseline import bash_many
from testbed.bench.rows import Row, scratch
from testbed.bench.target import quotas
from testbed.bench.trivial import TRIVIAL, WARM_UP, expect_completed, one_trivial
from testbed.cluster import running_cluster
from testbed.portal import Portal
from testbed.processes import cpu_seconds


def throughput(jobs: int, users: int, clients: int, slots: int) -> list[Row]:
    """Many trivial jobs of many users by concurrent clients, on two nodes."""
    limits = quotas(2 * slots)
    with (
        scratch() as directory,
        running_cluster(directory, nodes=2, slots=slots, limits=limits) as cluster,
    ):
        with Portal(cluster.url) as portal:
            for _ in range(WARM_UP):
                one_trivial(portal)
        used = {member.name: cpu_seconds(member.pid) for member in cluster.members}
        own = time.process_time()

        def client(first: int) -> None:
            with Portal(cluster.url) as portal:
                mine = [
                    portal.upload({"run.sh": TRIVIAL}, 1 + serial % users)
                    for serial in range(first, jobs, clients)
                ]
                for number in mine:
                    expect_completed(portal, number)

        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            for future in [pool.submit(client, first) for first in range(clients)]:
                future.result()
        took = time.monotonic() - began
        own = time.process_time() - own
        used = {member.name: cpu_seconds(member.pid) - used[member.name] for member in cluster.members}
    bash = bash_many(TRIVIAL, jobs, clients)
    return [
        Row("jobs ended", jobs / took, "a second", jobs / bash, f"bash run.sh, {clients} at once"),
        *[Row(f"CPU of {name}", 1000 * spent / jobs, "ms a job") for name, spent in used.items()],
        Row("CPU of the clients", 1000 * own / jobs, "ms a job"),
    ]
