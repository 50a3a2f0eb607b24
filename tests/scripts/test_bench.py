"""Each benchmark, so small that its figures mean nothing: that it comes to figures, and which. Of uploads and
of single polls on a server that runs already, which is one for all of them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bench
import pytest
from click.testing import CliRunner
from testbed.bench.wire import Wire
from testbed.cluster import running_cluster

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench.py"

pytestmark = pytest.mark.usefixtures("forked_members", "signals")


@pytest.fixture
def signals() -> Iterator[None]:
    """As they were, after a script that was called here has had them its way."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def figures(*arguments: str) -> dict[str, float]:
    done = CliRunner().invoke(bench.main, [*arguments, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.stderr
    return {row["figure"]: row["value"] for row in json.loads(done.stdout)["figures"]}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("latency --jobs 3", "upload to result downloaded, p99"),
        ("throughput --jobs 8 --slots 1", "jobs ended"),
        pytest.param(
            "backlog --jobs 10 --syncs",
            "syncs of nodes and shepherds",
            marks=pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
        ),
        ("polls --pollers 2 --jobs 20", "polls of 2 clients"),
        ("queue --sizes 100,200 --dispatched 8 --seconds 1", "200 behind: memory a queued job"),
        ("transfer --megabytes 3", "all of it"),
        ("follow --lines 5 --pause 0.05", "line written to line printed, p50"),
        ("idle --seconds 1 --running 4", "CPU of server, 4 running jobs"),
    ],
)
def test_a_benchmark_comes_to_its_figures(command: str, expected: str) -> None:
    assert expected in figures(*command.split())


def test_a_server_that_runs_already_is_measured(tmp_path: Path) -> None:
    with running_cluster(tmp_path, nodes=1, slots=2) as cluster:
        there = ("--url", cluster.url, "--pid", str(cluster.server.pid))
        cpu = f"CPU of process {cluster.server.pid}"
        found = figures("backlog", "--jobs", "20", "--users", "4", "--clients", "2", *there)
        assert found["jobs ended"] > 0 < found[cpu]
        found = figures("uploads", "--jobs", "20", "--clients", "4", *there)
        assert found["uploads"] > 0 < found["one upload, p99"]
        found = figures("polls", "--times", "5", *there)
        assert {
            f"GET /health, kept connection: {cpu}",
            f"GET /download/{{id}}, new connection: {cpu}",
        } <= set(found)
        # The job that the polls were for has not been left running.
        with Wire(cluster.url) as wire:
            jobs = wire.get("/v1/jobs?status=Killed").json()
        assert len(jobs["items"]) == 1


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "uploads", "--url", "http://127.0.0.1:1", "--jobs", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("bench uploads: ConnectionRefusedError")
