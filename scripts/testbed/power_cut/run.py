"""Many cuts of one recorded run: for each a disk is made as it may be after it, and a server begins there."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from testbed.power_cut.disk import replay
from testbed.power_cut.judging import judge, judge_process
from testbed.power_cut.recording import Recording
from testbed.power_cut.trace import Sync


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut, by its number; `wrong` is what a start on its disk does not keep. `place` has that disk until
    the next cut is asked for."""

    number: int
    at: float
    wrong: Sequence[str]
    place: Path


def cuts(recording: Recording, place: Path, *, count: int, seed: int, processes: int = 0) -> Iterator[Cut]:
    """Cut, judge, and go on. On `processes` of the disks a real server is started, too. `place` is a
    directory that is there."""
    rng = random.Random(seed)
    times = _times(recording, count, rng)
    real = {count * (number + 1) // (processes + 1) for number in range(processes)}
    for number, (at, disk) in enumerate(replay(recording.steps, times)):
        here = place / str(number)
        here.mkdir()
        disk.cut(rng, here / "server")
        told = [one for one in recording.told if one.at <= at]
        wrong = trio.run(judge, here / "server", told)
        if number in real:
            wrong += judge_process(here, told)
        yield Cut(number, at, wrong, here)
        shutil.rmtree(here)


def _times(recording: Recording, count: int, rng: random.Random) -> Sequence[float]:
    """Half of them right after something was told, as that is when most is owed; the others right before or
    after a sync, or at any step."""
    syncs = [done for done in recording.steps if isinstance(done.step, Sync)]
    times = []
    for number in range(count):
        match number % 6:
            case 0 | 1 | 2:
                times.append(rng.choice(recording.told).at)
            case 3:
                times.append(rng.choice(syncs).began)
            case 4:
                times.append(rng.choice(syncs).ended)
            case _:
                times.append(rng.choice(recording.steps).began)
    return sorted(times)
