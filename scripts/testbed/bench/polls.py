"""What it costs the server to be asked how a job is."""

from __future__ import annotations

import time

from testbed.bench.rows import Row, Wrong
from testbed.bench.target import Target
from testbed.bench.wire import Wire
from testbed.figures import percentile
from testbed.portal import multipart

ASLEEP = b"exec sleep 3600\n"


def polls(target: Target, times: int) -> list[Row]:
    """Each route so often, on a new connection each and then on one that is kept. The job is one that does
    not end meanwhile; it is terminated at last."""
    rows = []
    with Wire(target.url) as wire:
        number = wire.upload(*multipart({"run.sh": ASLEEP}, 1, target.service))
        try:
            for path, name in (
                (f"/download/{number}", "/download/{id}"),
                (f"/v1/jobs/{number}", "/v1/jobs/{id}"),
                ("/health", "/health"),
            ):
                if wire.get(path).status == 404:
                    continue  # the contract has no such route
                for keep, connection in ((False, "new connection"), (True, "kept connection")):
                    rows += _polled(target, path, f"GET {name}, {connection}", times, keep=keep)
        finally:
            wire.post(f"/terminate/{number}", {})
    return rows


def _polled(target: Target, path: str, name: str, times: int, *, keep: bool) -> list[Row]:
    seconds = []
    with Wire(target.url, keep=keep) as wire:
        wire.get(path)
        with target.metering() as cost:
            for _ in range(times):
                began = time.monotonic()
                if wire.get(path).status != 200:
                    raise Wrong(f"GET {path} was not answered 200")
                seconds.append(time.monotonic() - began)
    return [
        *(Row(f"{name}: CPU of {part}", 1000 * spent / times, "ms") for part, spent in cost.parts.items()),
        Row(f"{name}: answered within, p50", 1000 * percentile(seconds, 0.5), "ms"),
    ]
