"""The jobs of a simulation: what each one is, and how it has to end. The same seed gives the same jobs."""

from __future__ import annotations

import hashlib
import random
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Ending(Enum):
    """How a job's script ends; the value is how often among a hundred."""

    EXIT_0 = 76
    EXIT_CODE = 10
    SIGNAL = 8
    NO_SCRIPT = 6


SIGNALS = (9, 15, 6)


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """`seconds` is how long its script sleeps, `size` its input's bytes, `code` its exit code or signal."""

    serial: int
    user: int
    seconds: float
    size: int
    ending: Ending
    code: int
    seed: int

    @property
    def status(self) -> str:
        if self.ending is Ending.EXIT_0:
            return "Completed"
        return "Invalid" if self.ending is Ending.NO_SCRIPT else "Failed"

    @property
    def message(self) -> str:
        """What the message of the ended job has to say; nothing is asked of a completed one's."""
        match self.ending:
            case Ending.EXIT_0:
                return ""
            case Ending.EXIT_CODE:
                return f"exit code {self.code}"
            case Ending.SIGNAL:
                return f"killed by signal {self.code}"
            case Ending.NO_SCRIPT:
                return "run.sh not found"

    @property
    def runs(self) -> bool:
        return self.ending is not Ending.NO_SCRIPT

    @property
    def greeting(self) -> str:
        return f"job {self.serial} of user {self.user}"

    def content(self) -> bytes:
        """Its input: always the same bytes, that nothing can compress."""
        return random.Random(f"{self.seed}/{self.serial}").randbytes(self.size)

    def checksum(self) -> str:
        return hashlib.sha256(self.content()).hexdigest()

    def files(self, marks: Path) -> dict[str, bytes]:
        """What is uploaded. Each run of its script appends one line to `marks`."""
        files = {"input.bin": self.content()}
        if self.runs:
            files["run.sh"] = self._script(marks).encode()
        return files

    def _script(self, marks: Path) -> str:
        lines = [
            # One write to a file opened for append: lines of scripts that run at once never mix.
            f'echo "{self.serial} $ORCHESTRATOR_JOB_ID $ORCHESTRATOR_ATTEMPT" >>{shlex.quote(str(marks))}',
            f"echo '{self.greeting}'",
            "sha256sum input.bin >sum.txt",
            f"sleep {self.seconds:.3f}",
        ]
        if self.ending is Ending.SIGNAL:
            lines.append(f"kill -{self.code} $$")
        else:
            lines.append(f"exit {self.code}")
        return "\n".join(lines) + "\n"


def plan(*, jobs: int, users: int, seed: int, longest: float, largest: int) -> Iterator[PlannedJob]:
    """`jobs` jobs, user by user in turn; durations from 0 to `longest` seconds, most of them short; sizes
    from 0 to `largest` bytes, most of them small."""
    rng = random.Random(seed)
    endings = list(Ending)
    for serial in range(jobs):
        ending = rng.choices(endings, weights=[ending.value for ending in endings])[0]
        code = 0
        if ending is Ending.EXIT_CODE:
            code = rng.randint(1, 255)
        elif ending is Ending.SIGNAL:
            code = rng.choice(SIGNALS)
        yield PlannedJob(
            serial=serial,
            user=1 + serial % users,
            seconds=longest * rng.random() ** 3,
            size=int(largest * rng.random() ** 4),
            ending=ending,
            code=code,
            seed=seed,
        )
