"""What has to hold when a simulation is over: a list of questions with their answers."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.cluster import Limits
from testbed.occupancy import Entry, held, peaks
from testbed.workload import PlannedJob

SHOWN = 5
"""How many culprits of one kind are told in full."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One job as its user saw it: the job's JSON when it had ended, what is wrong with its results, and the
    seconds from the begin of the upload until the end was told."""

    planned: PlannedJob
    number: int
    job: Mapping[str, Any]
    results_wrong: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """`wrong` names what does not hold; empty if all is well."""

    question: str
    answer: str
    wrong: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.wrong


def check_results(planned: PlannedJob, content: bytes) -> str:
    """What is wrong with a result zip; empty if nothing is."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"no good zip: {error}"
    if found.get("input.bin") != planned.content():
        return "input.bin is not what was uploaded"
    if not planned.runs:
        return ""
    if found.get("sum.txt", b"").split()[:1] != [planned.checksum().encode()]:
        return "sum.txt is not the input's checksum"
    if found.get("stdout.log") != f"{planned.greeting}\n".encode():
        return "stdout.log is not what the script wrote"
    return ""


def judge(
    *,
    planned: Sequence[PlannedJob],
    seen: Sequence[Seen],
    failures: Sequence[str],
    marks: Iterable[str],
    history: Sequence[Entry],
    limits: Limits,
) -> list[Verdict]:
    """All the verdicts. `failures` are what users met instead of an answer; `marks` what the scripts left."""
    return [
        _answered(planned, failures),
        _ended(seen),
        _lost(planned, seen, history),
        _runs(seen, list(marks)),
        _results(seen),
        *_quotas(history, limits),
    ]


def _verdict(question: str, answer: str, wrong: Iterable[str]) -> Verdict:
    told = list(wrong)
    if len(told) > SHOWN:
        told = [*told[:SHOWN], f"and {len(told) - SHOWN} more"]
    return Verdict(question, answer, tuple(told))


def _answered(planned: Sequence[PlannedJob], failures: Sequence[str]) -> Verdict:
    answer = f"{len(planned) - len(failures)} of {len(planned)} jobs"
    return _verdict("every request was answered as it should be", answer, failures)


def _ended(seen: Sequence[Seen]) -> Verdict:
    wrong = []
    for one in seen:
        status, message = str(one.job["status"]), str(one.job.get("message") or "")
        if status != one.planned.status or one.planned.message not in message:
            expected = f"{one.planned.status} {one.planned.message}".strip()
            wrong.append(f"job {one.number} is {status} ({message}), expected {expected}")
    counts = Counter(str(one.job["status"]) for one in seen)
    answer = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    return _verdict("every job ended as it should", answer, wrong)


def _lost(planned: Sequence[PlannedJob], seen: Sequence[Seen], history: Sequence[Entry]) -> Verdict:
    ended = {one.number for one in seen}
    in_ledger = {entry.job for entry in history}
    wrong = [f"job {number} is not in the ledger" for number in sorted(ended - in_ledger)]
    wrong += [f"job {number} is in the ledger, and nobody saw it end" for number in sorted(in_ledger - ended)]
    if len(ended) != len(planned):
        wrong.append(f"{len(ended)} different jobs ended, {len(planned)} were planned")
    return _verdict("none was lost", f"{len(in_ledger)} in the ledger", wrong)


def _runs(seen: Sequence[Seen], marks: Sequence[str]) -> Verdict:
    runs = Counter(marks)
    wrong = []
    for one in seen:
        mark = f"{one.planned.serial} {one.number} 1"
        times = runs.pop(mark, 0)
        if times != one.planned.runs:
            wrong.append(f"job {one.number} ran {times} times, expected {int(one.planned.runs)}")
    wrong += [f"a run that nobody planned left the mark {mark!r}" for mark in runs]
    return _verdict("none ran twice", f"{len(marks)} runs", wrong)


def _results(seen: Sequence[Seen]) -> Verdict:
    wrong = [f"job {one.number}: {one.results_wrong}" for one in seen if one.results_wrong]
    return _verdict("the results are right", f"{len(seen) - len(wrong)} zips", wrong)


def _quotas(history: Sequence[Entry], limits: Limits) -> list[Verdict]:
    most = peaks(held(history))
    return [
        _verdict(
            "no user had more than runs_per_user",
            f"at most {most.of_one_user} of {limits.runs_per_user}",
            [f"user {most.user} had {most.of_one_user}"] if most.of_one_user > limits.runs_per_user else [],
        ),
        _verdict(
            "the service had no more than max_runs",
            f"at most {most.total} of {limits.max_runs}",
            [f"it had {most.total}"] if most.total > limits.max_runs else [],
        ),
    ]
