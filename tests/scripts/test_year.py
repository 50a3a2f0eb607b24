"""A year of jobs, in small: the script says what grows, and that nothing does that may not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import year

SCRIPT = Path(year.__file__)
PLAN = year.Plan(days=20, jobs=20, max_age=2, keep_rows=6, every=2)
STEADY = year.Sample(
    day=10, submitted=200, rows=60, sums=4, ledger=1 << 20, directories=1, descriptors=17, memory=1 << 25
)


def test_rows_files_descriptors_and_memory_stay_while_jobs_come_and_go() -> None:
    small = ["--days", "12", "--jobs", "20", "--max-age", "2", "--keep-rows", "5", "--every", "2"]
    done = subprocess.run([sys.executable, SCRIPT, *small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("240 jobs in") and lines[-1].endswith(" 0 wrong")
    assert [line.split(" | ")[2] for line in lines[1:-1]] == ["40", "80", "100", "100", "100", "100"]


@pytest.mark.parametrize(
    ("name", "grown"),
    [("rows", 141), ("directories", 5), ("ledger", 8 << 20), ("memory", 1 << 26), ("descriptors", 30)],
)
def test_what_grows_is_found(tmp_path: Path, name: str, grown: int) -> None:
    made = year.Year(PLAN, tmp_path)
    made.samples = [STEADY, replace(STEADY, day=20, submitted=400)]
    made.last_id = made.counted = 400
    assert year.find_faults(made) == []
    made.samples[-1] = replace(made.samples[-1], **{name: grown})
    (fault,) = year.find_faults(made)
    assert str(grown) in fault


def test_an_id_that_is_given_again_and_a_job_that_is_not_counted_are_found(tmp_path: Path) -> None:
    made = year.Year(PLAN, tmp_path)
    made.samples = [STEADY, replace(STEADY, day=20, submitted=400)]
    made.last_id, made.counted = 399, 398
    assert len(year.find_faults(made)) == 2
    made.samples.pop()
    assert len(year.find_faults(made)) == 1
