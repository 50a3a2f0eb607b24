"""That a chaos run can fail: each promise, broken by hand, is found."""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.chaos.after import Row, directory_of, read_ledger
from testbed.chaos.diary import Diary, Span
from testbed.chaos.faults import What, draw
from testbed.chaos.jobs import ChaosJob, Kind, plan
from testbed.chaos.judging import Seen, judge
from testbed.chaos.users import Outcome
from testbed.cluster import Limits

from actors.ports.storage import Part
from orchestrator.ledger.tables import small_files
from orchestrator.storage.bundle import Bundle, pack

NODE = "a" * 32
KEY = "b" * 32
ATTEMPT = "e" * 32
LIMITS = Limits(runs_per_user=1, max_runs=1)
JOB = ChaosJob(
    serial=0,
    user=1,
    kind=Kind.QUICK,
    seconds=0.1,
    size=10,
    repeat=1,
    code=0,
    stubborn=False,
    terminate_after=None,
    with_key=True,
    at=0.0,
    seed=1,
)
ZIP = b"the stored zip"
FILES: tuple[tuple[Part, str, bytes], ...] = (("input", "serial", b"0\n"), ("result", "result.zip", ZIP))


@pytest.fixture(params=["in the ledger", "in a directory"])
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> Seen:
    """One job that went well, as it is found afterwards: its files are small, or they are not."""
    for name in ("marks", "alive"):
        (tmp_path / name).mkdir()
    JOB.marks(tmp_path).write_text("begin 1 1 0\nend 1 1 4\n")
    data, db_path = tmp_path / "data", tmp_path / "db.sqlite"
    for name in ("incoming", "trash"):
        (data / name).mkdir(parents=True)
    with closing(sqlite3.connect(db_path)) as db:
        db.execute(
            "CREATE TABLE jobs (id, user_id, status, message, storage_key, attempts_used, end_ended_at)"
        )
        for table in small_files.TABLES:
            db.execute(table)
        db.execute("CREATE TABLE history (job_id, at, source, target, reason, node_id, attempt_n)")
        db.execute("CREATE TABLE attempts (key, job_id, n, node_id, state)")
        db.execute("INSERT INTO jobs VALUES (1, 1, 'Completed', '', ?, 1, 4.0)", (KEY,))
        states = (None, "Queued", "Processing", "Submitted", "Running", "Completed")
        for at, (source, target) in enumerate(itertools.pairwise(states)):
            db.execute("INSERT INTO history VALUES (1, ?, ?, ?, '', ?, 1)", (at, source, target, NODE))
        db.execute("INSERT INTO attempts VALUES (?, 1, 1, ?, 'released')", (ATTEMPT, NODE))
        for part, name, content in FILES:
            if request.param == "in the ledger":
                small_files.store_files(db, 1, part, pack(Bundle(1, {name: content})))
            else:
                (directory_of(data, KEY) / part).mkdir(parents=True)
                (directory_of(data, KEY) / part / name).write_bytes(content)
        db.commit()
    outcome = Outcome(JOB, 1, told={"status": "Completed", "message": ""})
    outcome.found, outcome.zip_sum = JOB.expected(), hashlib.sha256(ZIP).hexdigest()
    return Seen(
        outcomes=[outcome],
        ledger=read_ledger(db_path),
        directory=tmp_path,
        data=data,
        db_path=db_path,
        limits=LIMITS,
        diary=Diary(tmp_path / "diary.log"),
        node_names={NODE: "node-1"},
        node_lost_after=60.0,
        processes=(),
        on_nodes=(),
        at_server=(),
        planned=(),
    )


def failing(seen: Seen) -> list[str]:
    return [verdict.question for verdict in judge(seen) if not verdict.holds]


def test_run_in_which_all_went_well_holds(seen: Seen) -> None:
    assert failing(seen) == []


def run_twice(seen: Seen) -> Seen:
    with JOB.marks(seen.directory).open("a") as file:
        file.write("begin 1 1 2\n")
    return seen


def run_two_attempts_at_once(seen: Seen) -> Seen:
    with JOB.marks(seen.directory).open("a") as file:
        file.write("begin 1 2 2\nbeside 1 2 2\n")
    return seen


def not_run(seen: Seen) -> Seen:
    JOB.marks(seen.directory).unlink()
    return seen


def lose_the_row(seen: Seen) -> Seen:
    return replace(seen, ledger=replace(seen.ledger, rows={}, changes={}))


def invent_a_row(seen: Seen) -> Seen:
    rows = {**seen.ledger.rows, 2: Row(2, "Completed", "", "c" * 32, 1)}
    return replace(seen, ledger=replace(seen.ledger, rows=rows))


def end_otherwise(seen: Seen) -> Seen:
    seen.outcomes[0].told = {"status": "Failed", "message": "supervision was killed"}
    return seen


def never_end(seen: Seen) -> Seen:
    seen.outcomes[0].told = None
    return seen


def never_accept(seen: Seen) -> Seen:
    return replace(seen, outcomes=[*seen.outcomes, Outcome(replace(JOB, serial=1))])


def leave_a_gap(seen: Seen) -> Seen:
    del seen.ledger.changes[1][2]
    return seen


def spend_an_attempt(seen: Seen) -> Seen:
    rows = {1: replace(seen.ledger.rows[1], attempts_used=2)}
    JOB.marks(seen.directory).write_text("begin 1 1 0\nbegin 1 2 2\nend 1 2 4\n")
    return replace(seen, ledger=replace(seen.ledger, rows=rows))


def change_a_file(seen: Seen) -> Seen:
    seen.outcomes[0].found["sum.txt"] = "0" * 64
    return seen


def lose_a_file(seen: Seen) -> Seen:
    del seen.outcomes[0].found["stdout.log"]
    return seen


def change(seen: Seen, statement: str, *values: object) -> bool:
    """Whether the statement found anything to change in the ledger."""
    with closing(sqlite3.connect(seen.db_path)) as db:
        changed = db.execute(statement, values).rowcount > 0
        db.commit()
    return changed


def damage_what_is_stored(seen: Seen) -> Seen:
    other = pack(Bundle(1, {"result.zip": ZIP[:-1]}))
    if not change(seen, "UPDATE small_results SET data = ?", other):
        (directory_of(seen.data, KEY) / "result" / "result.zip").write_bytes(ZIP[:-1])
    return seen


def lose_the_results(seen: Seen) -> Seen:
    if not change(seen, "DELETE FROM small_results"):
        (directory_of(seen.data, KEY) / "result" / "result.zip").unlink()
    return seen


def leave_a_daemon(seen: Seen) -> Seen:
    JOB.alive(seen.directory).write_text("x\n")  # written now, long after the end in the history
    return seen


def leave_a_directory(seen: Seen) -> Seen:
    directory_of(seen.data, "d" * 32).mkdir(parents=True)
    return seen


def lose_the_input(seen: Seen) -> Seen:
    if change(seen, "DELETE FROM small_inputs"):
        return replace(seen, ledger=read_ledger(seen.db_path))
    directory_of(seen.data, KEY).rename(seen.directory / "elsewhere")
    return seen


def keep_the_input_twice(seen: Seen) -> Seen:
    change(seen, "INSERT OR IGNORE INTO small_inputs VALUES (1, x'00')")
    (directory_of(seen.data, KEY) / "input").mkdir(parents=True, exist_ok=True)
    return replace(seen, ledger=read_ledger(seen.db_path))


def crash(seen: Seen) -> Seen:
    seen.diary.wrong("server ended by itself with 1")
    return seen


def refuse_though_there_is_room(seen: Seen) -> Seen:
    seen.diary.short["server"].append(Span(100.0, 102.0))
    seen.diary.refused += [(101.0, "upload of serial 0"), (140.0, "upload of serial 1")]
    return seen


def strike_nothing(seen: Seen) -> Seen:
    seen.diary.struck.update([What.INODES, "payloads/*/running emptied"])
    return replace(seen, planned={What.TEAR, What.INODES, What.DESCRIPTORS})


TROUBLE = "nothing crashed, and no answer was an error"
ENDED = "every job ended as it should"
RAN = "no attempt ran twice"
KNOWN = "no job is lost, and none is there twice"
DIRECTORIES = "each job has its files in one place, and each directory its job"
RESULTS = "the results are right"


@pytest.mark.parametrize(
    ("breaking", "question"),
    [
        (run_twice, RAN),
        (not_run, RAN),
        (run_two_attempts_at_once, "no job ran twice at once"),
        (lose_the_row, KNOWN),
        (invent_a_row, KNOWN),
        (end_otherwise, ENDED),
        (never_end, ENDED),
        (never_accept, "every upload with a key was accepted in the end"),
        (leave_a_gap, "every history is one line without a gap"),
        (spend_an_attempt, "no restart of a node cost an attempt"),
        (change_a_file, RESULTS),
        (lose_a_file, RESULTS),
        (damage_what_is_stored, RESULTS),
        (lose_the_results, RESULTS),
        (leave_a_daemon, "no daemon outlived its job"),
        (leave_a_directory, DIRECTORIES),
        (lose_the_input, DIRECTORIES),
        (keep_the_input_twice, DIRECTORIES),
        (crash, TROUBLE),
        (refuse_though_there_is_room, TROUBLE),
        (strike_nothing, "files were torn, inodes and descriptors ran out"),
        (lambda seen: replace(seen, processes=["1 sleep"]), "no process is left of any job"),
        (lambda seen: replace(seen, on_nodes=["payloads/x"]), "nothing is left on the nodes"),
        (lambda seen: replace(seen, limits=Limits(1, 0)), "the service had no more than max_runs"),
        (lambda seen: replace(seen, limits=Limits(0, 1)), "no user had more than runs_per_user"),
    ],
)
def test_broken_promise_is_found(seen: Seen, breaking: Callable[[Seen], Seen], question: str) -> None:
    assert question in failing(breaking(seen))


def test_second_attempt_is_right_after_a_node_was_away_for_long_enough(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([100.0, 100.0, 159.0, 159.0])
    monkeypatch.setattr("testbed.chaos.diary.time.time", lambda: next(moments))
    seen.diary.away("node-1", "down")
    seen.diary.back("node-1", "down")
    changes = seen.ledger.changes[1]
    changes.insert(3, replace(changes[2], source="Submitted", target="Queued"))
    assert "no restart of a node cost an attempt" not in failing(spend_an_attempt(seen))


NEVER_BEGAN = "could not be started: the node went down before it had started"
DAMAGED = "what the node knew of it is damaged"
REFUSED = "could not be started: OSError: [Errno 28] No space left on device"


def tear_a_file(seen: Seen) -> None:
    seen.diary.torn[ATTEMPT].append("payloads/*/record.json emptied")


def tear_a_file_of_another(seen: Seen) -> None:
    seen.diary.torn["f" * 32].append("payloads/*/record.json emptied")


def kill_amid_the_start(seen: Seen) -> None:
    kill(seen)
    marks = JOB.marks(seen.directory)
    marks.write_text(marks.read_text().replace("begin 1 1 0\n", ""))


def never_begin(seen: Seen) -> None:
    JOB.marks(seen.directory).write_text("end 1 1 4\n")


def kill(seen: Seen) -> None:
    seen.diary.away("node-1", "down")
    seen.diary.back("node-1", "down")
    seen.ledger.changes[1][2] = replace(seen.ledger.changes[1][2], at=time.time())


def use_up_inodes(seen: Seen) -> None:
    seen.diary.short["node-1"].append(Span(0.0, 4.5))


def use_up_inodes_long_before(seen: Seen) -> None:
    seen.diary.short["node-1"].append(Span(-300.0, -200.0))


def use_up_inodes_elsewhere(seen: Seen) -> None:
    seen.diary.short["node-2"].append(Span(0.0, 4.5))


CAUSES = [
    (tear_a_file, DAMAGED, True),
    (tear_a_file_of_another, DAMAGED, False),
    (use_up_inodes, DAMAGED, False),
    (use_up_inodes, REFUSED, True),
    (use_up_inodes_long_before, REFUSED, False),
    (use_up_inodes_elsewhere, REFUSED, False),
    (tear_a_file, "machine restarted", False),
]
"""What was done, what the job says of it, and whether the one explains the other."""


@pytest.mark.parametrize(
    ("cause", "reason", "explains"),
    [
        *CAUSES,
        (kill_amid_the_start, NEVER_BEGAN, True),
        (kill, NEVER_BEGAN, False),
        (never_begin, NEVER_BEGAN, False),
    ],
)
def test_another_attempt_is_right_only_after_what_explains_it(
    seen: Seen, cause: Callable[[Seen], None], reason: str, explains: bool
) -> None:
    cause(seen)
    changes = seen.ledger.changes[1]
    changes.insert(3, replace(changes[2], source="Submitted", target="Queued", reason=reason))
    question, marks = "no restart of a node cost an attempt", JOB.marks(seen.directory).read_text()
    spent = spend_an_attempt(seen)
    JOB.marks(seen.directory).write_text(f"{marks}begin 1 2 2\nend 1 2 4\n")
    assert (question not in failing(spent)) is explains


@pytest.mark.parametrize(("cause", "reason", "explains"), CAUSES)
def test_another_end_is_right_only_after_what_explains_it(
    seen: Seen, cause: Callable[[Seen], None], reason: str, explains: bool
) -> None:
    cause(seen)
    fail(seen, reason)
    assert failing(seen) == ([] if explains else [ENDED, RAN, RESULTS])


@pytest.mark.parametrize("cause", [tear_a_file, tear_a_file_of_another])
def test_planned_end_without_results_is_right_only_after_what_explains_it(
    seen: Seen, cause: Callable[[Seen], None]
) -> None:
    cause(seen)
    seen.outcomes[0].job = replace(JOB, kind=Kind.EXIT_CODE, code=3)
    fail(seen, "its results cannot be had: its manifest is lost (exit code 3)")
    assert (failing(seen) == []) is (cause is tear_a_file)


@pytest.mark.parametrize(
    ("cause", "at", "explains"),
    [(use_up_inodes, 3, True), (use_up_inodes, 300, False), (use_up_inodes_elsewhere, 3, False)],
)
def test_script_that_lacked_room_is_believed_while_its_node_had_none(
    seen: Seen, cause: Callable[[Seen], None], at: int, explains: bool
) -> None:
    cause(seen)
    fail(seen, "exit code 74")
    with JOB.marks(seen.directory).open("a") as file:
        file.write(f"lack 1 1 {at}\n")
    assert (failing(seen) == []) is explains


def test_script_that_says_nothing_of_room_is_not_believed(seen: Seen) -> None:
    use_up_inodes(seen)
    fail(seen, "exit code 74")
    assert ENDED in failing(seen)


def fail(seen: Seen, reason: str) -> None:
    """Have the job end Failed amid its run, with no results."""
    outcome, row = seen.outcomes[0], seen.ledger.rows[1]
    outcome.told, outcome.found, outcome.broken = {"status": "Failed", "message": reason}, {}, "answered 404"
    seen.ledger.rows[1] = replace(row, status="Failed", message=reason)
    seen.ledger.changes[1][-1] = replace(seen.ledger.changes[1][-1], target="Failed", reason=reason)
    JOB.marks(seen.directory).write_text("begin 1 1 0\n")
    lose_the_results(seen)


def test_same_seed_gives_the_same_jobs_and_faults() -> None:
    def drawn(seed: int) -> tuple[object, object]:
        jobs = list(plan(jobs=50, users=5, seed=seed, seconds=20, longest=3))
        faults = draw(seed=seed, kills=30, nodes=3, seconds=20, longest=2, modes=("a", "b"), disks=True)
        return jobs, faults

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_faults_hold_as_many_kills_as_were_asked_for() -> None:
    faults = draw(seed=3, kills=30, nodes=3, seconds=20, longest=2, modes=("a", "b"), disks=True)
    assert sum(fault.what in (What.KILL, What.KILL_AT_UPLOAD) for fault in faults) == 30
    assert {fault.what for fault in faults} == set(What)
    assert {fault.target for fault in faults} == {0, 1, 2, 3}


def test_shortest_run_has_each_fault_and_what_is_short_on_either_side() -> None:
    faults = draw(seed=3, kills=1, nodes=1, seconds=5, longest=1, modes=("a",), disks=True)
    assert {fault.what for fault in faults} >= {What.TEAR, What.INODES, What.DESCRIPTORS}
    for what in (What.INODES, What.DESCRIPTORS):
        assert {fault.target for fault in faults if fault.what is what} == {0, 1}
    without = draw(seed=3, kills=1, nodes=1, seconds=5, longest=1, modes=("a",), disks=False)
    assert What.INODES not in {fault.what for fault in without}
