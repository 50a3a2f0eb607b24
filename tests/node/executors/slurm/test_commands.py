"""What the commands of Slurm print, read: whole and cut off, from clusters large and strange."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.slurm.states import ENDED
from node.executors.slurm.batch_system import BatchId, BatchJob, OutOfReach, Phase, Refused
from node.executors.slurm.commands import (
    PREFIX,
    SlurmCommands,
    read_accounts,
    read_job,
    read_queue,
    read_time,
)

UID = 1000
NAME = f"{PREFIX}{'0' * 32}-{'1' * 16}"


def line(
    number: str = "7", state: str = "RUNNING", owner: int = UID, name: str = NAME, reason: str = "None"
) -> str:
    return f"{number}|{state}|{owner}|1700000000|n1|{reason}|{name}|."


def test_a_line_of_the_queue() -> None:
    (job,) = read_queue(line(state="PENDING", reason="Priority") + "\n", UID)
    assert job == BatchJob(BatchId("7"), NAME, Phase.WAITING, "PENDING", "Priority", 1_700_000_000, "n1")


@pytest.mark.parametrize("state", ["COMPLETING", "RUNNING+", "CG", "", "A_STATE_OF_NEXT_YEAR", "SUSPENDED"])
def test_what_is_not_known_to_be_an_end_is_none(state: str) -> None:
    (job,) = read_queue(line(state=state), UID)
    assert job.phase is Phase.RUNNING


@pytest.mark.parametrize("state", sorted(ENDED))
def test_ends(state: str) -> None:
    assert [job.phase for job in read_queue(line(state=state), UID)] == [Phase.ENDED]
    (job,) = read_accounts(f"7|{state} by 0|{UID}|1700000000|n1|{NAME}\n", UID)
    assert (job.phase, job.state) == (Phase.ENDED, f"{state} by 0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "JOBID|STATE|USER|SUBMIT|NODELIST|REASON|NAME|.",
        line("7_1"),
        line("12+1"),
        line("7_[1-9%2]"),
        line(owner=1),
        line(name="a person's own"),
        line(name="a|b|c"),
        "slurm_load_jobs error: Unable to contact slurm controller",
    ],
)
def test_what_is_not_ours_is_left_out(text: str) -> None:
    assert list(read_queue(text, UID)) == []


def test_each_cluster_of_a_federation_has_its_own_ids() -> None:
    other = NAME[:-1] + "2"
    said = f"CLUSTER: near\n{line()}\nCLUSTER: far\n{line(name=other)}\n"
    assert {job.name: job.id for job in read_queue(said, UID)} == {
        NAME: BatchId("7", "near"),
        other: BatchId("7", "far"),
    }


@given(cut=st.integers(0, 200))
def test_a_line_that_was_cut_off_says_nothing(cut: int) -> None:
    whole = line(state="COMPLETED")
    assert list(read_queue(whole[: min(cut, len(whole) - 1)], UID)) == []


@given(
    said=st.text(alphabet=st.characters(codec="utf-8"))
    | st.lists(st.text(alphabet="0123|.:=+ ADNP")).map("|".join)
)
def test_nothing_that_is_said_breaks_the_reading(said: str) -> None:
    for text in (said, line(state=said), line(reason=said), f"{line()}\n{said}"):
        assert {job.name for job in read_queue(text, UID)} <= {NAME}
        assert list(read_accounts(text, UID)) == []
        read_job(text, UID)
        read_time(text)


def test_a_job_by_itself() -> None:
    said = (
        f"JobId=7 JobName={NAME} UserId=me({UID}) GroupId=me(1) JobState=NODE_FAIL Reason=NodeDown Requeue=0"
        " SubmitTime=1700000000 NodeList=(null) Comment=JobState=COMPLETED JobId=8"
    )
    found = BatchJob(BatchId("7"), NAME, Phase.ENDED, "NODE_FAIL", "NodeDown", 1_700_000_000)
    assert read_job(said, UID) == found
    assert read_job(said, UID + 1) is None
    assert read_job(said.replace("JobId=7 ", "JobId=7 ArrayJobId=6 ", 1), UID) == found
    assert read_job("No jobs in the system", UID) is None


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    yield monkeypatch  # type: ignore[misc]
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", 1_700_000_000),
        ("2026-03-28T23:59:59", 1_774_738_799),
        ("2026-03-29T00:00:00", 1_774_738_800),
        ("2026-10-25T02:30:00", 0),  # The hour that comes twice.
        ("2026-03-29T02:30:00", 0),  # The one that never comes.
        ("Unknown", 0),
        ("N/A", 0),
        ("", 0),
    ],
)
def test_times(zone: pytest.MonkeyPatch, text: str, expected: int) -> None:
    zone.setenv("TZ", "Europe/Zurich")
    time.tzset()
    assert read_time(text) == expected


# ------------------------------------------------------------------ commands that answer so


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    place = tmp_path / "bin"
    place.mkdir()
    return place


def put(programs: Path, name: str, script: str) -> None:
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)


def commands(programs: Path, deadline: float = 30.0) -> SlurmCommands:
    environ = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": "/",
        "AWS_SECRET": "hidden",
        "LANG": "de_DE.UTF-8",
    }
    return SlurmCommands(environ, deadline)


@pytest.mark.parametrize(
    "script",
    [
        "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
        "echo 'Socket timed out on send/recv operation' >&2; exit 1",
        "exit 1",
        "kill -9 $$",
        "sleep 60",
    ],
)
async def test_who_cannot_be_asked_says_nothing(programs: Path, script: str) -> None:
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        put(programs, name, script)
    # Only what hangs takes so long.
    slurm = commands(programs, 0.5 if script.startswith("sleep") else 30.0)
    for ask in (
        slurm.list(()),
        slurm.find(BatchId("7"), NAME),
        slurm.submit(NAME, "", [], []),
        slurm.cancel(BatchId("7"), "name"),
    ):
        with pytest.raises(OutOfReach):
            await ask


async def test_a_job_that_is_surely_unknown(programs: Path) -> None:
    put(programs, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    put(programs, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    slurm = commands(programs)
    assert await slurm.find(BatchId("7"), NAME) is None
    put(programs, "sacct", f"echo '7|PREEMPTED|{os.getuid()}|1700000000|n1|{NAME}'")
    found = await slurm.find(BatchId("7"), NAME)
    assert found is not None and found.state == "PREEMPTED"
    # It was running when the accounts last heard of it.
    put(programs, "sacct", f"echo '7|RUNNING|{os.getuid()}|1700000000|n1|{NAME}'")
    assert await slurm.find(BatchId("7"), NAME) is None
    put(programs, "sacct", "echo 'Problem talking to the database: Connection refused' >&2; exit 1")
    with pytest.raises(OutOfReach):
        await slurm.find(BatchId("7"), NAME)
    other = f"JobId=7 JobName={NAME[:-1]}9 UserId=me({os.getuid()}) JobState=RUNNING"
    put(programs, "scontrol", f"echo '{other}'")
    put(programs, "sacct", "")
    assert await slurm.find(BatchId("7"), NAME) is None


async def test_what_slurm_is_told(programs: Path, tmp_path: Path) -> None:
    put(
        programs,
        "sbatch",
        f"env > {tmp_path}/env; echo \"$@\" > {tmp_path}/args; echo 'a line of ours'; echo '7;far'",
    )
    assert await commands(programs).submit(NAME, "", ["/d"], ["--qos=x", "--requeue"]) == BatchId("7", "far")
    environment = (tmp_path / "env").read_text()
    assert "hidden" not in environment and "LC_ALL=C\n" in environment and "LANG" not in environment
    arguments = (tmp_path / "args").read_text().split()
    assert arguments[:2] == ["--qos=x", "--requeue"] and arguments[-2:] == ["/dev/stdin", "/d"]
    assert arguments.index("--no-requeue") > arguments.index("--requeue")
    put(programs, "sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")
    with pytest.raises(Refused, match="Invalid account"):
        await commands(programs).submit(NAME, "", [], [])
