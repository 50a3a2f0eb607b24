"""The benchmarks. Each starts a cluster of its own, and takes its baselines in the same run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from testbed.baseline import bash_alone, bash_many, copy_durably
from testbed.cluster import Limits, running_cluster
from testbed.figures import percentile
from testbed.portal import BLOCK, Portal
from testbed.prober import probing
from testbed.processes import cpu_seconds, cpu_shares, peak_memory

TRIVIAL: Final = b"echo done >out.txt\n"
WARM_UP: Final = 5
"""Jobs before the first that counts: what a process does once, it has done then."""
MB: Final = 1_000_000
PRINTING: Final = """\
exec python3 -c '
import time
for _ in range({lines}):
    print(time.monotonic_ns(), flush=True)
    time.sleep({pause})
'
"""
"""A job that writes what the clock is, again and again."""


class Wrong(Exception):
    """A job of the benchmark did not do what it should, so its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: `value` in `unit`, and beside it, if there is one, the baseline with what it is."""

    figure: str
    value: float
    unit: str
    baseline: float | None = None
    baseline_is: str = ""


def latency(jobs: int) -> list[Row]:
    """A trivial job on an idle system, one at a time."""
    told, there, bash = [], [], []
    with (
        _directory() as directory,
        running_cluster(directory, nodes=1, slots=2) as cluster,
        Portal(cluster.url) as portal,
    ):
        for number in range(jobs + WARM_UP):
            alone = bash_alone(TRIVIAL)
            ended, fetched = _one_trivial(portal)
            if number >= WARM_UP:
                bash.append(alone)
                told.append(ended)
                there.append(fetched)
    rows = []
    for name, times in (("upload to end told", told), ("upload to result downloaded", there)):
        for share in (0.5, 0.95):
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


def throughput(jobs: int, users: int, clients: int, slots: int) -> list[Row]:
    """Many trivial jobs of many users by concurrent clients, on two nodes."""
    limits = Limits(runs_per_user=2 * slots, max_runs=2 * slots)
    with (
        _directory() as directory,
        running_cluster(directory, nodes=2, slots=slots, limits=limits) as cluster,
    ):
        with Portal(cluster.url) as portal:
            for _ in range(WARM_UP):
                _one_trivial(portal)
        used = {member.name: cpu_seconds(member.pid) for member in cluster.members}
        own = time.process_time()

        def client(first: int) -> None:
            with Portal(cluster.url) as portal:
                mine = [
                    portal.upload({"run.sh": TRIVIAL}, 1 + serial % users)
                    for serial in range(first, jobs, clients)
                ]
                for number in mine:
                    _expect_completed(portal, number)

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


def transfer(megabytes: int) -> list[Row]:
    """One large file through upload, dispatch, run and download, and what others notice of it meanwhile."""
    size = megabytes * MB
    limits = Limits(upload_limit=size + MB)
    with _directory() as directory:
        source = directory / "input.bin"
        checksum = _write_random(source, size)
        copies = [copy_durably(source, directory / "copy.bin") for _ in range(2)]
        (directory / "copy.bin").unlink()
        with (
            running_cluster(directory, nodes=1, slots=2, limits=limits) as cluster,
            Portal(cluster.url) as portal,
            Portal(cluster.url) as others,
        ):
            alone = [_one_trivial(others, user=2)[0] for _ in range(20 + WARM_UP)][WARM_UP:]
            with probing(cluster.url) as quiet:
                threading.Event().wait(1.0)
            with probing(cluster.url) as health:
                began = time.monotonic()
                number = portal.upload_file(b"sha256sum input.bin >sum.txt\n", source, user=1)
                uploaded = time.monotonic()
                behind = _trivial_jobs_until_ended(portal, others, number)
                ended = time.monotonic()
                portal.download_to(number, directory / "result.zip")
                fetched = time.monotonic()
            peaks = {member.name: peak_memory(member.pid) for member in cluster.members}
        _check_transfer(directory / "result.zip", checksum)
    copy = min(copies)
    is_copy, is_alone = "a copy of the file, fsync included", "the same without the transfer, p50"
    median_alone = 1000 * percentile(alone, 0.5)
    return [
        Row("upload", uploaded - began, "s", copy, is_copy),
        Row("dispatch, run (sha256sum) and collection", ended - uploaded, "s", copy, is_copy),
        Row("download", fetched - ended, "s", copy, is_copy),
        Row("all of it", fetched - began, "s", copy, is_copy),
        *[Row(f"peak memory of {name}", peak / MB, "MB") for name, peak in peaks.items()],
        Row(
            "GET /health meanwhile, p99",
            1000 * percentile(health, 0.99),
            "ms",
            1000 * percentile(quiet, 0.99),
            "the same on the idle system",
        ),
        Row("trivial job right behind it", 1000 * behind[0], "ms", median_alone, is_alone),
        Row(
            f"trivial jobs until it ended ({len(behind)}), p50",
            1000 * percentile(behind, 0.5),
            "ms",
            median_alone,
            is_alone,
        ),
    ]


def follow(lines: int, pause: float) -> list[Row]:
    """How old a line is, from when a job on a node writes it until `orchestrator logs -f` has printed it."""
    script = PRINTING.format(lines=lines + WARM_UP, pause=pause).encode()
    with _directory() as directory:
        (directory / "run.sh").write_bytes(script)
        alone = _ages(["bash", str(directory / "run.sh")], {})
        with running_cluster(directory, nodes=1, slots=2) as cluster, Portal(cluster.url) as portal:
            _one_trivial(portal)
            number = portal.upload({"run.sh": script}, user=1)
            command = [str(Path(sys.executable).with_name("orchestrator")), "logs", "-f", str(number)]
            ages = _ages(command, {"ORCHESTRATOR_URL": cluster.url})
            _expect_completed(portal, number)
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


def idle(seconds: float, running: int) -> list[Row]:
    """What the processes use with nothing to do, and with jobs that run and do nothing."""
    limits = Limits(runs_per_user=running, max_runs=running)
    slots = -(-running // 2)
    with (
        _directory() as directory,
        running_cluster(directory, nodes=2, slots=slots, limits=limits) as cluster,
        Portal(cluster.url) as portal,
    ):

        def wait() -> None:
            threading.Event().wait(seconds)

        _one_trivial(portal)
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


def _one_trivial(portal: Portal, user: int = 1) -> tuple[float, float]:
    """Seconds from the begin of the upload until the end was told, and until the result was here."""
    began = time.monotonic()
    number = portal.upload({"run.sh": TRIVIAL}, user)
    _expect_completed(portal, number)
    ended = time.monotonic()
    portal.results(number, completed=True)
    return ended - began, time.monotonic() - began


def _expect_completed(portal: Portal, number: int) -> None:
    job = portal.wait_ended(number)
    if job["status"] != "Completed":
        raise Wrong(f"job {number} is {job['status']}: {job.get('message')}")


def _trivial_jobs_until_ended(portal: Portal, others: Portal, number: int) -> list[float]:
    """How long each trivial job took that another user sent, one after the other, until the job ended."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:

        def wait() -> None:
            try:
                _expect_completed(portal, number)
            finally:
                ended.set()

        waiting = pool.submit(wait)
        times = [_one_trivial(others, user=2)[0]]
        while not ended.is_set():
            times.append(_one_trivial(others, user=2)[0])
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


def _check_transfer(path: Path, checksum: str) -> None:
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        with archive.open("input.bin") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        told = archive.read("sum.txt").split()[:1]
    if digest.hexdigest() != checksum or told != [checksum.encode()]:
        raise Wrong("what came back is not what was sent")


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="orchestrator-bench-") as name:
        yield Path(name).resolve()
