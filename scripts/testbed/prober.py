"""Ask an orchestrator's /health again and again, and tell how long each answer took.

It runs as a process of its own, so that what the benchmark does beside it cannot delay it. Ends when its
standard input does, and then prints a JSON list of seconds.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE = 0.02
"""Seconds between two questions."""


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Probe meanwhile; the list is filled when this is left."""
    found: list[float] = []
    command = [sys.executable, str(Path(__file__)), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield found
        finally:
            output, _ = process.communicate("")
    if process.returncode == 0:
        found.extend(json.loads(output))


def main() -> None:
    # Not at the top: as a script of its own, this file is not run from where the package is found.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from testbed.portal import Portal

    times: list[float] = []
    with Portal(sys.argv[1]) as portal:
        # Once at least: on a busy machine all may be over before this program has begun.
        while not times or not select.select([sys.stdin], [], [], PAUSE)[0]:
            began = time.monotonic()
            portal.get("/health")
            times.append(time.monotonic() - began)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
