"""The orchestrator's ports, bound to one `Epoch`: the world as one life of it sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import httpx
import trio
from simulation.clock import sleep
from simulation.machines import Machine, Stream
from simulation.plan import LARGE
from simulation.violation import Dead
from simulation.world import STALL, Epoch, World

from actors.domain.changes import Change, ChangeAnswer, ChangeResult, MoveAttempt, NewJob, Transition
from actors.domain.job import Attempt, AttemptState, HistoryEntry, Job, LiveJobs
from actors.domain.node import NodeAddress, NodeRef
from actors.domain.status import OWNER
from actors.messages import AttemptHanded
from actors.ports.ledger import LedgerError
from actors.ports.nodes import (
    AttemptLookup,
    Beat,
    CollectAnswer,
    CollectResult,
    Dispatch,
    Leaving,
    LookupResult,
    NodeEvent,
    PayloadChanged,
    Picture,
    SubmitAnswer,
    SubmitResult,
)
from actors.wire.pieces import Pieces
from actors.wire.protocol import frames
from orchestrator.http_client import Reply
from orchestrator.nodes.native.results import receive
from orchestrator.storage.disk import StorageFull

T = TypeVar("T")
BEAT = 10.0
HEARD_LATE = 12.0


class BoundLedger:
    """The ledger as one epoch sees it. A commit that is under way when the epoch dies has landed, or never
    does."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._world = epoch.world
        self._disk = epoch.world.disk

    async def record(self, changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
        world, epoch = self._world, self._epoch
        epoch.enter()
        slow = trio.current_time() < world.slow_until
        await sleep(world.rng.uniform(0.0005, 2.0 if slow else 0.003))
        if trio.current_time() < world.full_until:
            world.checks.refused(changes)
            raise LedgerError("disk full")
        if epoch.cut:
            raise Dead
        with trio.CancelScope(shield=True):
            bent = [await self._bend(change) for change in changes]
            answers = await self._disk.record(bent)
        for change, answer in zip(changes, answers, strict=True):
            world.checks.recorded(change, answer)
        rows = tuple(a.job for a in answers if a.outcome is ChangeResult.DONE and a.job is not None)
        world.checks.told(rows)
        world.power(epoch)
        world.committed(rows)
        epoch.leave()
        return answers

    async def insert(self, job: NewJob) -> Job:
        world, epoch = self._world, self._epoch
        epoch.enter()
        slow = trio.current_time() < world.slow_until
        await sleep(world.rng.uniform(0.0005, 2.0 if slow else 0.003))
        if trio.current_time() < world.full_until:
            raise LedgerError("disk full")
        if epoch.cut or epoch is not world.epoch:
            raise Dead
        with trio.CancelScope(shield=True):
            stored = await self._disk.insert(job)
        world.stored(job, stored)
        world.power(epoch)
        world.committed((stored,))
        epoch.leave()
        return stored

    async def _bend(self, change: Change) -> Change:
        """The rules that a test breaks on purpose."""
        faulty = self._world.faulty
        if faulty.any_owner and isinstance(change, Transition):
            change = replace(change, by=OWNER[change.source])
        if isinstance(change, MoveAttempt) or not (faulty.any_attempt or faulty.no_compare):
            return change
        row = await self._disk.get(change.job_id)
        assert row is not None
        if faulty.any_attempt and change.key is not None and row.attempt is not None:
            change = replace(change, key=row.attempt.key)
        if faulty.no_compare and hasattr(change, "source"):
            # The ledger trusts what the change says that it leaves.
            self._disk.pretend(replace(row, status=change.source))
        return change

    async def changes(self, after: int, limit: int = 500) -> Sequence[Job]:
        return await self._read(lambda: self._disk.changes(after, limit))

    async def live(self, *, queued: bool = False) -> LiveJobs:
        return await self._read(lambda: self._disk.live(queued=queued))

    async def unreleased(self) -> Sequence[Attempt]:
        unreleased = await self._read(self._disk.unreleased)
        return [] if self._world.faulty.release_forgotten else unreleased

    async def note_absence(self, node_id: str, reason: str | None) -> None:
        world, epoch = self._world, self._epoch
        epoch.enter()
        await sleep(world.rng.uniform(0.0005, 0.003))
        if trio.current_time() < world.full_until:
            raise LedgerError("disk full")
        if epoch.cut:
            raise Dead
        with trio.CancelScope(shield=True):
            await self._disk.note_absence(node_id, reason)
        epoch.leave()

    async def absences(self) -> Mapping[str, str]:
        return {} if self._world.faulty.absence_forgotten else dict(self._disk.expected())

    async def attempt_states(self, keys: Sequence[str]) -> Mapping[str, AttemptState]:
        return await self._read(lambda: self._disk.attempt_states(keys))

    async def get(self, job_id: int) -> Job | None:
        return await self._read(lambda: self._disk.get(job_id))

    async def history(self, job_id: int) -> Sequence[HistoryEntry]:
        return await self._read(lambda: self._disk.history(job_id))

    async def attempts(self, job_id: int) -> Sequence[Attempt]:
        return await self._read(lambda: self._disk.attempts(job_id))

    async def request_terminate(self, job_id: int) -> Job | None:
        raise AssertionError("the actors give no orders")

    async def ended_before(
        self, wall: float, limit: int = 100, after: tuple[float, int] | None = None
    ) -> Sequence[Job]:
        return await self._read(lambda: self._disk.ended_before(wall, limit, after))

    async def forget_audit(self, before: float, limit: int) -> int:
        raise AssertionError("nobody gives orders here")

    async def purge(self, before: float, limit: int) -> int:
        raise AssertionError("nothing is purged here")

    async def pauses(self) -> Mapping[str, tuple[str, float]]:
        return await self._read(self._disk.pauses)

    async def unknown_directories(self, storage_keys: Sequence[str]) -> Sequence[str]:
        return await self._read(lambda: self._disk.unknown_directories(storage_keys))

    async def _read(self, read: Callable[[], Any]) -> Any:
        self._epoch.enter()
        await sleep(self._world.rng.uniform(0.0002, 0.001))
        with trio.CancelScope(shield=True):
            answer = await read()
        self._epoch.leave()
        return answer


class BoundNodes:
    """The nodes as one epoch reaches them, over a network that drops, delays, repeats and cuts."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._world = epoch.world
        self._links: dict[str, Stream] = {}
        """By the address where each is asked."""
        self._refs: dict[str, NodeRef] = {}
        self._followed: set[Machine] = set()
        self._delivered: dict[str, list[bytes]] = {}
        self._delivered_by: dict[str, str] = {}

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        machine = self._at(node.url)
        sent = list(items)
        self._world.ordered(machine)
        if self._world.faulty.no_key:
            fresh = [f"{self._world.rng.getrandbits(128):032x}" for _ in sent]
            sent = [replace(i, attempt=replace(i.attempt, key=k)) for i, k in zip(sent, fresh, strict=True)]
        # What is large goes beside the link.
        large = any(item.job.size >= LARGE for item in sent)
        link = self._links.get(node.url)
        if large and link is None:
            return [SubmitAnswer(SubmitResult.NOT_SENT, "there is no link")] * len(items)
        if node.url in self._refs and self._refs[node.url].has_forgotten(node.moment):
            return [SubmitAnswer(SubmitResult.NOT_SENT, "set back")] * len(items)

        def submit(machine: Machine) -> list[SubmitAnswer]:
            if large and machine.newest is not link and not self._world.faulty.any_boot:
                return [SubmitAnswer(SubmitResult.BUSY, "there is a newer link")] * len(sent)
            return machine.submit(sent, node.boot)

        keys = [i.attempt.key for i in sent]
        if large:
            how, answers = await self._beside(node.url, submit, keys, link=link)
        else:
            how, answers = await self._order(node.url, submit, keys)
        if answers is not None:
            return answers
        if how == "refused":
            return [SubmitAnswer(SubmitResult.BUSY, "it is not proved")] * len(items)
        result = SubmitResult.NOT_SENT if how == "not sent" else SubmitResult.DOUBT
        return [SubmitAnswer(result, how)] * len(items)

    async def lookup(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        _, looks = await self._order(node.url, lambda machine: machine.lookup([a.key for a in attempts]))
        return looks if looks is not None else [AttemptLookup(LookupResult.UNKNOWN)] * len(attempts)

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        _, looks = await self._order(node.url, lambda machine: machine.cancel([a.key for a in attempts]))
        return looks if looks is not None else [AttemptLookup(LookupResult.UNKNOWN)] * len(attempts)

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[bool]:
        self._world.ordered(self._at(node.url))
        _, done = await self._order(node.url, lambda machine: machine.release([a.key for a in attempts]))
        return done if done is not None else [False] * len(attempts)

    async def collect(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        machine = self._at(node.url)
        world, keys = self._world, [i.attempt.key for i in items]
        for key in keys:
            world.collecting.setdefault(key, trio.current_time())
        world.ordered(machine)
        link = self._links.get(node.url)
        how, pieces = await self._beside(
            node.url, lambda machine: machine.collect(keys, node.boot), link=link
        )
        if pieces is None:
            return [CollectAnswer(CollectResult.FAILED, reason=how)] * len(items)
        reply = Reply(_Response(world, machine, pieces), STALL)
        answers = await receive(reply, items, _ResultFiles(self._epoch))
        self._epoch.leave()
        return [answers[key] for key in keys]

    async def take_delivered(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        answers = []
        for item in items:
            key = item.attempt.key
            self._world.collecting.setdefault(key, trio.current_time())
            came = Pieces(self._delivered.pop(key, []))
            answers.append((await receive(came, [item], _ResultFiles(self._epoch)))[key])
            self._epoch.leave()
        return answers

    async def watch(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        self._epoch.enter()
        stream = Stream()

        def enter(machine: Machine) -> NodeRef:
            stream.machine = machine
            machine.enter(stream)
            return NodeRef(machine.node_id, address.url, boot=machine.boot)

        how, ref = await self._beside(address.url, enter, entering=stream)
        if ref is None or stream.machine is None:
            stream.tear("its hello was not answered")
            return f"it cannot be reached ({how})"
        machine = stream.machine
        try:
            return await self._follow(machine, ref, stream, tell)
        finally:
            if self._links.get(address.url) is stream:
                del self._links[address.url]
            if stream.connection is not None:
                stream.connection.close()
            self._followed.discard(machine)
            stream.tear("it is followed no more")
            for key in [key for key in self._delivered if self._delivered_by.get(key) == machine.name]:
                del self._delivered[key]

    async def _follow(
        self, machine: Machine, ref: NodeRef, stream: Stream, tell: Callable[[NodeRef, NodeEvent], None]
    ) -> str:
        world = self._world
        silent_since = trio.current_time()
        while True:
            if stream.torn is not None:
                return stream.torn
            heard = world.reachable(machine)
            if stream.connection is not None and not stream.connection.lives:
                heard = False
            if heard:
                silent_since = trio.current_time()
                events, stream.events = stream.events, []
                for event in events or [machine.beat()]:
                    await sleep(world.latency(machine) if event is not None else 0)
                    self._epoch.leave()
                    if isinstance(event, Picture):
                        self._links[ref.url] = stream
                    if isinstance(event, Picture | Beat):
                        self._refs[ref.url] = replace(ref, tally=event.heartbeat.tally)
                    tell(ref, self._with_results(machine, event))
                    if isinstance(event, Picture):
                        self._followed.add(machine)
                        world.checks.let_in(machine, self._followed, self._epoch.number)
                    if isinstance(event, Leaving):
                        world.checks.heard_leaving(machine, self._epoch.number)
                if stream.finished is not None and not stream.events:
                    return stream.finished
            elif trio.current_time() - silent_since > HEARD_LATE:
                if stream in machine.streams:
                    machine.streams.remove(stream)
                return "silent"
            if not stream.events or not heard:
                stream.bell = trio.Event()
                with trio.move_on_after(BEAT if heard else 1.0):
                    await stream.bell.wait()

    def _with_results(self, machine: Machine, event: NodeEvent) -> NodeEvent:
        """An end may come with what it has left, which may be damaged."""
        world = self._world
        if not isinstance(event, PayloadChanged) or event.view.end is None or event.view.lost:
            return event
        if not machine.up or world.pushes.random() < 0.3:
            return event
        pieces = machine.collect([event.view.key], machine.boot)
        if world.pushes.random() < 0.1:
            pieces = pieces[:-1]
        self._delivered[event.view.key] = pieces
        self._delivered_by[event.view.key] = machine.name
        return replace(event, delivered=True)

    def follow(self, node_id: str, attempts: Sequence[Attempt]) -> None:
        raise AssertionError("no foreign node here")

    def _at(self, url: str) -> Machine:
        """Who is asked there: of those that have one name, the one whose link it is."""
        link = self._links.get(url)
        return self._world.machines[url] if link is None or link.machine is None else link.machine

    async def _order(
        self, url: str, act: Callable[[Machine], T], keys: Sequence[str] = ()
    ) -> tuple[str, Any]:
        self._epoch.enter()
        machine = self._at(url)
        answer = await self._world.order(machine, self._links.get(url), lambda: act(machine), keys)
        self._epoch.leave()
        return answer

    async def _beside(
        self,
        url: str,
        act: Callable[[Machine], T],
        keys: Sequence[str] = (),
        *,
        link: Stream | None = None,
        entering: Stream | None = None,
    ) -> tuple[str, Any]:
        """Over a connection of its own, proved by `link`; or a new link's, which is kept."""
        self._epoch.enter()
        machine = self._world.machines[url]
        answer: tuple[str, Any]
        if machine.dial is None:
            answer = await self._world.call(machine, lambda: act(machine), keys)
        elif (connection := await self._epoch.take(machine.node_id)) is None:
            answer = "not sent", None
        elif entering is None:
            answer = await self._world.call_dialled(connection, link, act, keys)
            connection.close()
        else:
            entering.connection = connection
            answer = await self._world.call_dialled(connection, None, act, keys)
        self._epoch.leave()
        return answer


class _Response:
    """An answer with results, as the HTTP library has it. A node that is spoilt never comes to an end."""

    status_code = 200
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, world: World, machine: Machine, pieces: list[bytes]) -> None:
        self._world = world
        self._machine = machine
        how, until = machine.spoils
        self._how = how if trio.current_time() < until else ""
        self._pieces = iter(pieces[:1] if self._how else pieces)
        self._more = {"trickle": ENDLESS[:5], "endless": ENDLESS}.get(self._how, b"")
        self._begun = False

    def aiter_raw(self) -> _Response:
        return self

    def __aiter__(self) -> _Response:
        return self

    async def __anext__(self) -> bytes:
        if self._begun and self._world.suffers(self._machine, "lossy"):
            raise httpx.ReadError("torn")
        self._begun = True
        for piece in self._pieces:
            return piece
        if not self._world.reachable(self._machine) or self._how == "stall":
            await trio.sleep_forever()
        if not self._how:
            raise StopAsyncIteration
        piece = self._more
        if self._how == "trickle":
            await sleep(10.0)
            self._more = b"."
        else:
            await sleep(1.0)
        return piece


ENDLESS = frames.encode(frames.STDOUT, bytes(256 << 10))


class _ResultFiles:
    """Our storage, as far as a collection knows it, for as long as the epoch lives."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch

    async def input_files(self, storage_key: str) -> Sequence[tuple[str, Path, int]]:
        raise AssertionError("no inputs here")

    def receive_result(self, storage_key: str, attempt_key: str) -> Any:
        self._epoch.leave()
        world = self._epoch.world
        if trio.current_time() < max(world.full_until, world.fileless_until):
            world.collecting[attempt_key] = trio.current_time()  # nobody may blame the node for that
            raise StorageFull("no room")
        return _Sink(self._epoch, storage_key)


class _Sink:
    def __init__(self, epoch: Epoch, storage_key: str) -> None:
        self._epoch = epoch
        self._storage_key = storage_key
        self._zip = b""

    async def write_zip(self, data: bytes) -> None:
        self._zip += data

    async def write_log(self, stream: str, data: bytes) -> None:
        pass

    def expect(self, most: object) -> None:
        pass

    async def commit(self, manifest: object, expected: object, crc: int | None) -> None:
        await sleep(self._epoch.world.rng.uniform(0.0002, 0.005))
        self._epoch.leave()
        self._epoch.world.results[self._storage_key] = self._zip.decode()

    async def abort(self) -> None:
        self._epoch.leave()


def hand_over(epoch: Epoch, tell: Callable[[AttemptHanded], None]) -> Callable[[AttemptHanded], None]:
    """A message between actors that may be lost."""

    def maybe(message: AttemptHanded) -> None:
        if not epoch.dropped():
            tell(message)

    return maybe
