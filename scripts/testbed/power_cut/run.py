"""Many cuts of one recorded run: for each a disk is made as it may be after it, and a server begins there."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from testbed.power_cut.disk import replay
from testbed.power_cut.judging import judge, judge_process
from testbed.power_cut.node_judging import judge_node
from testbed.power_cut.node_recording import NODE
from testbed.power_cut.recording import Recording
from testbed.power_cut.told import Finished, LetGo, Told
from testbed.power_cut.trace import Sync, Write

_UNWRITTEN: Final = "unmarked"
"""The control for which cuts come while an end is noted that is not written through."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut, by its number; `wrong` is what a start on its disk does not keep. `place` has that disk until
    the next cut is asked for."""

    number: int
    at: float
    wrong: Sequence[str]
    place: Path


def cuts(
    recording: Recording,
    place: Path,
    *,
    count: int,
    seed: int,
    processes: int = 0,
    after: type[Told] | None = None,
) -> Iterator[Cut]:
    """Cut, judge, and go on. On `processes` of the disks a real server is started, too. `place` is a
    directory that is there. `after`: it is cut right after something of this kind was told, and never
    elsewhere."""
    real = {count * (number + 1) // (processes + 1) for number in range(processes)}

    def judge_all(number: int, here: Path, told: Sequence[Told], _: float) -> list[str]:
        wrong = trio.run(judge, here / "server", told)
        return wrong + judge_process(here, told) if number in real else wrong

    choose = partial(_times, after=after)
    return _cut(recording, place / "server", judge_all, choose, count=count, seed=seed)


def node_cuts(
    recording: Recording, place: Path, *, count: int, seed: int, control: str | None = None
) -> Iterator[Cut]:
    """The same of a node's disk, on which one begins in another boot of its machine; `control` says how that
    is broken."""

    def judge_all(_: int, here: Path, told: Sequence[Told], at: float) -> list[str]:
        return judge_node(here, told, at, control)

    choose = _times_unwritten if control == _UNWRITTEN else _times
    return _cut(recording, place / NODE, judge_all, choose, count=count, seed=seed)


def _cut(
    recording: Recording,
    place: Path,
    judge_all: Callable[[int, Path, Sequence[Told], float], Sequence[str]],
    choose: Callable[[Recording, int, random.Random], Sequence[float]],
    *,
    count: int,
    seed: int,
) -> Iterator[Cut]:
    """The disk is to have the name of `place`, in a directory that is made there for each; `choose` says when
    it is cut."""
    rng = random.Random(seed)
    for number, (at, disk) in enumerate(replay(recording.steps, choose(recording, count, rng))):
        here = place.parent / str(number)
        here.mkdir()
        disk.cut(rng, here / place.name)
        told = [one for one in recording.told if one.at <= at]
        yield Cut(number, at, judge_all(number, here, told, at), here)
        shutil.rmtree(here)


def _times_unwritten(recording: Recording, count: int, rng: random.Random) -> Sequence[float]:
    """Between the note of an end and when it is written through or let go of, whichever comes first."""
    let_go = {one.key: one.at for one in recording.told if isinstance(one, LetGo)}
    finished = {one.key: one.at for one in recording.told if isinstance(one, Finished)}
    syncs = [done for done in recording.steps if done.step == Sync(None)]
    open_ends = []
    for done in recording.steps:
        path = Path(done.step.path) if isinstance(done.step, Write) else Path()
        key = path.parent.name
        if path.name != "record.json" or done.began < finished.get(key, math.inf):
            continue
        through = next((sync.ended for sync in syncs if sync.began > done.ended), math.inf)
        if math.isfinite(until := min(through, let_go.get(key, math.inf))):
            open_ends.append((done.ended, until))
    return sorted(rng.uniform(*rng.choice(open_ends)) for _ in range(count))


def _times(
    recording: Recording, count: int, rng: random.Random, after: type[Told] | None = None
) -> Sequence[float]:
    """Half of them right after something was told, of whatever kind, as that is when most is owed; the others
    right before or after a sync, or at any step."""
    by_kind: dict[type, list[float]] = {}
    for one in recording.told:
        if not isinstance(one, LetGo):  # nothing is owed for that
            by_kind.setdefault(type(one), []).append(one.at)
    if after is not None:
        return sorted(rng.choice(by_kind[after]) for _ in range(count))
    kinds = list(by_kind.values())
    syncs = [done for done in recording.steps if isinstance(done.step, Sync)]
    times = []
    for number in range(count):
        match number % 6:
            case 0 | 1 | 2:
                times.append(rng.choice(rng.choice(kinds)))
            case 3:
                times.append(rng.choice(syncs).began)
            case 4:
                times.append(rng.choice(syncs).ended)
            case _:
                times.append(rng.choice(recording.steps).began)
    return sorted(times)
