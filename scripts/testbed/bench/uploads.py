"""Durable uploads, with nobody who runs the jobs."""

from __future__ import annotations

import time

from testbed.baseline import files_durably
from testbed.bench.backlog import uploaded
from testbed.bench.rows import Row, scratch
from testbed.bench.target import Target
from testbed.bench.trivial import TRIVIAL, WARM_UP
from testbed.figures import percentile

USERS = 50


def uploads(target: Target, jobs: int, clients: int) -> list[Row]:
    with scratch() as directory:
        plain = files_durably(directory, TRIVIAL, jobs, clients)
    uploaded(target, WARM_UP, USERS, 1)
    with target.metering() as cost:
        began = time.monotonic()
        _, seconds = uploaded(target, jobs, USERS, clients)
        took = time.monotonic() - began
    beside = f"a file and its directory on the disk, {clients} at once"
    return [
        Row("uploads", jobs / took, "a second", jobs / plain, beside),
        Row("one upload, p50", 1000 * percentile(seconds, 0.5), "ms"),
        Row("one upload, p99", 1000 * percentile(seconds, 0.99), "ms"),
        *cost.rows(jobs, "upload"),
    ]
