"""A trivial job on an idle system."""

from __future__ import annotations

from testbed.baseline import bash_alone
from testbed.bench.rows import Row, scratch
from testbed.bench.trivial import TRIVIAL, WARM_UP, one_trivial
from testbed.cluster import running_cluster
from testbed.figures import percentile
from testbed.portal import PlainPortal


def latency(jobs: int) -> list[Row]:
    """A trivial job on an idle system, one at a time."""
    told, there, bash = [], [], []
    with (
        scratch() as directory,
        running_cluster(directory, nodes=1, slots=2) as cluster,
        PlainPortal(cluster.url) as portal,
    ):
        for number in range(jobs + WARM_UP):
            alone = bash_alone(TRIVIAL)
            ended, fetched = one_trivial(portal)
            if number >= WARM_UP:
                bash.append(alone)
                told.append(ended)
                there.append(fetched)
    rows = []
    for name, times in (("upload to end told", told), ("upload to result downloaded", there)):
        for share in (0.5, 0.95, 0.99):
            rows.append(
                Row(
                    f"{name}, p{share * 100:.0f}",
                    percentile(times, share) * 1000,
                    "ms",
                    percentile(bash, share) * 1000,
                    "bash run.sh alone",
                )
            )
    return rows
