"""Simulated nodes: what reaches a node, and what happens to it. What it does then is for its `Agent`. A
payload's process outlives its agent (the shepherd), not its machine; what is on the disk outlives both."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count

import trio
from simulation.agent import Agent
from simulation.batch_agent import BatchAgent
from simulation.cluster import Cluster
from simulation.dialling import Connection
from simulation.node_disk import Files, NodeDisk, Process
from simulation.plan import JobPlan
from simulation.violation import Violation

from actors.domain.node import Heartbeat, StreamPosition, Tally
from actors.domain.payload import Payload
from actors.domain.status import ENDED, Status
from actors.ports.nodes import (
    AttemptLookup,
    Beat,
    Dispatch,
    Leaving,
    LookupResult,
    NodeEvent,
    PayloadChanged,
    Picture,
    SubmitAnswer,
    SubmitResult,
)
from actors.ports.world import Clock
from actors.wire.protocol import frames
from actors.wire.protocol.attempts import view_to_json
from node.payloads.records import CANCEL, RELEASE
from node.payloads.rows import Row
from node.payloads.table import is_answered, view_of

OWNER = "orchestrator"
SLOT_WAIT = 5.0
"""Seconds that an attempt may wait for a slot."""


class Stream:
    """One link: what the node has said and the reader has not heard yet."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        """Whose it is, once that has answered."""
        self.connection: Connection | None = None
        """That the node has opened for it."""
        self.events: list[NodeEvent] = []
        self.torn: str | None = None
        self.finished: str | None = None
        self.fenced = False
        self.bell = trio.Event()

    @property
    def over(self) -> bool:
        return self.torn is not None or self.finished is not None

    def fence(self) -> None:
        """There is a newer one: nothing of this is done any more."""
        self.fenced = True
        self.tear("there is a newer link")

    def say(self, event: NodeEvent) -> None:
        self.events.append(event)
        self.bell.set()

    def finish(self, why: str) -> None:
        """It ends once all has been read."""
        self.finished = why
        self.bell.set()

    def tear(self, why: str) -> None:
        self.torn = why
        self.bell.set()


@dataclass(frozen=True)
class Snapshot:
    """A machine at one moment: what it had on its disk and in its memory, and all that ran there."""

    at: float
    tally: Tally
    boots: int
    lives: int
    disk: NodeDisk
    processes: Mapping[str, Process]
    resumed: tuple[dict[str, Row], int]


class Machine:
    """One node. Its methods are what its agent does on a request, at one instant; no network is in here."""

    def __init__(
        self,
        name: str,
        slots: int,
        *,
        nursery: trio.Nursery,
        clock: Clock,
        rng: random.Random,
        job_plan: Callable[[int], JobPlan],
        end_needs_room: bool = False,
        kill_trusts_first_process: bool = False,
        any_boot: bool = False,
        ended: Callable[[Machine], None] = lambda _: None,
        copy_of: str = "",
        ahead: bool = False,
        cluster: Cluster | None = None,
        told_boot: bool = False,
        dial: Callable[[Machine], Callable[[], Awaitable[None]]] | None = None,
    ) -> None:
        """`ended` is told of each end that is recorded. `copy_of`: whose name it has, once it is there
        (`become`). `ahead`: it takes jobs beyond its slots. `cluster`: its payloads are batch jobs there.
        `told_boot`: it tells its machine's boot all the same, which is a rule that a test breaks. `dial`:
        nobody can connect to it, its process does."""
        self.name = name
        self.node_id = copy_of or name
        self.slots = slots
        self.dead = False
        self.away = False
        """It left on purpose, said that it will be back, and is not yet."""
        self.cut_until = 0.0
        self.disk = NodeDisk()
        self.processes: dict[str, Process] = {}
        """All that ever were, whatever its files know of them."""
        self.streams: list[Stream] = []
        self.ever: list[Stream] = []
        self.newest: Stream | None = None
        """The link by which requests beside it are proved."""
        self.snapshots: list[Snapshot] = []
        self.set_back_at = -math.inf
        self._up_since = 0.0
        self.started: set[str] = set()
        """Attempts that began here, in what it has forgotten too, but not those that it knew from before."""
        self.spoils = ("", 0.0)
        """How it hands results over, and until when."""
        self.lives = self.boots = 0
        self._numbers = count(1)
        """Of lives and boots: none is given again, whatever it is set back to."""
        self._agent: Agent | None = None
        self._nursery = nursery
        self._clock = clock
        self._rng = rng
        self._job_plan = job_plan
        self._end_needs_room = end_needs_room
        self._kill_trusts_first_process = kill_trusts_first_process
        self._any_boot = any_boot
        self._ended = ended
        self.cluster = cluster
        self._ahead = ahead and cluster is None
        self._told_boot = told_boot or cluster is None
        self._job_ids: dict[str, int] = {}
        self.dial = dial
        self.connections: list[Connection] = []
        if not copy_of:
            self.agent_up()

    @property
    def up(self) -> bool:
        return self._agent is not None

    @property
    def agent(self) -> Agent:
        assert self._agent is not None
        return self._agent

    # ------------------------------------------------------------------ requests

    @property
    def boot(self) -> str:
        return f"{self.name}/{self.boots if self._told_boot else 0}"

    def submit(self, items: list[Dispatch], boot: str) -> list[SubmitAnswer]:
        if boot != self.boot and not self._any_boot:
            return [SubmitAnswer(SubmitResult.BUSY, "the machine was started anew since") for _ in items]
        return [self._submit(item) for item in items]

    def _submit(self, item: Dispatch) -> SubmitAnswer:
        key = item.attempt.key
        if self.agent.find(key) is None:
            if key in self.disk.tombstones:
                return SubmitAnswer(SubmitResult.TOMBSTONED)
            try:
                self.disk.take_file()
            except OSError as error:
                return SubmitAnswer(SubmitResult.BUSY, f"cannot be stored now: {error.strerror}")
            fresh = Payload(
                key,
                len(self.processes) + len(self.disk.files) + 1,
                item.job.id,
                item.attempt.n,
                item.job.service,
                item.job.user_id,
                OWNER,
                Status.PREPARED,
                0,
                self._clock.now(),
                slot_wait=SLOT_WAIT if self._ahead else None,
            )
            self._job_ids[key] = item.job.id
            self.agent.accept(fresh)
        payload = self.agent.find(key)
        assert payload is not None
        return SubmitAnswer(SubmitResult.HAS, view=view_of(payload))

    def lookup(self, keys: list[str]) -> list[AttemptLookup]:
        return [self._look(key) for key in keys]

    def _look(self, key: str) -> AttemptLookup:
        if (payload := self.agent.find(key)) is not None:
            return AttemptLookup(LookupResult.FOUND, view_of(payload))
        return AttemptLookup(LookupResult.TOMBSTONED if key in self.disk.tombstones else LookupResult.GONE)

    def cancel(self, keys: list[str]) -> list[AttemptLookup]:
        try:
            for key in keys:
                self.agent.bury(key, CANCEL)
        except OSError as error:
            return [AttemptLookup(LookupResult.UNKNOWN, reason=str(error)) for _ in keys]
        return [self._look(key) for key in keys]

    def release(self, keys: list[str]) -> list[bool]:
        try:
            for key in keys:
                self.agent.bury(key, RELEASE)
        except OSError:
            return [False for _ in keys]
        return [True for _ in keys]

    def collect(self, keys: list[str], boot: str) -> list[bytes]:
        """The frames of all of them."""
        found = []
        for key in keys:
            payload = self.agent.find(key)
            refused = boot != self.boot or (payload is not None and payload.lost)
            if refused or payload is None or payload.end is None:
                why = "lost" if refused else "gone" if payload is None else "not_ended"
                error = {"key": key, "error": why}
                found.append(frames.encode(frames.ERROR, json.dumps(error).encode()))
                continue
            content = b"not what it was" if self.disk.files[key].hollow else key.encode()
            head = {"key": key, "payload": view_to_json(view_of(payload)), "manifest": {"entries": []}}
            finish = {
                "zip_crc32": zlib.crc32(content),
                "zip_size": len(content),
                "stdout_size": 0,
                "stderr_size": 0,
            }
            found.append(frames.encode(frames.END, json.dumps(head).encode()))
            found.append(frames.encode(frames.ZIP, content))
            found.append(frames.encode(frames.FINISH, json.dumps(finish).encode()))
        return found

    def picture(self) -> Picture:
        views = {payload.key: view_of(payload) for payload in self.agent.there()}
        return Picture(self.mark(), views, self.beat().heartbeat)

    def beat(self) -> Beat:
        ahead = self.slots if self._ahead else 0
        return Beat(Heartbeat(load=0.0, slots=self.slots, tally=self.tally, ahead=ahead))

    def mark(self) -> StreamPosition:
        return StreamPosition(f"{self.name}/{self.lives}", self.agent.sequence)

    # ------------------------------------------------------------------ what happens to it

    @property
    def tally(self) -> Tally | None:
        if self.cluster is not None:
            return None
        return Tally(self.disk.accepted, self.disk.buried, int(trio.current_time() - self._up_since))

    def enter(self, stream: Stream) -> None:
        """A hello: older links are fenced before the picture is drawn."""
        for older in self.streams:
            older.fence()
        self.streams[:] = [stream]
        self.ever.append(stream)
        self.newest = stream
        stream.say(self.picture())

    def agent_down(self, *, told: bool = True) -> None:
        """`told`: its machine is there to say so."""
        self.newest = None
        self._die(told=told)
        for stream in self.streams:
            stream.tear("the agent went away")
        self.streams.clear()

    def _die(self, *, told: bool = True) -> None:
        self.cut_connections(told=told)
        if self._agent is not None:
            self._agent.die()
            self._agent = None

    def cut_connections(self, *, told: bool) -> None:
        for connection in self.connections:
            connection.end(told=told)
        self.connections.clear()

    def leave(self) -> None:
        """It is stopped on purpose, and says so on its streams."""
        if not self.up:
            return
        held = len(self.agent.there())
        self._die()
        self.away = held > 0
        for stream in self.streams:
            stream.say(Leaving(held, back=self.away))
            stream.finish("the node closed its stream of events")
        self.streams.clear()

    def agent_up(self) -> None:
        if self.dead or self.up:
            return
        self.away = False
        self.lives = next(self._numbers)
        self._begin_agent(None)

    def _begin_agent(self, resumed: tuple[dict[str, Row], int] | None) -> None:
        make: Callable[..., Agent] = Agent
        if self.cluster is not None:
            make = partial(BatchAgent, cluster=self.cluster, directory=self.cluster.top / self.name)
        self._agent = make(
            self.disk,
            self.boot,
            self._clock,
            self._rng,
            slots=self.slots,
            begin_process=self._begin,
            tell=self._tell,
            ended=lambda: self._ended(self),
            end_needs_room=self._end_needs_room,
            kill_trusts_first_process=self._kill_trusts_first_process,
            resumed=resumed,
        )
        if self.dial is not None:
            self._agent.beside = self.dial(self)
        self._nursery.start_soon(self._agent.run)

    def snapshot(self) -> Snapshot | None:
        """None if nothing runs there. Whoever sets back what has its payloads elsewhere has them twice."""
        if not self.up or (tally := self.tally) is None:
            return None
        processes = {key: process.copy() for key, process in self.processes.items()}
        resumed = dict(self.agent.rows), self.agent.sequence
        disk = self.disk.copy(processes)
        now = trio.current_time()
        return Snapshot(now, tally, self.boots, self.lives, disk, processes, resumed)

    def set_back(self, to: Snapshot) -> None:
        """All that it has done since was for nothing, and nobody there knows that."""
        if self.dead or to.at < self.set_back_at:
            return
        for stream in self.ever:
            stream.fenced = True
        self.agent_down(told=False)
        for process in self.processes.values():
            process.die()
        self.set_back_at = trio.current_time()
        self._up_since = self.set_back_at - to.tally.uptime
        self.snapshots = [one for one in self.snapshots if one.at <= to.at]
        self.boots, self.lives, self.away = to.boots, to.lives, False
        self.processes = {key: process.copy() for key, process in to.processes.items()}
        self.started -= to.resumed[0].keys() - to.processes.keys()
        self.disk = to.disk.copy(self.processes)
        for process in self.processes.values():
            process.resume()
        self._begin_agent(to.resumed)

    def become(self, other: Machine) -> None:
        """Begin as a copy of another one's disk, as its end would leave it now."""
        processes = {key: process.copy() for key, process in other.processes.items()}
        for process in processes.values():
            process.die()
        self.disk = other.disk.copy(processes)
        self.disk.forget(self._rng, trio.current_time())
        self.processes, self.started = processes, set(processes)
        self._up_since = trio.current_time()
        self.agent_up()

    def machine_down(self) -> str:
        """The machine's own end: every process goes, and what had not ended is lost. The answer is what its
        disk has forgotten."""
        self.agent_down(told=False)
        self.boots, self._up_since = next(self._numbers), trio.current_time()
        if self.cluster is not None:
            return ""
        for process in self.processes.values():
            process.die()
        return self.disk.forget(self._rng, trio.current_time())

    def damage(self, rng: float) -> str:
        """What is on its disk is torn or lost, each file with that probability; what."""
        return "; ".join(
            f"{key[:6]}: {torn}"
            for key, files in self.disk.files.items()
            if (torn := files.damage(self._rng, rng))
        )

    # ------------------------------------------------------------------ running

    def _begin(self, payload: Payload, files: Files) -> Process:
        return self.begin(payload.key)

    def begin(self, key: str) -> Process:
        """Its script begins, here or on a node of the cluster."""
        if key in self.started:
            raise Violation("started twice", f"attempt {key} of job {self._job_ids[key]}")
        process = Process(self._job_plan(self._job_ids[key]), self._nursery, self._rng)
        running = sum(other.count > 0 for other in self.processes.values())
        if self.cluster is None and running >= self.slots:
            raise Violation("slots", f"{self.name} has {self.slots}, and {running} run where another begins")
        self.disk.files[key].process = self.processes[key] = process
        self.started.add(key)
        self._nursery.start_soon(process.run)
        return process

    def _tell(self, payload: Payload) -> None:
        if not is_answered(payload):
            for stream in self.streams:
                stream.say(PayloadChanged(view_of(payload)))

    def may_run(self, key: str) -> bool:
        """Whether an attempt that has arrived here runs, or still might."""
        if (process := self.processes.get(key)) is not None:
            return process.count > 0
        files = self.disk.files.get(key)
        if self.cluster is not None and self.cluster.may_begin(key):
            return True
        if files is None or files.given_up or key in self.disk.tombstones:
            return False
        row = None if self._agent is None else self._agent.rows.get(key)
        if row is None and files.record is None and files.running is None:
            return False  # of what has no record nothing is started
        records = [files.record.payload] if files.record is not None else []
        records += [row.payload] if row is not None else []
        return not any(payload.status in ENDED for payload in records)
