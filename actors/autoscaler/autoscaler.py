"""The AutoScaler: has machines made and ended with the load.

On each look it asks the Sender, who owns queue and pool, for the picture of every service, lets the policy
decide on it, and has the decisions carried out: drains by the Sender itself, so that assigning and draining
have one order; machines by the `MachineController` of their provider. Every decision is recorded with its
reason.

Nothing here is lost by a crash: machines have their records, and what is draining is in the next picture.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import trio

from actors.autoscaler.machine_controller import MachineController
from actors.autoscaler.machines import LIVE, TrackedMachine, TrackedMachines
from actors.autoscaler.service_state import ScaledService
from actors.domain.scaling import (
    DRAINED_BY_SCALING,
    Action,
    Create,
    Drain,
    MachineState,
    NodeFact,
    ScalingLimits,
    ServiceScaling,
    Snapshot,
    Terminate,
    Undrain,
)
from actors.kernel.actor import Actor, ActorError, Mailbox, Question
from actors.messages import Committed, ScalingStatus
from actors.ports.ledger import LedgerError
from actors.ports.scaling import MachineLedger, PoolControl, Provider
from actors.ports.world import Clock, Random

log: Final = logging.getLogger("orchestrator.scaling")

MOST_NAMED: Final = 3
"""Machines whose problems are told one by one."""
BEFORE_NODE: Final = (MachineState.WANTED, MachineState.BOOTING)


class AutoScaler(Actor):
    """See the module. `decide` is the policy; `providers` names the provider of each service in `limits`.
    `pace`: the least time in seconds between two looks, however often it is rung. `adopt_grace`: how long a
    machine of an earlier life has at least for its node to come back. `controller` are further settings of
    `MachineController`."""

    def __init__(
        self,
        mailbox: Mailbox,
        nursery: trio.Nursery,
        *,
        pool: PoolControl,
        ledger: MachineLedger,
        providers: Mapping[str, Provider],
        limits: Sequence[ScalingLimits],
        decide: Callable[[Snapshot], tuple[Action, ...]],
        clock: Clock,
        rng: Random,
        tick: float = 1.0,
        pace: float = 0.2,
        adopt_grace: float = 60.0,
        controller: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(mailbox, nursery, tick=tick)
        self._pool = pool
        self._decide = decide
        self._rng = rng
        self._pace = pace
        self._adopt_grace = adopt_grace
        self._next_look = trio.current_time()
        self._waking = False
        self._ledger_trouble = ""
        self._read = False
        self._services = {one.service: ScaledService(one, rng) for one in limits}
        self._machines = TrackedMachines(ledger, clock, rng)
        self._controllers: dict[str, MachineController] = {}
        for name, provider in providers.items():
            of_provider = next((one for one in self._controllers.values() if one.provider is provider), None)
            if of_provider is None:
                of_provider = MachineController(
                    provider,
                    [name],
                    self._machines,
                    rng=rng,
                    may_end=self._may_end,
                    in_pool=self._in_pool,
                    boot_failed=lambda service, count: self._services[service].boots_failed(count),
                    changed=self.ring,
                    **(controller or {}),
                )
            else:
                of_provider.services.append(name)
            self._controllers[name] = of_provider

    # ------------------------------------------------------------------ life

    async def turn(self) -> None:
        now = trio.current_time()
        if now < self._next_look:
            self._wake_later(self._next_look)
            return
        self._next_look = now + self._pace
        try:
            if not self._read:
                await self._read_machines()
            for name, service in self._services.items():
                if await self._see(name, service):
                    await self._scale(name, service)
        except LedgerError as error:
            # What was not recorded was not done either: the next look decides anew.
            self._ledger_trouble = f"the ledger cannot be used: {error}"
            log.warning("scaling goes on at the next tick: %s", self._ledger_trouble)
        else:
            self._ledger_trouble = ""

    async def _read_machines(self) -> None:
        """No provider is asked before the records are known: what has none would be ended."""
        await self._machines.read()
        now = trio.current_time()
        for tracked in self._machines:
            name = tracked.record.service
            if name not in self._services and not self._take_over(name):
                log.error(
                    "machine %s is of service %s, which no provider scales any more; end it by hand",
                    tracked.name,
                    name,
                )
                continue
            limits = self._services[name].limits
            tracked.alone_since = max(
                tracked.alone_since, now - max(0.0, limits.boot_timeout - self._adopt_grace)
            )
            await self._machines.note(name, "adopt", tracked.name, "made by an earlier life")
        self._read = True
        for controller in set(self._controllers.values()):
            controller.start(self.nursery)
            controller.ring()

    def _take_over(self, name: str) -> bool:
        """A service that scales no more and has machines: they go once they are idle. With several providers
        nobody knows whose they are."""
        controllers = set(self._controllers.values())
        if len(controllers) != 1:
            return False
        (controller,) = controllers
        controller.services.append(name)
        self._controllers[name] = controller
        self._services[name] = ScaledService(ScalingLimits(name, max_nodes=0, idle_timeout=60.0), self._rng)
        return True

    # ------------------------------------------------------------------ mail

    def receive(self, message: object) -> None:
        match message:
            case Committed(jobs=jobs):
                for job in jobs:
                    if (service := self._services.get(job.service)) is not None:
                        service.times.take(job)
            case _:
                super().receive(message)

    def answer(self, question: Question[object]) -> object:
        match question:
            case ScalingStatus():
                return tuple(self._status(name, self._services[name]) for name in sorted(self._services))
            case _:
                return super().answer(question)

    def _status(self, name: str, service: ScaledService) -> ServiceScaling:
        tracked = self._machines.of((name,))
        controller = self._controllers[name]
        trouble = [service.unseen, self._ledger_trouble, controller.trouble, service.boot_trouble]
        odd = [f"machine {one.name}: {one.problem}" for one in tracked if one.problem]
        trouble += odd[:MOST_NAMED]
        if len(odd) > MOST_NAMED:
            trouble.append(f"and {len(odd) - MOST_NAMED} machines more")
        return ServiceScaling(
            service=name,
            provider=controller.provider.name,
            limits=service.limits,
            nodes=sum(not node.lost for node in service.view.nodes),
            booting=sum(one.state in BEFORE_NODE for one in tracked),
            ending=sum(one.state is MachineState.ENDING for one in tracked),
            runnable=service.view.runnable,
            trouble="; ".join(one for one in trouble if one),
            machines=tuple(replace(one.record, reason=one.note or one.record.reason) for one in tracked),
        )

    def _wake_later(self, at: float) -> None:
        if not self._waking:
            self._waking = True
            self.nursery.start_soon(self._ring_at, at)

    async def _ring_at(self, at: float) -> None:
        await trio.sleep_until(at)
        self._waking = False
        self.ring()

    # ------------------------------------------------------------------ seeing

    async def _see(self, name: str, service: ScaledService) -> bool:
        """Take in how the service stands. False if the Sender cannot say: then nothing is decided."""
        try:
            view = await self._pool.picture(name)
        except ActorError as error:
            service.unseen = f"the pool cannot be seen: {error}"
            return False
        service.unseen = ""
        now = trio.current_time()
        service.update(view)
        by_token = {node.machine: node for node in view.nodes if node.machine is not None}
        for tracked in self._machines.of((name,)):
            node = by_token.pop(tracked.token, None)
            tracked.in_touch = node is not None and not node.lost and node.heard_at is not None
            self._look_over(tracked, node, service.limits.slots_per_node)
            if node is None:
                continue
            tracked.alone_since = now
            if tracked.state in BEFORE_NODE:
                await self._machines.move(tracked, BEFORE_NODE, MachineState.JOINED, node_id=node.node_id)
            if tracked.in_touch and not tracked.came:
                tracked.came = True
                service.boot_went_well()
        for token, node in by_token.items():
            # Whose the machine is, is not the node's to say.
            listed = token is not None and self._controllers[name].lists_unrecorded(token)
            if token is not None and listed and not node.lost and self._machines.get(token) is None:
                await self._machines.adopt(token, name, node.node_id)
                await self._machines.note(
                    name, "adopt", token, f"node {node.called} is on it, no record was there"
                )
        return True

    def _look_over(self, tracked: TrackedMachine, node: NodeFact | None, ordered: int) -> None:
        """Whether it came as it was ordered; said once, and shown as long as it lasts."""
        problem = ""
        if node is not None and tracked.in_touch and node.slots != ordered:
            slots = "1 slot" if node.slots == 1 else f"{node.slots} slots"
            problem = f"its node has {slots}, and was ordered with {ordered}"
        elif node is None and tracked.state in BEFORE_NODE:
            problem = self._pool.word_of(tracked.token, tracked.record.service)
        if problem == tracked.problem:
            return
        tracked.problem = problem
        self._pool.remark(tracked.token, problem)
        if problem:
            log.warning("machine %s of service %s: %s", tracked.name, tracked.record.service, problem)

    # ------------------------------------------------------------------ acting

    async def _scale(self, name: str, service: ScaledService) -> None:
        failed = 0
        snapshot = service.snapshot(self._machines)
        called = {node.node_id: node.called for node in snapshot.nodes}
        for action in self._decide(snapshot):
            match action:
                case Create(count=count, reason=reason):
                    await self._create(name, service, count, reason)
                case Drain(node_id=node_id, reason=reason):
                    await self._order(
                        name, "drain", self._pool.drain(node_id, reason), called[node_id], reason
                    )
                case Undrain(node_id=node_id, reason=reason):
                    order = self._pool.undrain(node_id, by_scaling=True)
                    await self._order(name, "undrain", order, called[node_id], reason)
                case Terminate(token=token, reason=reason):
                    failed += await self._terminate(name, token, reason)
        if failed:
            service.boots_failed(failed)
            await self._machines.note(name, "hold", f"{failed} boots", service.boot_trouble)

    async def _create(self, name: str, service: ScaledService, count: int, reason: str) -> None:
        wanted = 0
        try:
            for _ in range(count):
                await self._machines.request(name, reason)
                wanted += 1
        finally:
            if wanted:
                service.grown_at = trio.current_time()
                self._controllers[name].ring()
        await self._machines.note(name, "create", f"{count} nodes" if count > 1 else "1 node", reason)

    async def _order(self, name: str, action: str, order: Awaitable[bool], node: str, reason: str) -> None:
        try:
            done = await order
        except (ActorError, LedgerError) as error:
            log.info("%s of node %s is decided anew: %s", action, node, error)
            return
        if done:
            await self._machines.note(name, action, node, reason.removeprefix(DRAINED_BY_SCALING))

    async def _terminate(self, name: str, token: str, reason: str) -> int:
        """How many boots that was a failure of."""
        tracked = self._machines.get(token)
        if tracked is None:
            return 0
        if tracked.problem and not tracked.came:
            reason = f"{reason}: {tracked.problem}"
        if not await self._machines.move(tracked, LIVE, MachineState.ENDING, reason=reason):
            return 0
        self._controllers[name].ring()
        await self._machines.note(name, "terminate", tracked.name, reason)
        return 0 if tracked.came else 1

    async def _may_end(self, some: Sequence[TrackedMachine]) -> Sequence[TrackedMachine]:
        """Those that may be ended at this moment, by a picture that is newer than the decision. The others
        are decided on anew."""
        may: list[TrackedMachine] = []
        for name in {one.record.service for one in some}:
            view = await self._pool.picture(name)
            nodes = {node.machine: node for node in view.nodes if node.machine is not None}
            for tracked in (one for one in some if one.record.service == name):
                reason = self._explain_refusal(tracked, nodes.get(tracked.token))
                if not reason:
                    may.append(tracked)
                    continue
                back = (MachineState.ENDING,), MachineState.JOINED
                if await self._machines.move(tracked, *back, reason=reason):
                    await self._machines.note(name, "keep", tracked.name, reason)
                    self.ring()
        return may

    async def _in_pool(self, services: Sequence[str]) -> Collection[str]:
        views = [await self._pool.picture(name) for name in services]
        return {node.machine for view in views for node in view.nodes if node.machine and not node.lost}

    def _explain_refusal(self, tracked: TrackedMachine, node: NodeFact | None) -> str:
        if node is None:
            # Its node may be missing only because the Sender begins anew; one that never came cannot be.
            alone = trio.current_time() - tracked.alone_since
            return (
                "" if not tracked.came or alone >= self._adopt_grace else "its node was in the pool just now"
            )
        if node.lost or (node.going and node.empty) or (node.heard_at is None and node.busy == 0):
            return ""
        return f"node {node.called} is in use again"
