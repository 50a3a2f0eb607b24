"""The job that costs nothing itself: what it takes is what the orchestrator takes."""

from __future__ import annotations

import time
from typing import Final

from testbed.bench.rows import Wrong
from testbed.portal import Portal

TRIVIAL: Final = b"echo done >out.txt\n"
WARM_UP: Final = 5
"""Jobs before the first that counts: what a process does once, it has done then."""


def one_trivial(portal: Portal, user: int = 1) -> tuple[float, float]:
    """Seconds from the begin of the upload until the end was told, and until the result was here."""
    began = time.monotonic()
    number = portal.upload({"run.sh": TRIVIAL}, user)
    expect_completed(portal, number)
    ended = time.monotonic()
    portal.results(number, completed=True)
    return ended - began, time.monotonic() - began


def expect_completed(portal: Portal, number: int) -> None:
    job = portal.wait_ended(number)
    if job["status"] != "Completed":
        raise Wrong(f"job {number} is {job['status']}: {job.get('message')}")
