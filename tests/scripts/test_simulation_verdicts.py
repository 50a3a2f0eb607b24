"""The simulation's checks find what they are there to find."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace

import pytest
from testbed.cluster import Limits
from testbed.figures import percentile
from testbed.occupancy import Entry, Held, Peaks, held, peaks
from testbed.verdicts import Seen, Verdict, check_results, judge
from testbed.workload import Ending, PlannedJob, plan

PLANNED = PlannedJob(serial=0, user=1, seconds=0.0, size=10, ending=Ending.EXIT_0, code=0, seed=3)
SEEN = Seen(PLANNED, 11, {"status": "Completed", "message": ""}, "", 0.1)
HISTORY = [
    Entry(11, 1, 0.0, "Queued", 3.0),
    Entry(11, 1, 1.0, "Processing", 3.0),
    Entry(11, 1, 2.0, "Submitted", 3.0),
    Entry(11, 1, 4.0, "Completed", 3.0),
]


def broken(
    *,
    planned: tuple[PlannedJob, ...] = (PLANNED,),
    seen: tuple[Seen, ...] = (SEEN,),
    failures: tuple[str, ...] = (),
    marks: tuple[str, ...] = ("0 11 1",),
    history: tuple[Entry, ...] = tuple(HISTORY),
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> list[str]:
    """The questions that do not hold."""
    verdicts: list[Verdict] = judge(
        planned=planned, seen=seen, failures=failures, marks=marks, history=history, limits=limits
    )
    return [verdict.question for verdict in verdicts if not verdict.holds]


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_nothing_is_broken_when_all_is_well() -> None:
    assert broken() == []


def test_request_without_its_answer_is_found() -> None:
    assert "every request was answered as it should be" in broken(failures=("job 0: refused",))


@pytest.mark.parametrize(
    ("ending", "code", "job"),
    [
        (Ending.EXIT_0, 0, {"status": "Failed", "message": "exit code 1"}),
        (Ending.EXIT_CODE, 3, {"status": "Completed", "message": ""}),
        (Ending.EXIT_CODE, 3, {"status": "Failed", "message": "exit code 4"}),
        (Ending.SIGNAL, 9, {"status": "Failed", "message": "exit code 137"}),
        (Ending.NO_SCRIPT, 0, {"status": "Failed", "message": "run.sh not found"}),
    ],
)
def test_wrong_end_is_found(ending: Ending, code: int, job: dict[str, str]) -> None:
    planned = replace(PLANNED, ending=ending, code=code)
    assert "every job ended as it should" in broken(seen=(replace(SEEN, planned=planned, job=job),))


def test_job_that_nobody_saw_end_is_lost() -> None:
    assert "none was lost" in broken(seen=(), marks=())


def test_ended_job_that_the_ledger_does_not_have_is_lost() -> None:
    assert "none was lost" in broken(history=())


@pytest.mark.parametrize("marks", [(), ("0 11 1", "0 11 1"), ("0 11 1", "0 11 2"), ("0 11 1", "5 12 1")])
def test_missing_second_and_unplanned_runs_are_found(marks: tuple[str, ...]) -> None:
    assert "none ran twice" in broken(marks=marks)


def test_job_without_script_must_not_run() -> None:
    planned = replace(PLANNED, ending=Ending.NO_SCRIPT)
    seen = replace(SEEN, planned=planned, job={"status": "Invalid", "message": "run.sh not found"})
    assert broken(planned=(planned,), seen=(seen,), marks=()) == []
    assert "none ran twice" in broken(planned=(planned,), seen=(seen,))


def test_results_are_compared_with_what_was_sent() -> None:
    good = {
        "input.bin": PLANNED.content(),
        "sum.txt": f"{PLANNED.checksum()}  input.bin\n".encode(),
        "stdout.log": f"{PLANNED.greeting}\n".encode(),
    }
    assert check_results(PLANNED, zipped(good)) == ""
    for name in good:
        assert check_results(PLANNED, zipped({**good, name: b"other"})) != ""
    assert check_results(PLANNED, zipped(good)[:-30]) != ""
    assert "the results are right" in broken(seen=(replace(SEEN, results_wrong="other bytes"),))


def test_quotas_that_were_exceeded_for_a_moment_are_found() -> None:
    second = [replace(entry, job=12, at=entry.at + 1.5) for entry in HISTORY]
    found = broken(history=(*HISTORY, *second), limits=Limits(runs_per_user=1, max_runs=1))
    assert "no user had more than runs_per_user" in found
    assert "the service had no more than max_runs" in found


def test_place_is_held_from_processing_until_the_end_on_the_node() -> None:
    assert held(HISTORY) == [Held(11, 1, 1.0, 3.0)]


def test_place_without_a_verdict_is_held_until_the_last_change_before_the_end() -> None:
    assert held([replace(entry, verdict_at=None) for entry in HISTORY]) == [Held(11, 1, 1.0, 2.0)]


def test_requeued_job_gives_its_place_back_meanwhile() -> None:
    targets = ["Queued", "Processing", "Queued", "Processing", "Submitted", "Failed"]
    history = [Entry(1, 1, float(at), target, 4.5) for at, target in enumerate(targets)]
    assert held(history) == [Held(1, 1, 1.0, 2.0), Held(1, 1, 3.0, 4.5)]


def test_job_that_never_ended_holds_its_place() -> None:
    assert held(HISTORY[:3]) == [Held(11, 1, 1.0, float("inf"))]


def test_peaks_count_those_that_overlap_but_not_those_that_follow() -> None:
    places = [Held(1, 7, 0.0, 2.0), Held(2, 8, 1.0, 3.0), Held(3, 7, 2.0, 4.0), Held(4, 7, 3.5, 5.0)]
    assert peaks(places) == Peaks(total=2, of_one_user=2, user=7)


def test_same_seed_plans_the_same_jobs() -> None:
    arguments = {"jobs": 50, "users": 3, "longest": 1.0, "largest": 1000}
    assert list(plan(seed=5, **arguments)) == list(plan(seed=5, **arguments))  # type: ignore[arg-type]
    assert list(plan(seed=5, **arguments)) != list(plan(seed=6, **arguments))  # type: ignore[arg-type]


def test_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([4.0], 0.95) == 4.0
