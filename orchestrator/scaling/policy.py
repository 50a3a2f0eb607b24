"""What scaling does next: a pure function of a snapshot. The same snapshot gives the same actions, and once
they are done there is nothing more to do.

How much is enough: a slot takes a new job whenever its last one ends, so within `target_wait` S slots begin
about S · target_wait / run_seconds jobs, and free ones one more each. Machines that are booting count as
slots already. Only what is runnable beyond that asks for more, so a burst of short jobs orders few machines;
while nothing is known of run times, each job asks for a slot of its own.

Growing: first nodes that were about to go are kept, then machines are ordered. Shrinking: a node is drained
when it was idle for `idle_timeout`, or when the pool had more slots than it needed at any moment of that
time. A machine is ended when its node is drained and says that it is empty, when its node is lost, or when no
node came in time. That is a failed boot; none is ordered with it, as who holds boots back has to hear of it
first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.domain.scaling import (
    DRAINED_BY_SCALING,
    Action,
    Create,
    Drain,
    MachineState,
    NodeFact,
    Snapshot,
    Terminate,
    Undrain,
)


def decide(snapshot: Snapshot) -> tuple[Action, ...]:
    """What to do now, in this order."""
    return _Decision(snapshot).actions()


@dataclass(slots=True)
class _Slots:
    """Slots of nodes that take jobs, the free ones of them, and those that are on their way; without those
    that are kept for other services."""

    serving: int = 0
    free: int = 0
    coming: int = 0


@dataclass(slots=True)
class _Sorted:
    """The snapshot by what can be done with it. `made` counts what costs money; `kept` are nodes of ours that
    are to stay, `booting` machines whose node is not in touch yet."""

    slots: _Slots = field(default_factory=_Slots)
    late: list[Terminate] = field(default_factory=list)
    lost: list[Terminate] = field(default_factory=list)
    going: list[NodeFact] = field(default_factory=list)
    candidates: list[NodeFact] = field(default_factory=list)
    made: int = 0
    kept: int = 0
    booting: int = 0


class _Decision:
    def __init__(self, snapshot: Snapshot) -> None:
        self._s = snapshot
        self._limits = snapshot.limits
        self._turns = snapshot.limits.turns(snapshot.run_seconds)
        self._has = self._sort()

    def actions(self) -> tuple[Action, ...]:
        has = self._has
        undrained = self._undrain()
        creates = [] if has.late else self._create(undrained)
        drains = [] if undrained or creates else self._drain()
        stays = {one.node_id for one in undrained}
        emptied = [
            Terminate(node.machine, f"node {node.called} is drained and empty")
            for node in has.going
            if node.machine is not None and node.empty and node.node_id not in stays
        ]
        return (*undrained, *creates, *drains, *emptied, *has.lost, *has.late)

    # ------------------------------------------------------------------ what there is

    def _sort(self) -> _Sorted:
        has, now, limits = _Sorted(), self._s.now, self._limits
        for machine in self._s.machines:
            has.made += 1
            if machine.state is MachineState.ENDING:
                continue
            if now - machine.requested_at >= limits.boot_timeout:
                reason = f"its node has not come within {limits.boot_timeout:g} s"
                has.late.append(Terminate(machine.token, reason))
            else:
                self._is_coming(has)
        for node in self._s.nodes:
            self._sort_node(has, node)
        kept = min(self._s.kept, has.slots.free)
        has.slots.free -= kept
        has.slots.serving -= kept
        return has

    def _sort_node(self, has: _Sorted, node: NodeFact) -> None:
        slots, token = has.slots, node.machine
        has.made += token is not None
        if node.lost:
            if token is not None:
                has.lost.append(Terminate(token, f"node {node.called} is lost"))
        elif node.draining:
            if node.going:
                has.going.append(node)
        elif node.heard_at is None and token is not None:
            # After a restart a node has jobs of ours before it is heard again; silence makes it lost then.
            if node.busy == 0 and self._s.now - node.joined_at >= self._limits.boot_timeout:
                reason = f"node {node.called} joined and was never in touch"
                has.late.append(Terminate(token, reason))
            else:
                self._is_coming(has)
        else:
            if node.ready:
                slots.serving += node.slots
                slots.free += node.free
            if token is not None:
                has.kept += 1
                has.candidates.append(node)

    def _is_coming(self, has: _Sorted) -> None:
        has.booting += 1
        has.slots.coming += self._limits.slots_per_node

    # ------------------------------------------------------------------ growing

    def _lacking(self) -> int:
        """Slots that are missing for what is runnable to begin within `target_wait`."""
        slots, turns = self._has.slots, self._turns
        begins = slots.free + slots.coming + (slots.serving + slots.coming) * turns
        over = self._s.runnable - begins
        return max(0, math.ceil(over / (1 + turns) - 1e-9))

    def _overdue(self) -> bool:
        """Jobs have waited too long though the estimate says otherwise, and nothing is there or on its way
        for them: run times have changed."""
        slots = self._has.slots
        late = self._s.runnable > 0 and self._s.oldest_wait > self._limits.target_wait
        return late and slots.free == 0 and slots.coming == 0

    def _missing(self) -> int:
        """Nodes short of `min_nodes`."""
        return max(0, self._limits.min_nodes - self._has.kept - self._has.booting)

    def _undrain(self) -> list[Undrain]:
        has, actions = self._has, []
        newest = sorted(has.going, key=lambda node: (-(node.drained_at or 0.0), node.node_id))
        for node in (one for one in newest if one.ready):
            lacking, missing = self._lacking(), self._missing()
            if not lacking and not missing and not (self._overdue() and node.free):
                continue
            why = (
                "to keep min_nodes"
                if missing and not lacking
                else f"{_many(self._s.runnable, 'job')} can run"
            )
            actions.append(Undrain(node.node_id, why))
            has.kept += 1
            has.slots.serving += node.slots
            has.slots.free += node.free
        return actions

    def _create(self, undrained: Sequence[Undrain]) -> list[Create]:
        has, limits = self._has, self._limits
        lacking, missing = self._lacking(), self._missing()
        wanted = math.ceil(lacking / max(1, limits.slots_per_node))
        are = "is" if lacking == 1 else "are"
        reason = f"{_many(self._s.runnable, 'job')} can run, {_many(lacking, 'slot')} {are} missing"
        if not wanted and not undrained and self._overdue():
            wanted = max(1, has.kept // 10)
            reason = f"jobs have waited for {self._s.oldest_wait:.0f} s, longer than expected"
        if missing > wanted:
            wanted, reason = missing, f"to have {_many(limits.min_nodes, 'node')} at least"
        held_back = self._s.failed_boots >= limits.max_failed_boots
        at_once = 1 if held_back else limits.boots_at_once
        count = min(wanted, limits.max_nodes - has.made, at_once - has.booting)
        if count <= 0 or self._s.now < self._s.hold_boots_until:
            return []
        return [Create(count, f"{reason}; tried with one after failed boots" if held_back else reason)]

    # ------------------------------------------------------------------ shrinking

    def _drain(self) -> list[Drain]:
        s, has, limits = self._s, self._has, self._limits
        cooling = s.grown_at is not None and s.now - s.grown_at < limits.cooldown
        if s.runnable or cooling:
            return []
        surplus = 0 if s.peak_demand is None else has.slots.serving + has.slots.coming - s.peak_demand
        actions, kept = [], has.kept
        for node in sorted(has.candidates, key=_idlest_first):
            if kept <= limits.min_nodes:
                break
            reason = self._why_it_may_go(node, surplus)
            if reason:
                actions.append(Drain(node.node_id, DRAINED_BY_SCALING + reason))
                kept -= 1
                surplus -= node.slots if node.ready else 0
        return actions

    def _why_it_may_go(self, node: NodeFact, surplus: int) -> str:
        """A node that has just joined has as long as any other before it counts as idle."""
        now, limit = self._s.now, self._limits.idle_timeout
        if now - node.joined_at < limit:
            return ""
        if node.busy == 0 and node.idle_since is not None and now - node.idle_since >= limit:
            return f"idle for {now - node.idle_since:.0f} s"
        if node.ready and surplus >= node.slots:
            return f"{surplus} slots were not needed within {limit:g} s"
        return ""


def _idlest_first(node: NodeFact) -> tuple[int, float, float, str]:
    idle_since = math.inf if node.idle_since is None else node.idle_since
    return node.busy, idle_since, node.joined_at, node.node_id


def _many(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"
