"""How old a line of a log is when its reader sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from testbed.bench.rows import Row, Wrong, scratch
from testbed.bench.trivial import WARM_UP, expect_completed, one_trivial
from testbed.cluster import running_cluster
from testbed.figures import percentile
from testbed.portal import Portal

PRINTING: Final = """\
exec python3 -c '
import time
for _ in range({lines}):
    print(time.monotonic_ns(), flush=True)
    time.sleep({pause})
'
"""
"""A job that writes what the clock is, again and again."""


def follow(lines: int, pause: float) -> list[Row]:
    """How old a line is, from when a job on a node writes it until `orchestrator logs -f` has printed it."""
    script = PRINTING.format(lines=lines + WARM_UP, pause=pause).encode()
    with scratch() as directory:
        (directory / "run.sh").write_bytes(script)
        alone = _ages(["bash", str(directory / "run.sh")], {})
        with running_cluster(directory, nodes=1, slots=2) as cluster, Portal(cluster.url) as portal:
            one_trivial(portal)
            number = portal.upload({"run.sh": script}, user=1)
            command = [str(Path(sys.executable).with_name("orchestrator")), "logs", "-f", str(number)]
            ages = _ages(command, {"ORCHESTRATOR_URL": cluster.url})
            expect_completed(portal, number)
    if len(ages) != lines + WARM_UP or len(alone) != len(ages):
        raise Wrong(f"{len(ages)} lines came of {lines + WARM_UP}")
    # Those that were written before somebody followed do not count.
    ages, alone = ages[WARM_UP:], alone[WARM_UP:]
    return [
        Row(
            f"line written to line printed, {name}",
            1000 * percentile(ages, share),
            "ms",
            1000 * percentile(alone, share),
            "bash run.sh, its output read from a pipe",
        )
        for name, share in (("p50", 0.5), ("p95", 0.95), ("longest", 1.0))
    ]


def _ages(command: Sequence[str], environment: Mapping[str, str]) -> list[float]:
    """Of each line that it prints, when it is read: how many seconds ago the clock was as it says. All
    processes of a machine have the same monotonic clock."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}) as process:
        assert process.stdout is not None
        ages = [(time.monotonic_ns() - int(line)) / 1e9 for line in process.stdout]
    if process.returncode != 0:
        raise Wrong(f"{command[0]} ended with status {process.returncode}")
    return ages
