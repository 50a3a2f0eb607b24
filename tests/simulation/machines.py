"""Simulated nodes: what reaches a node, and what happens to it. What it does then is for its `Agent`. A
payload's process outlives its agent (the shepherd), not its machine; what is on the disk outlives both."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable

import trio
from simulation.agent import Agent
from simulation.node_disk import Files, NodeDisk, Process
from simulation.plan import JobPlan
from simulation.violation import Violation

from actors.domain.node import Heartbeat, StreamPosition
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
from node.payloads.table import view_of

OWNER = "orchestrator"


class Stream:
    """One link: what the node has said and the reader has not heard yet."""

    def __init__(self) -> None:
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
    ) -> None:
        self.name = name
        self.slots = slots
        self.dead = False
        self.away = False
        """It left on purpose, said that it will be back, and is not yet."""
        self.cut_until = 0.0
        self.disk = NodeDisk()
        self.processes: dict[str, Process] = {}
        """All that ever were, whatever its files know of them."""
        self.streams: list[Stream] = []
        self.spoils = ("", 0.0)
        """How it hands results over, and until when."""
        self.lives = 0
        self.boots = 0
        self._agent: Agent | None = None
        self._nursery = nursery
        self._clock = clock
        self._rng = rng
        self._job_plan = job_plan
        self._end_needs_room = end_needs_room
        self._kill_trusts_first_process = kill_trusts_first_process
        self._any_boot = any_boot
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
        return f"{self.name}/{self.boots}"

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
            )
            self.agent.accept(fresh)
        payload = self.agent.find(key)
        assert payload is not None
        return SubmitAnswer(SubmitResult.HAS, view=view_of(payload), mark=self.mark())

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
        return Beat(Heartbeat(load=0.0, slots=self.slots))

    def mark(self) -> StreamPosition:
        return StreamPosition(f"{self.name}/{self.lives}", self.agent.sequence)

    # ------------------------------------------------------------------ what happens to it

    def agent_down(self) -> None:
        self._die()
        for stream in self.streams:
            stream.tear("the agent went away")
        self.streams.clear()

    def _die(self) -> None:
        if self._agent is not None:
            self._agent.die()
            self._agent = None

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
        self.lives += 1
        self._agent = Agent(
            self.disk,
            self.boot,
            self._clock,
            self._rng,
            slots=self.slots,
            begin_process=self._begin,
            tell=self._tell,
            end_needs_room=self._end_needs_room,
            kill_trusts_first_process=self._kill_trusts_first_process,
        )
        self._nursery.start_soon(self._agent.run)

    def machine_down(self) -> str:
        """The machine's own end: every process goes, and what had not ended is lost. The answer is what its
        disk has forgotten."""
        self.agent_down()
        self.boots += 1
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
        if payload.key in self.processes:
            raise Violation("started twice", f"attempt {payload.key} of job {payload.job_id}")
        process = Process(self._job_plan(payload.job_id), self._nursery, self._rng)
        files.process = self.processes[payload.key] = process
        self._nursery.start_soon(process.run)
        return process

    def _tell(self, payload: Payload) -> None:
        for stream in self.streams:
            stream.say(PayloadChanged(view_of(payload)))

    def may_run(self, key: str) -> bool:
        """Whether an attempt that has arrived here runs, or still might."""
        if (process := self.processes.get(key)) is not None:
            return process.count > 0
        files = self.disk.files.get(key)
        if files is None or files.given_up or key in self.disk.tombstones:
            return False
        row = None if self._agent is None else self._agent.rows.get(key)
        records = [files.record.payload] if files.record is not None else []
        records += [row.payload] if row is not None else []
        return not any(payload.status in ENDED for payload in records)
