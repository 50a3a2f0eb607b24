"""The jobs of a chaos run: what each does, and how it has to end whatever happens to the machines around it.
The same seed gives the same jobs."""

from __future__ import annotations

import hashlib
import random
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final


class Kind(Enum):
    """What a job does; the value is how often among a hundred."""

    QUICK = 26
    LONG = 22
    LARGE_OUTPUT = 10
    LARGE_INPUT = 8
    EXIT_CODE = 8
    SIGNAL = 4
    DAEMON = 8
    TERMINATED = 12
    NO_SCRIPT = 2


SIGNALS: Final = (6, 9, 15)
NO_ROOM: Final = 74
"""The exit code of a script that could not write what it wanted to."""
TRACE: Final = "CHAOS_TRACE"
"""The environment variable by which whatever a job has started is found."""


@dataclass(frozen=True, slots=True)
class ChaosJob:
    """`seconds` is how long its script sleeps, `size` its input's bytes, `repeat` how often the output holds
    the input, `code` its exit code or signal. `terminate_after` are the seconds from its acceptance until its
    user asks for its end; `with_key` says whether the upload can be repeated."""

    serial: int
    user: int
    kind: Kind
    seconds: float
    size: int
    repeat: int
    code: int
    stubborn: bool
    terminate_after: float | None
    with_key: bool
    at: float
    seed: int

    @property
    def status(self) -> str:
        match self.kind:
            case Kind.EXIT_CODE | Kind.SIGNAL:
                return "Failed"
            case Kind.TERMINATED:
                return "Killed"
            case Kind.NO_SCRIPT:
                return "Invalid"
            case _:
                return "Completed"

    @property
    def message(self) -> str:
        """What the message of the ended job has to say."""
        match self.kind:
            case Kind.EXIT_CODE:
                return f"exit code {self.code}"
            case Kind.SIGNAL:
                return f"killed by signal {self.code}"
            case Kind.NO_SCRIPT:
                return "run.sh not found"
            case _:
                return ""

    @property
    def idempotency_key(self) -> str:
        return f"chaos-{self.seed}-{self.serial}"

    def content(self) -> bytes:
        """Its input: always the same bytes, that nothing can compress."""
        return random.Random(f"{self.seed}/{self.serial}").randbytes(self.size)

    def files(self, directory: Path) -> dict[str, bytes]:
        files = {"input.bin": self.content(), "serial": f"{self.serial}\n".encode()}
        if self.kind is not Kind.NO_SCRIPT:
            files["run.sh"] = self._script(directory).encode()
        return files

    def expected(self) -> dict[str, str]:
        """SHA-256 by name of what the results must hold, once the script has come to its end."""
        content = self.content()
        found = {"input.bin": hashlib.sha256(content).hexdigest()}
        if self.status in ("Completed", "Failed"):
            summed = f"{found['input.bin']}  input.bin\n".encode()
            found["sum.txt"] = hashlib.sha256(summed).hexdigest()
            found["stdout.log"] = hashlib.sha256(f"job {self.serial}\n".encode()).hexdigest()
        if self.kind is Kind.LARGE_OUTPUT:
            whole = hashlib.sha256()
            for _ in range(self.repeat):
                whole.update(content)
            found["output.bin"] = whole.hexdigest()
        return found

    def marks(self, directory: Path) -> Path:
        """Where each run leaves a line when it begins and one when it is through, and one when it lacks room
        or is beside another run of the same job: what, job, attempt, and seconds since the epoch."""
        return directory / "marks" / f"{self.serial}"

    def lock(self, directory: Path) -> Path:
        """What is held while anything of it lives."""
        return directory / "locks" / f"{self.serial}"

    def alive(self, directory: Path) -> Path:
        """What its daemon writes to for as long as it lives."""
        return directory / "alive" / f"{self.serial}"

    def _script(self, directory: Path) -> str:
        marks = shlex.quote(str(self.marks(directory)))
        lock = shlex.quote(str(self.lock(directory)))
        alive = shlex.quote(str(self.alive(directory)))
        # One write to a file opened for append: lines never mix.
        lines = [
            f'say() {{ echo "$1 $ORCHESTRATOR_JOB_ID $ORCHESTRATOR_ATTEMPT $EPOCHSECONDS" >>{marks}; }}',
            "say begin",
            # Held by all that the script starts, for as long as any of it lives.
            f"exec 9>>{lock}; flock --nonblock 9 || say beside",
            f"export {TRACE}={shlex.quote(str(directory))}/",
            f"echo 'job {self.serial}'",
        ]
        if self.stubborn:
            lines.append("trap '' TERM HUP INT")
        if self.kind in (Kind.DAEMON, Kind.TERMINATED):
            daemon = f"trap '' TERM HUP; while echo x >>{alive}; do sleep 0.1; done"
            # In another session, with another parent, from another directory, without a kept file.
            lines += [
                f"(cd / && setsid nohup bash -c {shlex.quote(daemon)} </dev/null >/dev/null 2>&1 &)",
                f"while [ ! -s {alive} ]; do sleep 0.02; done",
            ]
        no_room = f"{{ say lack; exit {NO_ROOM}; }}"
        lines.append(f"sha256sum input.bin >sum.txt || {no_room}")
        if self.kind is Kind.LARGE_OUTPUT:
            lines.append(f"for _ in $(seq {self.repeat}); do cat input.bin; done >output.bin || {no_room}")
        lines += [
            f"sleep {self.seconds:.3f}",
            "say end",
        ]
        if self.kind is Kind.SIGNAL:
            lines.append(f"kill -{self.code} $$")
        else:
            lines.append(f"exit {self.code}")
        return "\n".join(lines) + "\n"


def plan(*, jobs: int, users: int, seed: int, seconds: float, longest: float) -> Iterator[ChaosJob]:
    """`jobs` jobs of `users` users, whose uploads begin at random moments of the first two thirds of
    `seconds`."""
    rng = random.Random(f"{seed}/jobs")
    kinds = list(Kind)
    for serial in range(jobs):
        kind = rng.choices(kinds, weights=[kind.value for kind in kinds])[0]
        size = rng.randrange(20_000)
        if kind is Kind.LARGE_INPUT:
            size = rng.randrange(1 << 20, 6 << 20)
        elif kind is Kind.LARGE_OUTPUT:
            size = rng.randrange(100_000, 400_000)
        sleeps = {Kind.LONG: longest * rng.uniform(0.3, 1.0), Kind.TERMINATED: 3600.0}
        yield ChaosJob(
            serial=serial,
            user=1 + serial % users,
            kind=kind,
            seconds=sleeps.get(kind, 0.5 * rng.random() ** 2),
            size=size,
            repeat=rng.randint(10, 25),
            code={Kind.EXIT_CODE: rng.randint(1, 255), Kind.SIGNAL: rng.choice(SIGNALS)}.get(kind, 0),
            stubborn=kind is Kind.TERMINATED and rng.random() < 0.5,
            terminate_after=longest * rng.random() ** 2 if kind is Kind.TERMINATED else None,
            # What must be repeated needs a key; a user who cannot do that must get a whole job or none.
            with_key=rng.random() < 0.85,
            at=seconds * 2 / 3 * rng.random(),
            seed=seed,
        )
