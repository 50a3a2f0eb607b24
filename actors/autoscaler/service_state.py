"""What the AutoScaler knows of one service: its last picture, its recent past, how its boots go."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

import trio

from actors.autoscaler.demand import Peak, RunTimes
from actors.autoscaler.machines import TrackedMachines
from actors.domain.scaling import MachineFact, MachineState, NodeFact, ScalingLimits, ScalingView, Snapshot
from actors.kernel.backoff import Backoff
from actors.ports.world import Random

log: Final = logging.getLogger("orchestrator.scaling")


class ScaledService:
    """`unseen`: why it cannot be seen now. `grown_at`: when a machine was last wanted, monotonic."""

    def __init__(self, limits: ScalingLimits, rng: Random) -> None:
        self.limits = limits
        self.times = RunTimes()
        self.view = ScalingView(0, 0.0, 0)
        self.grown_at: float | None = None
        self.unseen = ""
        self._peak = Peak(limits.idle_timeout, trio.current_time())
        self._patience = Backoff(rng, first=limits.boot_backoff, most=limits.boot_backoff_most)
        self._failed = 0
        self._hold_until = 0.0

    def update(self, view: ScalingView) -> None:
        """A new picture. What is runnable counts as the slots that it needs, not as its jobs: a burst of
        short ones is not to keep nodes."""
        self.view, self.unseen = view, ""
        needed = -int(-view.runnable // (1 + self.limits.turns(self.times.mean)))
        self._peak.take(trio.current_time(), view.running + needed)

    # ------------------------------------------------------------------ boots

    def boot_went_well(self) -> None:
        self._failed, self._hold_until = 0, 0.0
        self._patience.reset()

    def boots_failed(self, count: int) -> None:
        """Those that fail together are one reason to wait, not many."""
        self._failed += count
        delay = self._patience.next()
        self._hold_until = trio.current_time() + delay
        name = self.limits.service
        log.error("%d boots for %s have failed in a row, again in %.0f s", self._failed, name, delay)

    @property
    def boot_trouble(self) -> str:
        """Empty as long as boots go well."""
        if not self._failed:
            return ""
        wait = max(0.0, self._hold_until - trio.current_time())
        again = f"the next is tried in {wait:.0f} s" if wait else "the next may be tried now"
        gave_up = ", scaling has given up for now" if self._failed >= self.limits.max_failed_boots else ""
        return f"{self._failed} boots in a row have failed{gave_up}; {again}"

    # ------------------------------------------------------------------ for the policy

    def snapshot(self, machines: TrackedMachines) -> Snapshot:
        """A machine that is ending has no node any more, as far as decisions go."""
        now = trio.current_time()
        nodes = tuple(
            fact for node in self.view.nodes if (fact := self._as_decided_on(machines, node)) is not None
        )
        with_node = {node.machine for node in nodes}
        return Snapshot(
            now=now,
            limits=self.limits,
            runnable=self.view.runnable,
            oldest_wait=self.view.oldest_wait,
            running=self.view.running,
            run_seconds=self.times.mean,
            nodes=nodes,
            machines=tuple(
                MachineFact(one.token, one.state, one.alone_since)
                for one in machines.of((self.limits.service,))
                if one.token not in with_node
            ),
            grown_at=self.grown_at,
            failed_boots=self._failed,
            hold_boots_until=self._hold_until,
            peak_demand=self._peak.most(now),
            kept=self.view.kept,
        )

    def _as_decided_on(self, machines: TrackedMachines, node: NodeFact) -> NodeFact | None:
        if node.machine is None:
            return node
        tracked = machines.get(node.machine)
        if machines.was_ended(node.machine) or (tracked and tracked.state is MachineState.ENDING):
            return None
        # A machine that is not ours, or was made for another service, serves this one as a static node does.
        ours = tracked is not None and tracked.record.service == self.limits.service
        return node if ours else replace(node, machine=None)
