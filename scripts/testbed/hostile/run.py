"""A cluster with hostile jobs and ordinary ones beside them, and what became of both."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import secrets
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from node.settings import NodeSettings
from testbed.cluster import Cluster, Limits, running_cluster
from testbed.hostile import attack, older_kernel
from testbed.hostile.promises import TRIALS, Setup
from testbed.hostile.world import (
    CPU_SECONDS,
    DISK,
    FILES,
    MEMORY,
    PROCESSES,
    World,
    add_cluster,
    made_world,
    watched,
)
from testbed.portal import Late, Portal, Refused
from testbed.processes import peak_memory

SLOTS: Final = 12
USERS: Final = 3
"""Of ordinary jobs; each submits one after the other."""
UIDS: Final = "2000000000-2000065535"
PATIENCE: Final = 180.0
MILLION: Final = "million-files"
"""With it the limits are those of a node that was told none."""
LONG: Final = 1800.0
"""Seconds for who makes a million files, and for the node to delete them."""
LOG_LIMIT: Final = 1 << 20
ALLOWED_MEMORY: Final = 400 << 20
"""Of node and server, whatever jobs leave."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BYSTANDER: Final = b"""
echo "$SECRET" >"$HOME/secret.txt"; cat secret.txt >"$HOME/secret.txt"; touch notes.txt
for ((i = 0; i < 1500; i++)); do [ ! -e stop ] || exit 0; sleep 0.2; done
"""
_ORDINARY: Final = b"""
sha256sum input.bin >sum.txt; cat input.bin input.bin >"$TMPDIR/twice"; sleep 0.3
mkdir -p out; mv "$TMPDIR/twice" out/twice.bin; echo done
"""


@dataclass(slots=True)
class Outcome:
    """Of one hostile job: how it ended, what it says itself, and whether it has reached what it was after;
    None: it was not run."""

    name: str
    reached: bool | None = None
    status: str = ""
    message: str = ""
    said: str = ""


@dataclass(slots=True)
class Seen:
    """What became of a run. `wrong`: all that has to hold besides, and does not."""

    setup: Setup
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    ordinary: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of server and node, in bytes: when it began, and at most."""


def run(directory: Path, setup: Setup, names: Collection[str], done: Callable[[], None]) -> Seen:
    """Raises ClusterFailed. `done` is called for each hostile job that has ended."""
    # Beside each other: what is in the cluster's directory has to end with it.
    place, home = directory / "cluster", directory / "world"
    for each in (directory, place, home, place / "node-1"):
        each.mkdir(exist_ok=True)
        each.chmod(0o755)  # Who has a uid of its own is to find what is readable here.
    secret = secrets.token_hex(16)
    seen = Seen(setup)
    began = time.monotonic()
    before = _machine()
    with made_world(home, secret) as world:
        with running_cluster(
            place,
            nodes=1,
            slots=SLOTS,
            within=lambda name: _kernel(setup) if name.startswith("node") else (),
            limits=Limits(runs_per_user=SLOTS, max_runs=SLOTS),
            node_arguments=(
                *("--max-result-files", str(_most_files(names))),
                *("--log-limit", str(LOG_LIMIT)),
            ),
            node_environ={"PATH": _PATH, "HOSTILE_SECRET": secret, **_environ(setup)},
            more={"HOSTILE_SECRET": secret},
            of_jobs={
                "memory": MEMORY,
                **({} if MILLION in names else {"disk": DISK}),
                "processes": PROCESSES,
                "cpu_time": CPU_SECONDS,
            },
        ) as cluster:
            begun = {member.name: peak_memory(member.pid) for member in cluster.members}
            _Attack(world, cluster, seen, secret, done).run(names)
            seen.memory = {m.name: (begun[m.name], peak_memory(m.pid)) for m in cluster.members}
            cluster.check()
        reached = world.look()
    for name in reached & seen.outcomes.keys():
        seen.outcomes[name].reached = True
    seen.wrong += _machine_changed(before)
    seen.seconds = time.monotonic() - began
    return seen


def _most_files(names: Collection[str]) -> int:
    return NodeSettings().max_result_files if MILLION in names else FILES


def _environ(setup: Setup) -> dict[str, str]:
    # A node that cannot have it so does not start.
    return {"EXECUTOR": setup.tier, "UIDS": UIDS if setup.uids else "0"}


def _kernel(setup: Setup) -> tuple[str, ...]:
    return () if setup.abi is None else (sys.executable, older_kernel.__file__, str(setup.abi))


class _Attack:
    def __init__(
        self, world: World, cluster: Cluster, seen: Seen, secret: str, done: Callable[[], None]
    ) -> None:
        self._world = world
        self._cluster = cluster
        self._seen = seen
        self._secret = secret
        self._done = done
        self._over = threading.Event()
        self._payloads = cluster.directory / cluster.nodes[0].name / "payloads"
        self._program = Path(attack.__file__).read_bytes()

    def run(self, names: Collection[str]) -> None:
        with Portal(self._cluster.url) as portal:
            self._ordinary_job(portal, random.Random(0))  # its results are one of the targets
            notes = secrets.token_hex(16)
            bystander = portal.upload({"run.sh": _BYSTANDER, "secret.txt": notes.encode()}, user=1)
            job = portal.wait_status(bystander, "Running")
            while job["status"] == "Running" and not list(self._payloads.glob("*/work/notes.txt")):
                time.sleep(0.05)
                job = portal.job(bystander)
            if job["status"] != "Running":
                self._seen.wrong.append(f"no job runs here: {job['status']}, {job.get('message')}")
                return
            place = next(path.parent.parent for path in self._payloads.glob("*/work/notes.txt"))
            add_cluster(self._world, self._cluster, place)
            with watched(self._world, self._payloads), ThreadPoolExecutor(SLOTS + USERS) as pool:
                others = [pool.submit(self._ordinary_jobs, user) for user in range(2, 2 + USERS)]
                try:
                    hostile = [pool.submit(self._hostile_job, name) for name in names]
                    for each in hostile:
                        each.result()
                finally:
                    self._over.set()
                for other in others:
                    other.result()
            (place / "work" / "stop").touch()
            self._judge_bystander(portal, bystander, notes)
            self._ordinary_job(portal, random.Random(1))
        self._judge_members()

    # ------------------------------------------------------------------ hostile jobs

    def _hostile_job(self, name: str) -> None:
        outcome = Outcome(name)
        self._seen.outcomes[name] = outcome
        try:
            if not TRIALS[name].tried(self._seen.setup):
                return
            with Portal(self._cluster.url) as portal:
                self._follow(portal, outcome)
        except (Late, Refused, OSError) as error:
            self._seen.wrong.append(f"{name}: {error}")
        finally:
            self._done()

    def _follow(self, portal: Portal, outcome: Outcome) -> None:
        name = outcome.name
        files = {
            "run.sh": f"exec python3 -I attack.py {name}\n".encode(),
            "attack.py": self._program,
            "targets.json": json.dumps(self._world.targets).encode(),
        }
        number = portal.upload(files, user=1)
        deadline = time.monotonic() + (LONG if TRIALS[name].alone else PATIENCE)
        while name == "swap":
            job = portal.job(number)
            if job["status"] in ("Completed", "Failed") or time.monotonic() > deadline:
                break
            with suppress(Refused):
                if portal.get(f"/v1/jobs/{number}/files/swapped/bait") == self._world.bait.read_bytes():
                    self._world.seen.add(name)
        job = portal.wait_ended(number, deadline)
        outcome.status, outcome.message = job["status"], str(job.get("message") or "")
        with zipfile.ZipFile(
            io.BytesIO(portal.results(number, completed=job["status"] == "Completed"))
        ) as found:
            names = set(found.namelist())
            results = {each: found.read(each) for each in names & {"taken", "stdout.log"}}
        outcome.said = next(
            (line for line in results.get("stdout.log", b"").decode(errors="replace").splitlines()
             if line.startswith(("REACHED", "REFUSED"))), "",
        )  # fmt: skip
        if not outcome.said and not TRIALS[name].may_die:
            self._seen.wrong.append(f"{name} does not say how it went: {outcome.status}, {outcome.message}")
        if forbidden := names & {"fifo", "socket", "device", "out", "circle"}:
            self._seen.wrong.append(f"{name}: {sorted(forbidden)} are in its results")
        outcome.reached = self._has_reached(outcome, results)

    def _has_reached(self, outcome: Outcome, results: Mapping[str, bytes]) -> bool:
        """By what it brought home, where that tells; by what is seen outside; else by its own word."""
        name, taken = outcome.name, results.get("taken", b"")
        targets = self._world.targets
        if name in _OUTSIDE:
            return name in self._world.seen
        if name == "ledger":  # which goes on changing
            return taken.startswith(b"SQLite format 3")
        if name in _FILES:
            return bool(taken) and _content(targets.get(_FILES[name], _FILES[name])).startswith(taken)
        if name.startswith("environment-"):
            return self._secret.encode() in taken
        if name == "arguments":
            return targets["victim_word"].encode() in taken
        if name == "kill-watcher":
            return "exit" not in outcome.message and not outcome.said
        if name in _LIMITED:
            return outcome.status == "Completed" and outcome.said.startswith("REACHED")
        if name in _COLLECTED:
            return _COLLECTED[name] not in f"{outcome.status}: {outcome.message}"
        return outcome.said.startswith("REACHED")

    # ------------------------------------------------------------------ ordinary jobs

    def _ordinary_jobs(self, user: int) -> None:
        rng = random.Random(user)
        with Portal(self._cluster.url) as portal:
            while not self._over.is_set():
                self._ordinary_job(portal, rng, user)

    def _ordinary_job(self, portal: Portal, rng: random.Random, user: int = 1) -> None:
        content = rng.randbytes(rng.randrange(100_000, 300_000))
        try:
            number = portal.upload({"run.sh": _ORDINARY, "input.bin": content}, user=user)
            job = portal.wait_ended(number, time.monotonic() + PATIENCE)
            if job["status"] != "Completed":
                self._seen.wrong.append(f"ordinary job {number} is {job['status']}: {job.get('message')}")
                return
            wrong = _wrong_results(portal.results(number, completed=True), content)
        except (Late, Refused, OSError, zipfile.BadZipFile) as error:
            wrong = str(error)
        if wrong:
            self._seen.wrong.append(f"ordinary job of user {user}: {wrong}")
        self._seen.ordinary += 1

    def _judge_bystander(self, portal: Portal, number: int, notes: str) -> None:
        job = portal.wait_ended(number, time.monotonic() + PATIENCE)
        with zipfile.ZipFile(
            io.BytesIO(portal.results(number, completed=job["status"] == "Completed"))
        ) as found:
            if job["status"] != "Completed" or found.read("secret.txt").decode() != notes:
                self._seen.wrong.append(f"the job beside them is {job['status']}: {job.get('message')}")
            if found.read("notes.txt") and "write-job" in self._seen.outcomes:
                self._seen.outcomes["write-job"].reached = True

    def _judge_members(self) -> None:
        for member in self._cluster.members:
            if (peak := peak_memory(member.pid)) > ALLOWED_MEMORY:
                self._seen.wrong.append(f"{member.name} has taken {peak >> 20} MiB of memory")
        deadline = time.monotonic() + LONG
        places = [self._payloads, self._payloads.parent / "trash"]
        while (left := [path for place in places for path in place.iterdir()]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.1)
        self._seen.wrong += [f"the node keeps {path} of a job" for path in left]


_FILES: Final = {
    "shadow": "/etc/shadow",
    "job-result": "result",
    "operator-token": "operator_token",
    "node-secret": "node_secret",
    "private-file": "bait",
    "open-file": "open_bait",
    "hard-link": "bait",
    "symbolic-link": "bait",
}
"""What was brought home has to be what is there."""
_OUTSIDE: Final = frozenset(
    {
        "mode",
        "owner",
        "times",
        "attribute",
        "rename",
        "truncate",
        "write-tmp",
        "write-data",
        "write-job",
        "signal-other",
        "priority",
        "shm-left",
        "swap",
        "segment-left",
        "daemon",
        "terminal",
        "metadata",
        "udp",
        "docker",
        "datagram",
        "abstract",
        "listen",
        "setuid-left",
        "kill-all",
    }
)
"""Seen by others while they happen, or afterwards."""
_LIMITED: Final = frozenset(
    {"bomb", "fill-memory", "fill-disk", "fill-disk-unseen", "fill-inodes", "fill-shm", "burn"}
)
_COLLECTED: Final = {
    "many-files": f"it left more than {FILES} files, which is the limit",
    MILLION: "files, which is the limit",
    "special-files": "Completed",
    "deep-tree": "Completed",
    "sparse-file": "bytes, and",
    "long-logs": "Completed",
    "odd-names": "Completed",
    "locked-directory": "Completed",
}
"""How they have to end."""


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _wrong_results(results: bytes, content: bytes) -> str:
    expected = {
        "run.sh": _ORDINARY,
        "input.bin": content,
        "out/twice.bin": content * 2,
        "sum.txt": f"{hashlib.sha256(content).hexdigest()}  input.bin\n".encode(),
        "stdout.log": b"done\n",
        "stderr.log": b"",
    }
    with zipfile.ZipFile(io.BytesIO(results)) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    if found.keys() != expected.keys():
        return f"its results are {sorted(found)}"
    return ", ".join(f"{name} is not what it was" for name in found if found[name] != expected[name])


def _machine() -> dict[str, Any]:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "hostname": os.uname().nodename,
        "mounts": [line for line in mounts if "orchestrator-hostile" in line],
    }


def _machine_changed(before: Mapping[str, Any]) -> list[str]:
    now = _machine()
    return [f"{name} was {before[name]!r}, and is {now[name]!r}" for name in now if now[name] != before[name]]
