"""The promises, checked at every step. Each check costs constant time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import trio
from simulation.machines import Machine
from simulation.plan import KEEPER
from simulation.violation import Violation

from actors.domain.changes import (
    Change,
    ChangeAnswer,
    ChangeResult,
    MoveAttempt,
    NewJob,
    RecordEnd,
    SetMessage,
    SetProgress,
    Transition,
)
from actors.domain.job import Attempt, AttemptState, Job
from actors.domain.status import JOB, OVER, QUOTA, Owner, Status

if TYPE_CHECKING:
    from simulation.world import World

BACK_WITHIN = 240.0
"""Seconds that a node is waited for which said that it will be back."""

OWNERS = {
    Status.QUEUED: Owner.SENDER,
    Status.PROCESSING: Owner.SENDER,
    Status.SUBMITTED: Owner.GETTER,
    Status.PREPARED: Owner.GETTER,
    Status.RUNNING: Owner.GETTER,
    Status.LOCKED: Owner.GETTER,
}
"""Who may move a job out of a state: a copy of our own, so that one who changes the product's is found."""


class Checks:
    """An account of its own of every job, kept from the commits alone."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.status: dict[int, Status] = {}
        self.attempts: dict[int, list[Attempt]] = {}
        self.counting: dict[int, tuple[str, int]] = {}
        self.by_user: Counter[tuple[str, int]] = Counter()
        self.by_service: Counter[str] = Counter()
        self.states: dict[str, AttemptState] = {}
        self.nodes: dict[str, str] = {}
        self.given_up: set[str] = set()
        self.unheard: set[int] = set()
        self.newest = 0
        self.leavings: dict[str, tuple[float, int, int]] = {}
        self.moments: dict[str, str] = {}
        """How far its node had come when an attempt was made."""
        self.homes: dict[str, Machine | None] = {}
        self.met: dict[str, tuple[int, float]] = {}
        self.began: dict[str, float] = {}
        self.settled: dict[str, float] = {}
        self.settled_by_a_copy: set[str] = set()
        self.answers_for: dict[str, Machine] = {}
        """The machine that was let in last by a node's name. Others of that name do not count: as if lost."""

    def heard_leaving(self, machine: Machine, epoch: int) -> None:
        if machine.away:
            self.leavings[machine.name] = trio.current_time(), epoch, machine.lives

    def let_in(self, machine: Machine, followed: Collection[Machine], epoch: int) -> None:
        """Its picture is heard. If it was set back, what was ordered when no more was known of it than it has
        now may begin there again: nobody can know."""
        for other in followed:
            if other is not machine and other.node_id == machine.node_id:
                raise Violation("copy", f"{machine.name} is let in beside {other.name}")
        self.answers_for[machine.node_id] = machine
        if self.met.get(machine.name) == (met := (epoch, machine.set_back_at)):
            return
        self.met[machine.name] = met
        if machine.set_back_at < 0 or machine.tally is None:
            return
        for key, moment in self.moments.items():
            boot, *heard = moment.split(" ")
            now = zip(heard, astuple(machine.tally), strict=True)
            if boot == machine.boot and all(int(h) <= t for h, t in now):
                machine.started.discard(key)

    def accepted(self, new: NewJob, job: Job) -> None:
        """It may have its first attempt from the same commit."""
        self.status[job.id] = Status.QUEUED
        self._world.note(f"job {job.id}: accepted (user {job.user_id})")
        if new.first is not None and job.status is Status.PROCESSING:
            self._moved(new.first.begin(job.id), job)
            self._count(job)

    def power_cut(self) -> None:
        """What the ledger has lost by it may only be what nodes tell again."""
        jobs, attempts = self._world.disk.kept()
        for job_id, status in self.status.items():
            if job_id not in jobs or (status in OVER and jobs[job_id].status not in OVER):
                raise Violation("taken back", f"job {job_id} was {status}")
            if status is not jobs[job_id].status:
                self._world.note(f"job {job_id}: {status} is taken back to {jobs[job_id].status}")
            self.status[job_id] = jobs[job_id].status
            self._count(jobs[job_id])
        self.states |= {key: attempts[key].state for key in self.states.keys() & attempts.keys()}

    def told(self, rows: Sequence[Job]) -> None:
        """No number of a change is given twice."""
        for job in rows:
            if job.change_seq <= self.newest:
                raise Violation("number", f"job {job.id}: change {job.change_seq} after {self.newest}")
            self.newest = job.change_seq

    def refused(self, changes: Sequence[Change]) -> None:
        """The disk is full. What is said of progress may be dropped then, and nothing else."""
        self.unheard |= {change.job_id for change in changes if isinstance(change, SetProgress)}

    def recorded(self, change: Change, answer: ChangeAnswer) -> None:
        if answer.outcome is not ChangeResult.DONE:
            return
        if isinstance(change, MoveAttempt):
            self._world.note(f"attempt {change.key[:6]}: {change.state}")
            self._attempt_moved(change.key, change.state)
            return
        assert answer.job is not None
        if isinstance(change, Transition):
            self._moved(change, answer.job)
        elif isinstance(change, RecordEnd):
            self._world.note(f"job {change.job_id}: end recorded, {change.end.status}")
            self._own(change.job_id, change.key, "end")
        elif isinstance(change, SetMessage):
            self._world.note(f"job {change.job_id}: {change.message}")
        elif isinstance(change, SetProgress):
            self.unheard.discard(change.job_id)
            self._world.note(f"job {change.job_id}: {change.fraction} {change.message}")
            self._own(change.job_id, change.key, "progress")
        self._count(answer.job)

    def _moved(self, move: Transition, job: Job) -> None:
        world = self._world
        source = self.status[job.id]
        world.note(f"job {job.id}: {source} -> {move.target} ({move.reason})")
        if source is not move.source:
            raise Violation("transition", f"job {job.id} left {move.source}, but it was {source}")
        if move.by is not OWNERS.get(source):
            raise Violation("owner", f"job {job.id}: the {move.by} took it out of {source}")
        if move.target not in JOB[source]:
            raise Violation("transition", f"job {job.id}: {source} to {move.target}")
        self.status[job.id] = move.target
        if move.target is Status.PROCESSING:
            world.sent(job.id)
        if move.key is not None and move.attempt_state is not None:
            self._attempt_moved(move.key, move.attempt_state)
        if move.attempt is not None:
            self._new_attempt(job, move.attempt)
        if move.target in (Status.COMPLETED, Status.FAILED) and move.end is not None:
            self._result(job, move)
        if move.target is Status.KILLED:
            self._nothing_runs(job, move)

    def _attempt_moved(self, key: str, state: AttemptState) -> None:
        self.states[key] = state
        self.settled.setdefault(key, trio.current_time())
        if self.answers_for.get(self.nodes[key]) is not self.homes[key]:
            self.settled_by_a_copy.add(key)
        if state is AttemptState.GIVEN_UP:
            self.given_up.add(key)
            machine = self._world.machines[self.nodes[key]]
            if self.answers_for.get(machine.node_id, machine) is machine:
                self._none_expected(machine, key)

    def _none_expected(self, machine: Machine, key: str) -> None:
        """A node that said that it will be back is waited for: by who heard it, and by who finds it noted."""
        heard_at, epoch, life = self.leavings.get(machine.name, (float("-inf"), 0, 0))
        assert self._world.epoch is not None
        known = epoch == self._world.epoch.number or machine.name in self._world.disk.expected()
        if machine.away and life == machine.lives and known and trio.current_time() < heard_at + BACK_WITHIN:
            raise Violation("given up", f"attempt {key[:6]}: {machine.name} is to be back")

    def _new_attempt(self, job: Job, attempt: Attempt) -> None:
        """Only when the older ones will never run (again), or their node is lost."""
        earlier = self.attempts.setdefault(job.id, [])
        for old in earlier:
            if old.key not in self.given_up and self._may_run(old):
                raise Violation("new attempt", f"job {job.id}: attempt {old.key[:6]} may still run")
        earlier.append(attempt)
        self.states[attempt.key] = AttemptState.OPEN
        self.nodes[attempt.key] = attempt.node_id
        self.began[attempt.key] = trio.current_time()
        self.homes[attempt.key] = self.answers_for.get(attempt.node_id)
        self.moments[attempt.key] = attempt.boot
        if attempt.n > self._world.plan.max_attempts:
            raise Violation("attempts", f"job {job.id} has attempt {attempt.n}")

    def _may_run(self, attempt: Attempt) -> bool:
        machine = self.answers_for.get(attempt.node_id, self._world.machines[attempt.node_id])
        settled_at = self.settled.get(attempt.key, math.inf)
        if attempt.key in self.settled_by_a_copy or settled_at < machine.set_back_at:
            return False  # whoever copies machines, or sets them back, has things twice
        if machine.may_run(attempt.key):
            return True
        here = attempt.key in machine.disk.tombstones or attempt.key in machine.disk.files
        # What is on its way for another boot, or by a link from before it was set back, is refused.
        same = attempt.boot.startswith(f"{machine.boot} ") and self.began[attempt.key] > machine.set_back_at
        arrives = same or self._world.faulty.any_boot
        return not here and arrives and self._world.in_flight.get(attempt.key, 0) > 0

    def _own(self, job_id: int, key: str, what: str) -> None:
        current = self.attempts[job_id][-1]
        if key != current.key:
            raise Violation("old attempt", f"job {job_id}: the {what} of {key[:6]}, not of {current.key[:6]}")

    def _result(self, job: Job, move: Transition) -> None:
        current = self.attempts[job.id][-1]
        if job.message.startswith("its results cannot be had") and move.key == current.key:
            self._world.may_give_up_results(current.key)
            return
        fetched = self._world.results.get(job.storage_key)
        if move.key != current.key or fetched != current.key:
            raise Violation("result", f"job {job.id}: results of {fetched}, current attempt {current.key}")
        plan = self._world.plan.jobs[self._world.job_plans[job.id]]
        meddled = current.key in self._world.cluster.meddled
        right = Status.COMPLETED if plan.exit_code == 0 else Status.FAILED
        if meddled and move.target is Status.FAILED:
            return
        if move.target is not right:
            raise Violation("result", f"job {job.id} is {move.target}, its script ends {right}")
        last = plan.told(plan.words) if plan.words else None
        if job.progress != last and job.id not in self.unheard:
            raise Violation("progress", f"job {job.id} ends at {job.progress}, its last word was {last}")

    def _nothing_runs(self, job: Job, move: Transition) -> None:
        for attempt in self.attempts.get(job.id, []):
            if self.began[attempt.key] < self._world.machines[attempt.node_id].set_back_at:
                continue  # it was set back from that end, perhaps
            if attempt.key not in self.given_up and self._may_run(attempt):
                raise Violation("killed", f"job {job.id}: attempt {attempt.key[:6]} still runs")

    def _count(self, job: Job) -> None:
        counts = job.status in QUOTA and job.end is None
        before = job.id in self.counting
        whose = job.service, job.user_id
        if counts is not before:
            if counts:
                self.counting[job.id] = whose
            else:
                del self.counting[job.id]
            self.by_user[whose] += 1 if counts else -1
            self.by_service[job.service] += 1 if counts else -1
        plan, running = self._world.plan, self.by_service[job.service]
        if running > plan.max_runs or self.by_user[whose] > plan.runs_per_user:
            raise Violation("quota", f"{running} run, {self.by_user} by user")
        # Where none are kept, a slot is given anew before the end of what had it is recorded.
        if plan.kept and job.service != KEEPER and running > (most := sum(plan.slots) - plan.kept):
            raise Violation("kept", f"{running} run of {job.service}, and {most} slots are not kept")

    # ------------------------------------------------------------------ at the end

    def all_over(self) -> bool:
        return len(self.status) == len(self._world.plan.jobs) and all(s in OVER for s in self.status.values())

    def nothing_left(self) -> str | None:
        """What is still there on nodes that are alive, once all is over."""
        for machine in self._world.machines.values():
            if not machine.dead and self._world.cluster.left(machine.started):
                return f"{machine.name} still has batch jobs"
            if not machine.dead and machine.disk.files:
                return f"{machine.name} still has {[k[:6] for k in machine.disk.files]}"
        for key, state in self.states.items():
            if state is not AttemptState.RELEASED and not self._world.machines[self.nodes[key]].dead:
                return f"attempt {key[:6]} is {state}, never released"
        return None

    def unfinished(self) -> str:
        late = {i: s for i, s in self.status.items() if s not in OVER}
        return (
            f"at {trio.current_time():.0f} s: {late or 'all over'}; {self.nothing_left() or 'nothing left'}"
        )
