"""Real payloads under real shepherds, in every isolation that this machine offers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import trio

from actors.process import procfs
from node.confinement.landlock import find_abi
from node.confinement.visible import Account, Files, MachineFiles, View, find_visible
from node.executors import tiers
from node.executors.executor import RunSpec
from node.executors.shepherd_executor import ShepherdExecutor

ROOT = Path(__file__).parents[3]


def _available() -> list[str]:
    """Asked in a process of its own: the question forks, and this process may have threads."""
    code = (
        "from node.executors.namespaces import works\n"
        "print(*[each for each in ('pidns', 'userns', 'subreaper') if works(each)])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return answer.stdout.split()


ISOLATIONS = _available()
WAYS = [(isolation, "bash") for isolation in ISOLATIONS]
"""In which payloads are tried: the tiers above bash where their scripts get uids of their own."""
if "pidns" in ISOLATIONS:
    WAYS += [("pidns", "bubblewrap")] if shutil.which("bwrap") else []
    WAYS += [("pidns", "landlock")] if find_abi() else []


@cache
def _look(private: frozenset[str], account: Account | None) -> View:
    return find_visible(MachineFiles(), private, account)


@pytest.fixture(autouse=True)
def _looked_at_once() -> Iterator[None]:
    """A machine's hundred thousand files are looked through for the first executor of a process, not for
    each: what differs is the node's own place, in a directory of which no script sees anything."""

    def look(_: Files, private: frozenset[str], account: Account | None) -> View:
        return replace(
            _look(frozenset(each for each in private if not each.startswith("/tmp/")), account),
            private=private,
        )

    # Not by the test's own, which would last for longer than its directory then, and what it breaks too.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiers, "find_visible", look)
        yield


class Payloads:
    """Makes payloads of one test, and knows what of them still lives: each has a mark in its arguments."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.token = f"9999.{uuid.uuid4().int % 10**20}"
        """A number of seconds for `sleep`, like no other on this machine."""
        self.nap = f"sleep {self.token}"

    def make(self, script: str, environment: Mapping[str, str] | None = None, grace: float = 5.0) -> RunSpec:
        key = uuid.uuid4().hex
        directory = self.directory / key
        (directory / "work").mkdir(parents=True)
        directory.chmod(0o700)
        (directory / "work" / "run.sh").write_text(script.replace("NAP", self.nap) + "\n")
        return RunSpec(key, directory, environment or {"PATH": os.environ["PATH"]}, grace)

    async def ended(self, pid: int) -> None:
        await until_ended(pid)

    def living(self, pid: int) -> bool:
        return procfs.start_time(pid) is not None and not procfs.is_zombie(pid)

    def survivors(self) -> list[int]:
        return living_with(self.token)

    def under_way(self) -> list[int]:
        """Shepherds that still watch a payload of this test: they share the spawner's arguments."""
        return living_with(str(self.directory / "spawner.lock"))


async def until_ended(pid: int) -> None:
    """Return when there is no such process, or only its zombie."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def living_with(argument: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            arguments = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if argument.encode() in arguments:
            found.append(int(name))
    return found


class Signpost:
    """A FIFO in the job's directory: a script says how far it is, and nobody sleeps to find out."""

    def __init__(self, spec: RunSpec) -> None:
        path = spec.work / "signpost"
        os.mkfifo(path)
        # Opened for both, so that it never ends because no script has it open.
        self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._read = b""

    async def line(self) -> str:
        with trio.fail_after(60):
            while b"\n" not in self._read:
                await trio.lowlevel.wait_readable(self.descriptor)
                self._read += os.read(self.descriptor, 4096)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        os.close(self.descriptor)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that users other than ours get to, as they do not to those of pytest."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def payloads(open_directory: Path) -> Iterator[Payloads]:
    made = Payloads(open_directory / "node")
    made.directory.mkdir(mode=0o711)
    yield made
    left = made.survivors()
    for pid in left + made.under_way():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    assert left == [], "the test left processes of its payloads behind"


@pytest.fixture
def signpost() -> Iterator[Callable[[RunSpec], Signpost]]:
    made: list[Signpost] = []

    def make(spec: RunSpec) -> Signpost:
        made.append(Signpost(spec))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An isolation and a tier."""
    isolation, tier = request.param
    return isolation, tier


@pytest.fixture
def isolation(way: tuple[str, str]) -> str:
    return way[0]


@pytest.fixture
def tier(way: tuple[str, str]) -> str:
    return way[1]


@pytest.fixture
async def executor(
    payloads: Payloads, isolation: str, tier: str, nursery: trio.Nursery
) -> AsyncIterator[ShepherdExecutor]:
    made = ShepherdExecutor(payloads.directory, isolation, tier=tier)
    await nursery.start(made.serve)
    yield made
    nursery.cancel_scope.cancel()
