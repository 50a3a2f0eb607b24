"""The power of a real server, cut: what it told before is there after it, and a server that is broken in one
rule of what is synced is found out."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from testbed.power_cut import trace
from testbed.power_cut.controls import CONTROLS, OF_NODES, OF_STARTS
from testbed.power_cut.disk import replay
from testbed.power_cut.node_recording import record_node
from testbed.power_cut.recording import read_whole, record
from testbed.power_cut.run import cuts, node_cuts
from testbed.power_cut.told import (
    Accepted,
    Begun,
    Changed,
    EndedThere,
    Finished,
    Ordered,
    StartedThere,
    Taken,
    TakenThere,
)
from testbed.power_cut.trace import Done, Make, Rename, Sync, Write

JOBS = 15
MANY = 200
"""Cuts among which it is found whatever is broken: five or more of them do."""
SERIES = 25
"""Cuts from the run's first write to its last, before others are tried: many of the time when nothing is owed
yet would be made in vain before one of when a broken rule shows."""
OWED = {"soft-uploads": Accepted, "soft-attempts": Begun, "early-notes": Begun}
"""What was told when a broken rule is seen most."""

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
    pytest.mark.usefixtures("forked_members"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory where syncs take no time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def after(steps: Sequence[Done], place: Path, *, at: float = math.inf, seed: int = 0) -> dict[str, bytes]:
    """Files of a disk that was cut off at a time."""
    for _, disk in replay(steps, [at]):
        disk.cut(random.Random(seed), place / "cut")
    found = files(place / "cut")
    shutil.rmtree(place / "cut")
    return found


def files(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_what_a_server_told_is_there_after_any_cut(tmp_path: Path, place: Path) -> None:
    recording = record(tmp_path, jobs=JOBS, seed=1)
    kinds = Counter(type(one) for one in recording.told)
    assert kinds[Accepted] > JOBS and kinds[Ordered] == JOBS // 5 and kinds[Changed] > 5 * JOBS
    assert kinds[Taken] == kinds[Accepted] - kinds[Ordered] <= kinds[Begun]
    everything = Done(math.inf, math.inf, Sync(None))
    assert after([*recording.steps, everything], place) == files(tmp_path / "server")
    wrong = [(cut.number, cut.wrong) for cut in cuts(recording, place, count=100, seed=1, processes=2)]
    assert len(wrong) == 100
    assert not [one for one in wrong if one[1]]


@pytest.mark.parametrize("control", CONTROLS)
def test_a_rule_that_is_broken_is_found_out(tmp_path: Path, place: Path, control: str) -> None:
    recording = record(tmp_path, jobs=12, seed=1, control=control)
    after = OWED.get(control)
    assert any(
        cut.wrong
        for seed in range(MANY // SERIES)
        for cut in cuts(recording, place, count=SERIES, seed=seed, after=after)
    )


def test_what_is_not_synced_may_be_there_in_any_part(place: Path) -> None:
    def done(at: int, step: trace.Step) -> Done:
        return Done(at, at + 0.5, step)

    steps = [
        done(1, Make("a", directory=True)),
        done(2, Make("a/new")),
        done(3, Write("a/new", 0, b"1" * 8192)),
        done(4, Sync("a/new")),
        done(5, Rename("a/new", "b")),
        done(6, Sync("")),
        done(7, Write("b", 8190, b"22")),
        done(8, Write("b", 4096, b"3" * 4096)),
    ]
    # Nothing has a name yet, or it has the old one.
    assert {tuple(after(steps, place, at=5.9, seed=seed)) for seed in range(200)} == {(), ("a/new",), ("b",)}
    assert {len(found) for seed in range(200) for found in after(steps, place, at=3, seed=seed).values()} > {
        0
    }
    for seed in range(200):
        assert after(steps, place, at=6.7, seed=seed) == {"b": b"1" * 8192}
    tails = {after(steps, place, seed=seed)["b"][4096:] for seed in range(400)}
    assert {b"1" * 4096, b"1" * 4094 + b"22", b"3" * 4096, b"3" * 512 + b"1" * 3584} < tails
    assert all(after(steps, place, seed=seed)["b"].startswith(b"1" * 4096) for seed in range(50))


def test_a_program_is_traced_with_its_threads_and_what_is_not_known_is_refused(
    tmp_path: Path, place: Path
) -> None:
    program = """
import os, shutil, threading
def work(name):
    os.makedirs(f"{name}/in")
    with open(f"{name}/in/file", "wb", buffering=0) as file:
        for number in range(50):
            file.write(bytes([number]) * 100)
            os.fsync(file.fileno())
        file.truncate(4990)
    os.rename(f"{name}/in/file", f"{name}/out")
    os.link(f"{name}/out", f"{name}/other")
    os.mkdir(f"{name}/gone")
    open(f"{name}/gone/file", "x").close()
    shutil.rmtree(f"{name}/gone")
    with open(f"{name}/out", "r+b", buffering=0) as file:
        file.seek(10)
        file.write(b"here")
threads = [threading.Thread(target=work, args=(f"{os.getcwd()}/{number}",)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
open(os.getcwd() + "/0/out", "ab").write(b"more")
if {more}: os.symlink(os.getcwd() + "/0/out", os.getcwd() + "/0/link")
"""
    for more in (False, True):
        top, output = tmp_path / str(more), tmp_path / f"trace {more}"
        top.mkdir()
        text = program.replace("{more}", str(more))
        with subprocess.Popen([*trace.command(output), sys.executable, "-c", text], cwd=top) as process:
            assert process.wait() == 0
        if more:
            with pytest.raises(trace.NotUnderstood, match="symlink"):
                read_whole(output, process.pid, str(top))
        else:
            steps = read_whole(output, process.pid, str(top))
            assert after([*steps, Done(math.inf, math.inf, Sync(None))], place) == files(top)
            assert len(files(top)) == 8


def test_what_was_told_of_a_node_is_there_after_any_cut_in_another_boot(tmp_path: Path, place: Path) -> None:
    recording = record_node(tmp_path, jobs=JOBS, seed=1)
    kinds = Counter(type(one) for one in recording.told)
    assert kinds[StartedThere] == kinds[Finished] == JOBS
    assert kinds[TakenThere] == kinds[EndedThere] == JOBS // 3
    wrong = [(cut.number, cut.wrong) for cut in node_cuts(recording, place, count=100, seed=1)]
    assert len(wrong) == 100
    assert not [one for one in wrong if one[1]]
    for control in OF_STARTS:  # The same run, gone on with by nodes that are broken.
        (here := place / control).mkdir()
        made = node_cuts(recording, here, count=MANY, seed=1, control=control)
        assert any(cut.wrong for cut in made), control


@pytest.mark.parametrize("control", OF_NODES)
def test_a_rule_that_is_broken_in_a_node_is_found_out(tmp_path: Path, place: Path, control: str) -> None:
    recording = record_node(tmp_path, jobs=12, seed=1, control=control)
    found = (cut.number for cut in node_cuts(recording, place, count=MANY, seed=1) if cut.wrong)
    assert next(found, None) is not None
