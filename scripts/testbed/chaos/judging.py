"""What has to hold when a chaos run is over."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from testbed.chaos.after import Change, Kept, Ledger, directory_of, job_directories
from testbed.chaos.diary import Diary
from testbed.chaos.faults import What
from testbed.chaos.jobs import NO_ROOM, Kind
from testbed.chaos.users import Outcome
from testbed.cluster import Limits
from testbed.occupancy import held, peaks, read_history
from testbed.portal import ENDED
from testbed.verdicts import Verdict

RECONNECTS: Final = 5.0
"""Seconds that a node may seem to be away longer than it was: the pause between two tries to reach it, and
the time that the try takes."""
BELATED: Final = 15.0
"""Seconds for which what was done to a machine may still be the reason when it is over."""
DAMAGED: Final = (
    *("what the node knew of it is damaged", "its results cannot be had", "supervision was killed"),
    "its end is not known",
)
"""How a job may be told to have ended, or to be queued again, when a file of its payload was torn."""
NEVER_BEGAN: Final = "could not be started: the node went down before it had started"
"""How a job may be queued again, without a line of its attempt, when its node was killed amid its start."""
NO_INODES: Final = "could not be started"
"""The same when the disk of its node had no inodes: an end is written down all the same."""
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
    planned: Collection[What]

    @property
    def kept(self) -> Kept:
        return Kept(self.db_path, self.data)


def judge(seen: Seen) -> list[Verdict]:
    numbers, doubtful = _identify(seen)
    otherwise = {number for number, outcome in numbers.items() if _ended_otherwise(seen, number, outcome)}
    return [
        _trouble(seen),
        _struck(seen),
        _answered(seen),
        _known(seen, numbers, doubtful),
        _ended(numbers, otherwise),
        _histories(seen),
        _marks(seen, numbers, otherwise),
        _beside(seen, numbers),
        _attempts(seen, numbers),
        _results(seen, numbers, otherwise),
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
        serial = seen.kept.serial(row.storage_key)
        outcome = by_serial.get(-1 if serial is None else serial)
        if outcome is None or outcome.number is not None or not outcome.unanswered:
            doubtful.append(f"job {row.number} is in the ledger, and nobody uploaded it (serial {serial})")
            continue
        outcome.number = row.number
        outcome.told = {"status": row.status, "message": row.message}
        numbers[row.number] = outcome
    return numbers, doubtful


def _ended_otherwise(seen: Seen, number: int, outcome: Outcome) -> bool:
    """Whether a job ended as it was not planned, or lost what it left, and says what it suffered: a file of
    its payload was torn, or its node had no inodes."""
    changes = seen.ledger.changes.get(number)
    if outcome.told is None or not changes:
        return False
    status, message, change = outcome.told["status"], str(outcome.told["message"] or ""), changes[-1]
    if status not in ("Failed", outcome.job.status):
        return False
    if f"exit code {NO_ROOM}" in message and not _as_planned(outcome):
        return _lacked_room(seen, number, outcome)
    return _is_explained(seen, _marks_of(seen, outcome), change, message)


def _as_planned(outcome: Outcome) -> bool:
    told = outcome.told or {"status": "", "message": ""}
    return told["status"] == outcome.job.status and outcome.job.message in str(told["message"] or "")


def _is_explained(seen: Seen, marks: Sequence[str], change: Change, reason: str) -> bool:
    """Whether something that was done to its node, to that node's disk or to the job's files is the reason
    given."""
    number = change.job
    if NEVER_BEGAN in reason and change.target == "Queued":
        began = any(line.split()[:3] == ["begin", str(number), str(change.attempt)] for line in marks)
        name = seen.node_names.get(change.node or "", "")
        return not began and seen.diary.was_away(name, change.at, BELATED)
    if any(phrase in reason for phrase in DAMAGED):
        return any(seen.diary.torn.get(key) for key in seen.ledger.keys.get(number, ()))
    return NO_INODES in reason and _was_short(seen, change.node, change.at)


def _was_short(seen: Seen, node: str | None, at: float) -> bool:
    spans = seen.diary.short.get(seen.node_names.get(node or "", ""), ())
    return any(span.holds(at, BELATED) for span in spans)


def _lacked_room(seen: Seen, number: int, outcome: Outcome) -> bool:
    """Whether the script of the last attempt says so, and at a time when the disk of its node was full."""
    used = seen.ledger.rows[number].attempts_used
    nodes = {change.node for change in seen.ledger.changes[number] if change.attempt == used}
    return any(
        line.split()[:3] == ["lack", str(number), str(used)]
        and any(_was_short(seen, node, float(line.split()[3])) for node in nodes)
        for line in _marks_of(seen, outcome)
    )


def _marks_of(seen: Seen, outcome: Outcome) -> list[str]:
    path = outcome.job.marks(seen.directory)
    return path.read_text().splitlines() if path.exists() else []


def _trouble(seen: Seen) -> Verdict:
    spans = seen.diary.short.get("server", ())
    wrong = [
        f"{what} was refused for want of room when there was some"
        for at, what in seen.diary.refused
        if not any(span.holds(at, BELATED) for span in spans)
    ]
    return Verdict(
        "nothing crashed, and no answer was an error",
        f"{seen.diary.done} faults",
        (*seen.diary.trouble, *wrong),
    )


def _struck(seen: Seen) -> Verdict:
    """A fault that hits nothing proves nothing."""
    struck = seen.diary.struck
    torn = {what: number for what, number in struck.items() if what not in set(What)}
    counts = {
        What.TEAR: sum(torn.values()),
        **{what: struck[what] for what in (What.INODES, What.DESCRIPTORS)},
    }
    wrong = [
        f"{what}: planned, and never came about"
        for what, count in counts.items()
        if what in seen.planned and count == 0
    ]
    answer = (
        f"{counts[What.TEAR]} files of {len({what.split()[0] for what in torn})} kinds, "
        f"{counts[What.INODES]} and {counts[What.DESCRIPTORS]} times"
    )
    return Verdict("files were torn, inodes and descriptors ran out", answer, tuple(wrong))


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


def _ended(numbers: Mapping[int, Outcome], otherwise: Collection[int]) -> Verdict:
    wrong, counts = [], Counter[str]()
    for number, outcome in numbers.items():
        told = outcome.told or {"status": "not told to have ended", "message": ""}
        status, message = str(told["status"]), str(told["message"] or "")
        counts[status] += 1
        # Without an answer its user could not ask for its end: that is done for it at the end.
        if not _as_planned(outcome) and number not in otherwise:
            expected = f"{outcome.job.status} {outcome.job.message}".strip()
            wrong.append(
                f"job {number} ({outcome.job.kind.name}) is {status} ({message}), expected {expected}"
            )
    answer = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    answer += f"; {len(otherwise)} for a torn file or a full disk" if otherwise else ""
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


def _marks(seen: Seen, numbers: Mapping[int, Outcome], otherwise: Collection[int]) -> Verdict:
    wrong, runs = [], 0
    left = {path.name for path in (seen.directory / "marks").iterdir()}
    for number, outcome in numbers.items():
        job, path = outcome.job, outcome.job.marks(seen.directory)
        left.discard(path.name)
        lines = [" ".join(line.split()[:3]) for line in _marks_of(seen, outcome)]
        begun = Counter(line for line in lines if line.startswith("begin"))
        runs += sum(begun.values())
        wrong += [f"job {number}: {times} times {line!r}" for line, times in begun.items() if times > 1]
        others = [line for line in lines if line.split()[1:2] != [str(number)]]
        wrong += [f"job {number}: the mark of another job: {line!r}" for line in others]
        used = seen.ledger.rows[number].attempts_used if number in seen.ledger.rows else 0
        through = f"end {number} {used}" in lines
        is_whole = begun[f"begin {number} {used}"] and through
        if job.status in ("Completed", "Failed") and number not in otherwise and not is_whole:
            wrong.append(f"job {number}: its last attempt {used} was not through: {lines}")
        if job.kind is Kind.NO_SCRIPT and lines:
            wrong.append(f"job {number} has no script, and ran: {lines}")
    wrong += [f"serial {name} is no job, and ran" for name in sorted(left)]
    return Verdict("no attempt ran twice", f"{runs} runs", tuple(wrong))


def _beside(seen: Seen, numbers: Mapping[int, Outcome]) -> Verdict:
    """Whatever was torn: another attempt begins only when nothing of the one before lives, unless its node
    was away for so long that it was given up."""
    wrong = []
    for number, outcome in numbers.items():
        lines = [line for line in _marks_of(seen, outcome) if line.startswith("beside")]
        if lines and not _was_given_up(seen, number):
            wrong.append(f"job {number} ran twice at once: {', '.join(lines)}")
    return Verdict("no job ran twice at once", f"{len(numbers)} jobs", tuple(wrong))


def _was_given_up(seen: Seen, number: int) -> bool:
    """Whether one of the nodes that it was on was away for so long that it counted as lost."""
    return _longest_outage(seen, number)[1] + RECONNECTS >= seen.node_lost_after


def _longest_outage(seen: Seen, number: int) -> tuple[list[str], float]:
    """The nodes that it was taken from, and for how long, in seconds, any of them was away."""
    given_up = {
        change.node
        for change in seen.ledger.changes.get(number, ())
        if change.target == "Queued" and change.node is not None
    }
    names = [seen.node_names.get(node, node) for node in given_up]
    return names, max((seen.diary.longest_outage(name, RECONNECTS) for name in names), default=0.0)


def _attempts(seen: Seen, numbers: Mapping[int, Outcome]) -> Verdict:
    """More than one only where a file of its payload was torn, or its node had no inodes to start it with, or
    was killed in that instant, or was away for so long that it had to be given up."""
    wrong, more = [], 0
    for row in seen.ledger.rows.values():
        if row.attempts_used <= 1:
            continue
        more += 1
        again = [change for change in seen.ledger.changes[row.number] if change.target == "Queued"]
        marks = _marks_of(seen, numbers[row.number]) if row.number in numbers else ()
        explained = sum(_is_explained(seen, marks, change, change.reason) for change in again)
        names, away = _longest_outage(seen, row.number)
        if row.attempts_used - explained > 1 and not _was_given_up(seen, row.number):
            wrong.append(
                f"job {row.number} had {row.attempts_used} attempts; {names} away {away:.1f} s at most"
            )
    return Verdict("no restart of a node cost an attempt", f"{more} jobs had more than one", tuple(wrong))


def _results(seen: Seen, numbers: Mapping[int, Outcome], otherwise: Collection[int]) -> Verdict:
    wrong, files = [], 0
    for number, outcome in numbers.items():
        row = seen.ledger.rows.get(number)
        if row is None or number in otherwise:
            continue
        stored = seen.kept.read(row.storage_key, "result", "result.zip")
        if outcome.job.status in ("Completed", "Failed") and stored is None:
            wrong.append(f"job {number}: its results are not there")
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
        if stored is not None and hashlib.sha256(stored).hexdigest() != outcome.zip_sum:
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
    there, small = job_directories(seen.data), seen.ledger.inputs
    known = {row.storage_key: row.number for row in seen.ledger.rows.values()}
    large = {key for key in there if (directory_of(seen.data, key) / "input").is_dir()}
    wrong = [
        f"the input of job {number} is nowhere" for key, number in known.items() if key not in large | small
    ]
    wrong += [f"the input of job {known[key]} is kept twice" for key in sorted(large & small)]
    wrong += [f"directory {key} belongs to no job" for key in sorted(there - set(known))]
    wrong += [f"the server keeps {entry}" for entry in seen.at_server]
    answer = f"{len(small)} inputs in the ledger, {len(there)} directories"
    return Verdict("each job has its files in one place, and each directory its job", answer, tuple(wrong))


def _nothing(question: str, found: Sequence[str]) -> Verdict:
    return Verdict(question, "none" if not found else f"{len(found)}", tuple(found))
