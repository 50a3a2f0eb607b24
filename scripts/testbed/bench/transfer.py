"""A large file all the way, and what others notice of it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from testbed.baseline import copy_durably
from testbed.bench.rows import MB, Row, Wrong, scratch
from testbed.bench.trivial import WARM_UP, expect_completed, one_trivial
from testbed.cluster import Limits, running_cluster
from testbed.figures import percentile
from testbed.portal import BLOCK, Portal
from testbed.prober import probing
from testbed.processes import cpu_seconds, peak_memory

SCRIPT: Final = b"cat input.bin >copy.bin\n"
COPIES: Final = 3
MOVED: Final = 5
"""How often the bytes of the file have to move: up, to the node, what the script wrote back, and both down.
The input need not come back, for the server has it."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One file all the way, in seconds: its steps, what others asked `/health` meanwhile, and their jobs."""

    upload: float
    middle: float
    download: float
    health: list[float]
    others: list[float]

    @property
    def whole(self) -> float:
        return self.upload + self.middle + self.download


def transfer(megabytes: int) -> list[Row]:
    """One large file through upload, dispatch, run and download, alone and then beside trivial jobs of
    another user, one after the other."""
    size = megabytes * MB
    limits = Limits(upload_limit=size + MB)
    with scratch() as directory:
        source = directory / "input.bin"
        checksum = _write_random(source, size)
        copies = [_copy(source, "before")]
        with (
            running_cluster(directory, nodes=1, slots=2, limits=limits) as cluster,
            Portal(cluster.url) as portal,
            Portal(cluster.url) as others,
        ):
            alone = [one_trivial(others, user=2)[0] for _ in range(20 + WARM_UP)][WARM_UP:]
            with probing(cluster.url) as quiet:
                threading.Event().wait(1.0)
            used = {member.name: cpu_seconds(member.pid) for member in cluster.members}
            first = _pass_through(cluster.url, portal, None, source, checksum)
            used = {member.name: cpu_seconds(member.pid) - used[member.name] for member in cluster.members}
            second = _pass_through(cluster.url, portal, others, source, checksum)
            peaks = {member.name: peak_memory(member.pid) for member in cluster.members}
        copies.append(_copy(source, "after"))
    copy = sum(copies) / len(copies)
    is_copy, is_all = (
        "a copy of the file, fsync included",
        f"{MOVED} such copies, for the bytes that must move",
    )
    return [
        Row("upload", first.upload, "s", copy, is_copy),
        Row("dispatch, run (cat) and collection", first.middle, "s", copy, is_copy),
        Row("download", first.download, "s", copy, is_copy),
        Row("all of it", first.whole, "s", MOVED * copy, is_all),
        *[Row(f"CPU of {name}", spent, "s") for name, spent in used.items()],
        *[Row(f"peak memory of {name}", peak / MB, "MB") for name, peak in peaks.items()],
        Row(
            "GET /health meanwhile, p99",
            1000 * percentile(first.health + second.health, 0.99),
            "ms",
            1000 * percentile(quiet, 0.99),
            "the same on the idle system",
        ),
        Row("all of it, beside trivial jobs", second.whole, "s", MOVED * copy, is_all),
        Row(
            f"one of these ({len(second.others)}), p50",
            1000 * percentile(second.others, 0.5),
            "ms",
            1000 * percentile(alone, 0.5),
            "the same without the transfer, p50",
        ),
    ]


def _pass_through(url: str, portal: Portal, others: Portal | None, source: Path, checksum: str) -> _Pass:
    result = source.with_name("result.zip")
    with probing(url) as health:
        began = time.monotonic()
        number = portal.upload_file(SCRIPT, source, user=1)
        uploaded = time.monotonic()
        behind = []
        if others is None:
            expect_completed(portal, number)
        else:
            behind = _trivial_jobs_until_ended(portal, others, number)
        ended = time.monotonic()
        portal.download_to(number, result)
        fetched = time.monotonic()
    _check_transfer(result, checksum)
    return _Pass(uploaded - began, ended - uploaded, fetched - ended, health, behind)


def _trivial_jobs_until_ended(portal: Portal, others: Portal, number: int) -> list[float]:
    """How long each trivial job took that another user sent, one after the other, until the job ended."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:

        def wait() -> None:
            try:
                expect_completed(portal, number)
            finally:
                ended.set()

        waiting = pool.submit(wait)
        times = [one_trivial(others, user=2)[0]]
        while not ended.is_set():
            times.append(one_trivial(others, user=2)[0])
        waiting.result()
    return times


def _write_random(path: Path, size: int) -> str:
    """Bytes that nothing can compress, on the disk; their checksum."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for begin in range(0, size, BLOCK):
            block = os.urandom(min(BLOCK, size - begin))
            digest.update(block)
            file.write(block)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _copy(source: Path, when: str) -> float:
    """Seconds for a copy, of several that all stay until the run is over: memory that a deleted file has just
    left is filled up to ten times as fast as memory that the system has to get anew (of a virtual machine's
    host, say), and what is transferred finds none of it."""
    times = [copy_durably(source, source.with_name(f"{when}-{n}.bin")) for n in range(COPIES)]
    return sum(times) / len(times)


def _check_transfer(path: Path, checksum: str) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in ("input.bin", "copy.bin"):
            digest = hashlib.sha256()
            with archive.open(name) as file:
                while block := file.read(BLOCK):
                    digest.update(block)
            if digest.hexdigest() != checksum:
                raise Wrong(f"the {name} that came back is not what was sent")
