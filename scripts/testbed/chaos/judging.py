"""What has to hold when a chaos run is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from testbed.chaos.after import Ledger, checksum, directory_of, job_directories, serial_of
from testbed.chaos.diary import Diary
from testbed.chaos.jobs import Kind
from testbed.chaos.users import Outcome
from testbed.cluster import Limits
from testbed.occupancy import held, peaks, read_history
from testbed.portal import ENDED
from testbed.verdicts import Verdict

RECONNECTS: Final = 5.0
"""Seconds that a node may seem to be away longer than it was: the pause between two tries to reach it, and
the time that the try takes."""
LAST_BREATH: Final = 0.3
"""Seconds that the clock of a file system and the order of two processes may differ by."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that the verdicts look at. `node_names` are by the node's id; `node_lost_after` is in
    seconds."""

    outcomes: Sequence[Outcome]
    ledger: Ledger
    directory: Path
    data: Path
    db_path: Path
    limits: Limits
    diary: Diary
    node_names: Mapping[str, str]
    node_lost_after: float
    processes: Sequence[str]
    on_nodes: Sequence[str]
    at_server: Sequence[str]


def judge(seen: Seen) -> list[Verdict]:
    numbers, doubtful = _identify(seen)
    return [
        _trouble(seen),
        _answered(seen),
        _known(seen, numbers, doubtful),
        _ended(numbers),
        _histories(seen),
        _marks(seen, numbers),
        _attempts(seen),
        _results(seen, numbers),
        *_quotas(seen),
        _daemons(seen, numbers),
        _nothing("no process is left of any job", seen.processes),
        _nothing("nothing is left on the nodes", [*seen.on_nodes, *seen.ledger.owed]),
        _directories(seen),
    ]


def _identify(seen: Seen) -> tuple[dict[int, Outcome], list[str]]:
    """The outcomes by the job's number, those included whose upload was not answered but stored."""
    by_serial = {outcome.job.serial: outcome for outcome in seen.outcomes}
    numbers = {outcome.number: outcome for outcome in seen.outcomes if outcome.number is not None}
    doubtful = []
    for row in seen.ledger.rows.values():
        if row.number in numbers:
            continue
        serial = serial_of(seen.data, row.storage_key)
        outcome = by_serial.get(-1 if serial is None else serial)
        if outcome is None or outcome.number is not None or not outcome.unanswered:
            doubtful.append(f"job {row.number} is in the ledger, and nobody uploaded it (serial {serial})")
            continue
        outcome.number = row.number
        outcome.told = {"status": row.status, "message": row.message}
        numbers[row.number] = outcome
    return numbers, doubtful


def _trouble(seen: Seen) -> Verdict:
    return Verdict(
        "nothing crashed, and no answer was an error",
        f"{seen.diary.done} faults",
        tuple(seen.diary.trouble),
    )


def _answered(seen: Seen) -> Verdict:
    accepted = sum(outcome.zip_sum != "" for outcome in seen.outcomes)
    repeated = sum(outcome.unanswered for outcome in seen.outcomes)
    wrong = [
        f"serial {outcome.job.serial} was never accepted"
        for outcome in seen.outcomes
        if outcome.number is None and outcome.job.with_key
    ]
    answer = f"{accepted} of {len(seen.outcomes)}, {repeated} uploads went unanswered"
    return Verdict("every upload with a key was accepted in the end", answer, tuple(wrong))


def _known(seen: Seen, numbers: Mapping[int, Outcome], doubtful: Sequence[str]) -> Verdict:
    wrong = [
        f"job {number} was accepted and is lost" for number in sorted(set(numbers) - set(seen.ledger.rows))
    ]
    twice = Counter(outcome.job.serial for outcome in numbers.values())
    wrong += [f"serial {serial} is {times} jobs" for serial, times in twice.items() if times > 1]
    return Verdict(
        "no job is lost, and none is there twice", f"{len(seen.ledger.rows)} jobs", (*wrong, *doubtful)
    )


def _ended(numbers: Mapping[int, Outcome]) -> Verdict:
    wrong, counts = [], Counter[str]()
    for number, outcome in numbers.items():
        told = outcome.told or {"status": "not told to have ended", "message": ""}
        status, message = str(told["status"]), str(told["message"] or "")
        counts[status] += 1
        # Without an answer its user could not ask for its end: that is done for it at the end.
        if status != outcome.job.status or outcome.job.message not in message:
            expected = f"{outcome.job.status} {outcome.job.message}".strip()
            wrong.append(
                f"job {number} ({outcome.job.kind.name}) is {status} ({message}), expected {expected}"
            )
    answer = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return Verdict("every job ended as it should", answer, tuple(wrong))


def _histories(seen: Seen) -> Verdict:
    wrong = []
    for number, changes in seen.ledger.changes.items():
        status: str | None = None
        for change in changes:
            if change.source != status:
                wrong.append(f"job {number} left {change.source} when it was {status}")
            status = change.target
        row = seen.ledger.rows[number]
        if status != row.status or status not in ENDED:
            wrong.append(f"job {number} is {row.status}, its history ends with {status}")
    total = sum(map(len, seen.ledger.changes.values()))
    return Verdict("every history is one line without a gap", f"{total} transitions", tuple(wrong))


def _marks(seen: Seen, numbers: Mapping[int, Outcome]) -> Verdict:
    wrong, runs = [], 0
    left = {path.name for path in (seen.directory / "marks").iterdir()}
    for number, outcome in numbers.items():
        job, path = outcome.job, outcome.job.marks(seen.directory)
        left.discard(path.name)
        lines = path.read_text().splitlines() if path.exists() else []
        begun = Counter(line for line in lines if line.startswith("begin"))
        runs += sum(begun.values())
        wrong += [f"job {number}: {times} times {line!r}" for line, times in begun.items() if times > 1]
        others = [line for line in lines if line.split()[1:2] != [str(number)]]
        wrong += [f"job {number}: the mark of another job: {line!r}" for line in others]
        used = seen.ledger.rows[number].attempts_used if number in seen.ledger.rows else 0
        through = f"end {number} {used}" in lines
        if job.status in ("Completed", "Failed") and not (begun[f"begin {number} {used}"] and through):
            wrong.append(f"job {number}: its last attempt {used} was not through: {lines}")
        if job.kind is Kind.NO_SCRIPT and lines:
            wrong.append(f"job {number} has no script, and ran: {lines}")
    wrong += [f"serial {name} is no job, and ran" for name in sorted(left)]
    return Verdict("no attempt ran twice", f"{runs} runs", tuple(wrong))


def _attempts(seen: Seen) -> Verdict:
    """More than one only where a node was away for so long that it had to be given up."""
    wrong, more = [], 0
    for row in seen.ledger.rows.values():
        if row.attempts_used <= 1:
            continue
        more += 1
        given_up = {
            change.node
            for change in seen.ledger.changes[row.number]
            if change.target == "Queued" and change.node is not None
        }
        names = [seen.node_names.get(node, node) for node in given_up]
        away = max((seen.diary.longest_outage(name, RECONNECTS) for name in names), default=0.0)
        if away + RECONNECTS < seen.node_lost_after:
            wrong.append(
                f"job {row.number} had {row.attempts_used} attempts; {names} away {away:.1f} s at most"
            )
    return Verdict("no restart of a node cost an attempt", f"{more} jobs had more than one", tuple(wrong))


def _results(seen: Seen, numbers: Mapping[int, Outcome]) -> Verdict:
    wrong, files = [], 0
    for number, outcome in numbers.items():
        row = seen.ledger.rows.get(number)
        if row is None:
            continue
        stored = directory_of(seen.data, row.storage_key) / "result" / "result.zip"
        if outcome.job.status in ("Completed", "Failed") and not stored.is_file():
            wrong.append(f"job {number}: {stored} is not there")
        if not outcome.zip_sum:
            if outcome.broken:
                wrong.append(f"job {number}: {outcome.broken}")
            continue  # nobody knew its number, so nobody fetched it
        if outcome.broken:
            wrong.append(f"job {number}: {outcome.broken}")
            continue
        for name, expected in outcome.job.expected().items():
            files += 1
            if outcome.found.get(name) != expected:
                what = "is missing" if name not in outcome.found else "is not what it should be"
                wrong.append(f"job {number} ({outcome.job.kind.name}): {name} {what}")
        if stored.is_file() and checksum(stored) != outcome.zip_sum:
            wrong.append(f"job {number}: the stored zip is not the one that was downloaded")
    return Verdict("the results are right", f"{files} files", tuple(wrong))


def _quotas(seen: Seen) -> Iterable[Verdict]:
    most = peaks(held(read_history(seen.db_path)))
    for question, found, allowed in (
        ("no user had more than runs_per_user", most.of_one_user, seen.limits.runs_per_user),
        ("the service had no more than max_runs", most.total, seen.limits.max_runs),
    ):
        wrong = (f"{found} at once",) if found > allowed else ()
        yield Verdict(question, f"at most {found} of {allowed}", wrong)


def _daemons(seen: Seen, numbers: Mapping[int, Outcome]) -> Verdict:
    """None wrote after its job had ended, unless the node could not be asked."""
    wrong, daemons = [], 0
    for number, outcome in numbers.items():
        path = outcome.job.alive(seen.directory)
        row = seen.ledger.rows.get(number)
        if row is None or not path.exists():
            continue
        daemons += 1
        if row.attempts_used > 1 or "could not be verified" in row.message:
            continue
        late = path.stat().st_mtime - seen.ledger.changes[number][-1].at
        if late > LAST_BREATH:
            wrong.append(f"job {number}: its daemon lived for {late:.1f} s after the job's end")
    return Verdict("no daemon outlived its job", f"{daemons} daemons", tuple(wrong))


def _directories(seen: Seen) -> Verdict:
    there = job_directories(seen.data)
    known = {row.storage_key: row.number for row in seen.ledger.rows.values()}
    wrong = [f"job {number} has no directory" for key, number in known.items() if key not in there]
    wrong += [f"directory {key} belongs to no job" for key in sorted(there - set(known))]
    wrong += [f"the server keeps {entry}" for entry in seen.at_server]
    return Verdict("each job has its directory, and each directory its job", f"{len(there)}", tuple(wrong))


def _nothing(question: str, found: Sequence[str]) -> Verdict:
    return Verdict(question, "none" if not found else f"{len(found)}", tuple(found))
