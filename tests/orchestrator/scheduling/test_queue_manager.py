"""Fairness and quotas, against a model that is too simple to be wrong."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from dataclasses import replace
from operator import attrgetter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.domain.ids import MAX_ID
from actors.domain.job import MOST_PRIORITY, End, Job, QueuedJobs, job_of, order_of
from actors.domain.service import Backlog, Demand, ServiceLimits, WaitReason
from actors.domain.status import OVER, Status
from orchestrator.scheduling.queue_manager import QueueManager

S = Status
LIMITS = {"a": ServiceLimits("a", runs_per_user=2, max_runs=5), "b": ServiceLimits("b", 1, 5)}
WEIGHTED = {"a": replace(LIMITS["a"], runs_per_user=4, weights={0: 3, 2: 2}), "b": LIMITS["b"]}
WIDE = {"a": ServiceLimits("a", runs_per_user=10_000, max_runs=10_000)}
REQUIRED = ("", "gpu", "gpu=a100,ssd")
END = End(S.COMPLETED, "exit code 0")


def row(job_id: int, user: int = 1, service: str = "a", status: Status = S.QUEUED, seq: int = 0) -> Job:
    return Job(job_id, user, service, status, "", seq or job_id, 0.0, 0.0, f"k{job_id}")


class Model:
    """The rules as they are told: lists, and everything counted anew at each question."""

    def __init__(self, limits: dict[str, ServiceLimits]) -> None:
        self.limits = limits
        self.rows: dict[int, Job] = {}
        self.held: set[int] = set()
        self.rings: dict[str, list[int]] = {}
        self.turns: Counter[tuple[str, int]] = Counter()

    def weight(self, service: str, user: int) -> int:
        return self.limits[service].weights.get(user, 1) if service in self.limits else 1

    def _going(self, job: Job) -> bool:
        return job.counts or (job.id in self.held and job.status is S.QUEUED)

    def _waiting(self, job: Job) -> bool:
        return job.status is S.QUEUED and not job.terminate_requested and job.id not in self.held

    def waiting(self, service: str) -> list[Job]:
        found = [job for job in self.rows.values() if job.service == service and self._waiting(job)]
        return sorted(found, key=lambda job: (-job.priority, job.id))

    def going(self, service: str) -> list[Job]:
        return [job for job in self.rows.values() if job.service == service and self._going(job)]

    def _settle(self, before: Job | None, was_waiting: bool, job: Job) -> None:
        ring = self.rings.setdefault(job.service, [])
        here = {one.user_id for one in self.waiting(job.service)}
        for user in {*ring} - here:
            ring.remove(user)
            del self.turns[job.service, user]
        if was_waiting and self._going(job) and job.user_id in ring:
            self.turns[job.service, job.user_id] += 1
            if self.turns[job.service, job.user_id] >= self.weight(job.service, job.user_id):
                del self.turns[job.service, job.user_id]
                ring.remove(job.user_id)
                ring.append(job.user_id)
        if job.user_id in here and job.user_id not in ring:
            ring.append(job.user_id)

    def apply(self, job: Job) -> None:
        before = self.rows.get(job.id)
        was_waiting = before is not None and self._waiting(before)
        self.rows[job.id] = job
        if job.status is not S.QUEUED:
            self.held.discard(job.id)
        self._settle(before, was_waiting, job)

    def take(self, service: str) -> int | None:
        return self.hold(self.next(service))

    def hold(self, job_id: int | None) -> int | None:
        if job_id is not None:
            self.held.add(job_id)
            self._settle(self.rows[job_id], True, self.rows[job_id])
        return job_id

    def give_back(self, job_id: int) -> None:
        if job_id in self.held:
            self.held.discard(job_id)
            job = self.rows[job_id]
            self._settle(job, False, job)

    def blocked(self, service: str, user: int) -> bool:
        mine = [job for job in self.going(service) if job.user_id == user]
        return len(mine) >= self.limits[service].runs_per_user

    def next(self, service: str) -> int | None:
        if service not in self.limits or len(self.going(service)) >= self.limits[service].max_runs:
            return None
        for user in self.rings.get(service, []):
            if not self.blocked(service, user):
                return next(job.id for job in self.waiting(service) if job.user_id == user)
        return None

    def position(self, job_id: int) -> int:
        """Serve round by round until it is this job's turn."""
        service = self.rows[job_id].service
        lines = {
            user: [job.id for job in self.waiting(service) if job.user_id == user]
            for user in self.rings[service]
        }
        order = sorted(lines, key=lambda user: (self.blocked(service, user), self.rings[service].index(user)))
        served: list[int] = []
        turns = self.turns.copy()
        while job_id not in served:
            for user in order:
                count = self.weight(service, user) - turns.pop((service, user), 0)
                served += lines[user][:count]
                del lines[user][:count]
        return served.index(job_id)


STATUSES = [S.QUEUED] * 5 + [S.PROCESSING, S.RUNNING, S.COMPLETED, S.CLEANED]
Event = tuple[str, Job | int | str]


def random_events(seed: int, prioritised: bool = False) -> list[Event]:
    """Rows, each newer than all before, jobs that are taken and given back, and answers that are acted upon.
    A list drawn element by element would cost ten times as much as the test."""
    rng = random.Random(seed)
    events: list[Event] = []
    for now in range(100, 160):
        job_id = rng.randint(1, 14)
        match rng.choice(["row", "row", "row", "back", "take", "take", "take", "go"]):
            case "row":
                # Who owns a job and what it is for never changes, so both follow from the id.
                service = "a" if job_id < 12 else "bb?"[job_id - 12]
                job = row(job_id, user=job_id % 3, service=service, status=rng.choice(STATUSES), seq=now)
                job = replace(job, priority=job_id % 4 * prioritised)
                flag, queued = rng.random() < 0.2, job.status is S.QUEUED
                job = replace(
                    job, terminate_requested=flag and queued, end=END if flag and not queued else None
                )
                events.append(("row", job))
            case "back":
                events.append(("back", job_id))
            case kind:
                events.append((kind, rng.choice("aaab")))
    return events


EVENTS = st.integers(0, 2**32).map(random_events)
PRIORITISED = st.integers(0, 2**32).map(lambda seed: random_events(seed, prioritised=True))


@pytest.mark.parametrize("limits", [LIMITS, WEIGHTED], ids=["plain", "weighted"])
@settings(max_examples=150)
@given(events=st.one_of(EVENTS, PRIORITISED))
def test_rows_give_what_the_model_gives(limits: dict[str, ServiceLimits], events: list[Event]) -> None:
    queue, model, clock = QueueManager(limits), Model(limits), 100
    for event in events:
        for one in (queue, model):
            match event:
                case ("row", Job() as job):
                    one.apply(job)
                case ("back", int(job_id)):
                    one.give_back(job_id)
                case ("take", str(service)):
                    one.take(service)
                case ("go", str(service)):
                    job_id = one.next(service)
                    if job_id is not None:
                        one.apply(replace(model.rows[job_id], status=S.PROCESSING, change_seq=clock))
        clock += 1
        for service in LIMITS:
            assert queue.next(service) == model.next(service)
        assert queue.next("?") is None
        assert sorted(queue.services()) == sorted(name for name in "ab?" if model.waiting(name))
        waiting = [Backlog(name, "", len(model.waiting(name))) for name in "ab?" if model.waiting(name)]
        assert sorted(queue.backlog(3), key=attrgetter("service")) == sorted(
            waiting, key=attrgetter("service")
        )
    for job in model.rows.values():
        why = queue.explain_wait(job, free_slots=True, any_node=True)
        assert (why is not None) == model._waiting(job)
        if why is not None and job.service in LIMITS:
            assert why.position == model.position(job.id)
            assert (queue.next(job.service) != job.id) or why.position == 0


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("aab?"), st.sampled_from(REQUIRED)), max_size=60),
    EVENTS,
)
def test_a_queue_that_is_filled_goes_on_as_one_that_has_seen_each_row(
    jobs: list[tuple[int, str, str]], events: list[Event]
) -> None:
    """Whatever happens to either afterwards."""
    rows = {
        job_id: replace(row(job_id, user, service), requires=requires)
        for job_id, (user, service, requires) in enumerate(jobs, 1)
    }
    lines: dict[tuple[str, str, int], array[int]] = {}
    for job in rows.values():
        lines.setdefault((job.service, job.requires, job.user_id), array("q")).append(job.id)
    filled, fed = QueueManager(LIMITS), QueueManager(LIMITS)
    filled.fill([QueuedJobs(*wanted, ids) for wanted, ids in sorted(lines.items())])
    for job in rows.values():
        fed.apply(job)
    for number, (kind, what) in enumerate(events):
        for queue in (filled, fed):
            match kind, what:
                case "row", Job() as job:
                    job = replace(rows.get(job.id, job), status=job.status, end=job.end)
                    queue.apply(job)
                case "take" | "go", str(service):
                    queue.take(service, REQUIRED[number % 3])
                case "back", int(job_id):
                    queue.give_back(job_id)
        assert filled.services() == fed.services()
        for service in LIMITS:
            assert filled.requirements(service) == fed.requirements(service)
            assert filled.demand(service) == fed.demand(service)
            for requires in REQUIRED:
                assert filled.next(service, requires) == fed.next(service, requires)
    for job in rows.values():
        told = [queue.explain_wait(job, free_slots=True, any_node=True) for queue in (filled, fed)]
        assert told[0] == told[1]


@settings(max_examples=100)
@given(EVENTS)
def test_what_is_offered_never_exceeds_a_quota(events: list[Event]) -> None:
    """Rows that come from elsewhere may exceed one (it was lowered); an offer never does."""
    queue, rows = QueueManager(LIMITS), dict[int, Job]()
    for number, event in enumerate(events, 100):
        if isinstance(event[1], Job):
            job = replace(event[1], change_seq=event[1].change_seq * 2)
            queue.apply(job)
            if job.id not in rows or rows[job.id].change_seq < job.change_seq:
                rows[job.id] = job
        for service, limits in LIMITS.items():
            job_id = queue.next(service)
            if job_id is None:
                continue
            taken = replace(rows[job_id], status=S.PROCESSING, change_seq=2 * number + 1)
            others = [job for job in rows.values() if job.service == service and job.counts]
            assert len(others) < limits.max_runs
            assert sum(job.user_id == taken.user_id for job in others) < limits.runs_per_user
            assert rows[job_id].status is S.QUEUED
            assert not rows[job_id].terminate_requested
            for _ in range(2):
                queue.apply(taken)
            rows[job_id] = taken


@settings(max_examples=100)
@given(EVENTS)
def test_demand_is_what_could_be_taken_one_by_one(events: list[Event]) -> None:
    queue, model = QueueManager(LIMITS), Model(LIMITS)
    for kind, what in events:
        for one in (queue, model):
            match kind, what:
                case "row", Job() as job:
                    one.apply(job)
                case "take", str(service):
                    one.take(service)
                case "back", int(job_id):
                    one.give_back(job_id)
    for service in LIMITS:
        demand = queue.demand(service)
        assert demand.running == len(model.going(service))
        users = {job.user_id for job in model.waiting(service) if not model.blocked(service, job.user_id)}
        first = [
            min(job.id for job in model.waiting(service) if job.user_id == user) for user in sorted(users)
        ]
        assert sorted(demand.first) == (sorted(first) if model.next(service) is not None else [])
        taken = 0
        while model.take(service) is not None:
            taken += 1
        assert demand.runnable == taken
    assert queue.demand("?").runnable == queue.demand("never heard of").runnable == 0


@settings(max_examples=100)
@given(EVENTS)
def test_what_is_required_parts_the_queue_and_not_the_quotas(events: list[Event]) -> None:
    queue, model = QueueManager(LIMITS), Model(LIMITS)
    for kind, what in events:
        match kind, what:
            case "row", Job() as job:
                for one in (queue, model):
                    one.apply(replace(job, requires=REQUIRED[job.id % 3]))
            case "take", str(service):
                model.hold(queue.take(service, REQUIRED[len(model.held) % 3]))
            case "back", int(job_id):
                for one in (queue, model):
                    one.give_back(job_id)
    for service, limits in LIMITS.items():
        waiting = model.waiting(service)
        assert sorted(queue.requirements(service)) == sorted({job.requires for job in waiting})
        full = len(model.going(service)) >= limits.max_runs
        for requires in REQUIRED:
            able = [
                job
                for job in waiting
                if job.requires == requires and not full and not model.blocked(service, job.user_id)
            ]
            found = queue.next(service, requires)
            firsts = {min(job.id for job in able if job.user_id == one.user_id) for one in able}
            assert found in firsts if firsts else found is None
            assert set(queue.demand(service, lambda one: one == requires).first) == firsts  # noqa: B023
        counted = queue.demand(service).runnable
        taken = 0
        while any(queue.take(service, one) is not None for one in REQUIRED):
            taken += 1
        assert counted == taken


def test_a_job_that_no_node_can_run_holds_nobody_up() -> None:
    queue = QueueManager(LIMITS)
    queue.apply(replace(row(1), requires="gpu"))
    queue.apply(row(2))
    queue.apply(row(3, user=2))
    assert queue.next("a", "gpu") == 1 and queue.next("a") == 2
    assert queue.take("a") == 2
    assert list(queue.requirements("a")) == ["gpu", ""], "the one served longest ago first"
    why = queue.explain_wait(replace(row(1), requires="gpu"), free_slots=False, any_node=False)
    assert why is not None and why.reason is WaitReason.NO_NODE
    assert why.message == "waits for a node of service a that has gpu"


def test_a_paused_service_asks_for_nothing() -> None:
    queue = QueueManager(LIMITS)
    queue.apply(row(1))
    assert queue.demand("a") == Demand(1, (1,), 0)
    queue.set_pauses({"a": "maintenance"})
    assert queue.demand("a") == Demand(0, (), 0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_with_k_users_each_is_served_within_k_turns(users: list[int]) -> None:
    queue = QueueManager(WIDE)
    left: dict[int, list[int]] = {}
    for job_id, user in enumerate(users, 1):
        queue.apply(row(job_id, user))
        left.setdefault(user, []).append(job_id)
    waited = dict.fromkeys(left, 0)
    for _ in users:
        job_id = queue.take("a")
        assert job_id is not None
        user = users[job_id - 1]
        assert job_id == left[user].pop(0), "the oldest of a user first"
        for one in waited:
            waited[one] += 1
            assert not left[one] or waited[one] <= len(left) or one == user
        waited[user] = 0
    assert queue.next("a") is None


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.dictionaries(st.integers(0, 5), st.integers(1, 4)),
)
def test_with_weights_nobody_starves_no_slot_is_idle_and_each_has_the_share(
    users: list[int], weights: dict[int, int]
) -> None:
    """While all of them wait, each has as many turns as the weight says, in as many as all weights are."""
    queue = QueueManager({"a": replace(WIDE["a"], weights=weights)})
    for job_id, user in enumerate(users, 1):
        queue.apply(row(job_id, user))
    share = {user: weights.get(user, 1) for user in users}
    order: list[int] = []
    for _ in users:
        job_id = queue.take("a")
        assert job_id is not None, "a job may go, and there is room"
        order.append(users[job_id - 1])
    left = Counter(users)
    while all(left[user] >= share[user] for user in share):
        one_round, order = order[: sum(share.values())], order[sum(share.values()) :]
        assert Counter(one_round) == share
        left.subtract(one_round)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40))
def test_a_priority_sorts_the_jobs_of_its_user_and_delays_nobody_else(jobs: list[tuple[int, int]]) -> None:
    """Whose turn it is is the same as without."""
    rows = [replace(row(n, user), priority=priority) for n, (user, priority) in enumerate(jobs, 1)]
    plain, queue = QueueManager(WIDE), QueueManager(WIDE)
    for job in rows:
        plain.apply(replace(job, priority=0))
        queue.apply(job)
    taken: dict[int, list[tuple[int, int]]] = {}
    for _ in rows:
        mine, other = queue.take("a"), plain.take("a")
        assert mine is not None and other is not None
        job = rows[mine - 1]
        assert job.user_id == rows[other - 1].user_id
        taken.setdefault(job.user_id, []).append((-job.priority, job.id))
    assert all(line == sorted(line) for line in taken.values())
    assert queue.take("a") is None


def test_what_was_taken_back_is_where_its_priority_has_it() -> None:
    queue = QueueManager(WIDE)
    for job_id, priority in ((1, 0), (2, 100), (3, 50)):
        queue.apply(replace(row(job_id), priority=priority))
    assert queue.take("a") == 2
    queue.give_back(2)
    assert [queue.take("a") for _ in range(4)] == [2, 3, 1, None]
    assert [job_of(order_of(MAX_ID, priority)) for priority in (0, MOST_PRIORITY)] == [MAX_ID, MAX_ID]


def test_no_quota_is_larger_for_a_weight() -> None:
    queue = QueueManager({"a": replace(LIMITS["a"], weights={1: 100})})
    for job_id in range(1, 9):
        queue.apply(row(job_id, user=1 + (job_id > 6)))
    assert [queue.take("a") for _ in range(5)] == [1, 2, 7, 8, None]


def test_a_flood_of_one_user_does_not_delay_another() -> None:
    queue = QueueManager(WIDE)
    for job_id in range(1, 1001):
        queue.apply(row(job_id, user=1))
    assert queue.take("a") == 1
    queue.apply(row(1001, user=2))
    assert queue.take("a") == 2
    assert queue.next("a") == 1001


def test_the_service_that_was_served_longest_ago_is_named_first() -> None:
    """Services may share nodes: a slot that comes free must not always be offered to the same one first."""
    queue = QueueManager(LIMITS)
    for job_id in range(1, 9):
        queue.apply(row(job_id, user=job_id, service="ab"[job_id % 2]))
    order = []
    for _ in range(4):
        service = queue.services()[0]
        assert queue.take(service) is not None
        order.append(service)
    assert order == ["a", "b", "a", "b"]


def test_a_job_that_never_waited_here_was_a_turn_of_its_service() -> None:
    """As one that came with its first attempt, of which its row tells that it is being sent."""
    queue = QueueManager({name: ServiceLimits(name, 10, 10) for name in "ab"})
    queue.apply(row(1, service="a", status=S.PROCESSING))
    for job_id, service in ((2, "a"), (3, "b")):
        queue.apply(row(job_id, service=service))
    assert queue.services() == ["b", "a"]


def test_it_is_empty_while_no_job_waits() -> None:
    queue = QueueManager(LIMITS)
    assert queue.is_empty()
    queue.apply(row(1))
    assert not queue.is_empty()
    assert queue.take("a") == 1 and queue.is_empty()
    queue.give_back(1)
    assert not queue.is_empty()
    queue.apply(row(1, status=S.KILLED))
    assert queue.is_empty()


def test_a_requeued_job_is_its_users_next_again() -> None:
    queue = QueueManager(LIMITS)
    for job_id in (1, 2, 3):
        queue.apply(row(job_id))
    queue.apply(row(1, status=S.PROCESSING, seq=10))
    assert queue.next("a") == 2
    queue.apply(row(1, status=S.QUEUED, seq=11))
    assert queue.next("a") == 1


def test_a_held_job_counts_until_its_row_says_more() -> None:
    queue = QueueManager({"a": ServiceLimits("a", runs_per_user=1)})
    queue.apply(row(1))
    queue.apply(row(2))
    assert queue.take("a") == 1
    assert queue.next("a") is None and queue.take("a") is None
    queue.give_back(1)
    queue.give_back(1)
    assert queue.take("a") == 1
    queue.apply(row(1, status=S.PROCESSING, seq=10))
    assert queue.next("a") is None
    queue.apply(row(1, status=S.COMPLETED, seq=11))
    assert queue.next("a") == 2, "nobody had to take the hold back"
    queue.give_back(99)


def test_a_verdict_frees_the_quota_before_the_results_are_here() -> None:
    queue = QueueManager({"a": ServiceLimits("a", runs_per_user=1)})
    queue.apply(row(1, status=S.RUNNING))
    queue.apply(row(2))
    assert queue.next("a") is None
    queue.apply(replace(row(1, status=S.RUNNING, seq=10), end=END))
    assert queue.next("a") == 2


def test_a_job_ordered_to_end_is_never_offered() -> None:
    queue = QueueManager(LIMITS)
    queue.apply(row(1))
    queue.apply(row(2))
    queue.apply(replace(row(1, seq=10), terminate_requested=True))
    assert queue.next("a") == 2
    assert queue.explain_wait(row(1), free_slots=True, any_node=True) is None


def test_of_what_is_over_nothing_is_kept() -> None:
    queue = QueueManager(LIMITS)
    queue.set_pauses({"a": "x"})
    for user in range(3):
        queue.apply(row(1000 + user, user=user))
    for job_id in range(1, 500):
        queue.apply(row(job_id, user=job_id % 3))
        for seq, status in enumerate((S.PROCESSING, S.QUEUED, S.KILLED)):
            queue.apply(row(job_id, user=job_id % 3, status=status, seq=1000 + seq))
    room = queue._services["a"]
    assert len(room.rings[""]._heap) < 100
    for user in range(3):
        queue.apply(row(1000 + user, user=user, status=S.KILLED, seq=5000 + user))
    assert not queue._going and not room.rings and not room.users_going
    assert S.KILLED in OVER


@pytest.mark.parametrize(
    ("free_slots", "any_node", "reason", "message"),
    [
        (True, True, WaitReason.SLOT, "waits for its turn; it goes next"),
        (False, True, WaitReason.SLOT, "waits for a free slot; it goes next"),
        (False, False, WaitReason.NO_NODE, "waits for a node of service a"),
    ],
)
def test_a_job_within_quota_waits_for_a_slot_or_a_node(
    free_slots: bool, any_node: bool, reason: WaitReason, message: str
) -> None:
    queue = QueueManager(LIMITS)
    queue.apply(row(1))
    why = queue.explain_wait(row(1), free_slots=free_slots, any_node=any_node)
    assert why is not None
    assert (why.reason, why.message, why.position) == (reason, message, 0)


def test_quotas_are_named_with_their_numbers() -> None:
    queue = QueueManager({"a": ServiceLimits("a", runs_per_user=2, max_runs=3)})
    for job_id in (1, 2):
        queue.apply(row(job_id, user=7, status=S.RUNNING))
    for job_id in (3, 4, 5):
        queue.apply(row(job_id, user=7))
    queue.apply(row(6, user=8))
    why = queue.explain_wait(row(4, user=7), free_slots=True, any_node=True)
    assert why is not None
    assert why.reason is WaitReason.USER_QUOTA
    assert why.message == "waits: user 7 already runs 2 of 2 jobs of service a"
    assert why.position == 2
    queue.apply(row(7, user=9, status=S.RUNNING))
    why = queue.explain_wait(row(6, user=8), free_slots=True, any_node=True)
    assert why is not None
    assert why.reason is WaitReason.SERVICE_QUOTA
    assert why.message == "waits: service a already runs 3 of 3 jobs; it goes next"
    assert queue.explain_wait(row(1, user=7), free_slots=True, any_node=True) is None
    for job_id, user in ((8, 7), (9, 8)):
        job = replace(row(job_id, user=user), requires="gpu")
        queue.apply(job)
        why = queue.explain_wait(job, free_slots=False, any_node=False)
        assert why is not None and why.message == "waits for a node of service a that has gpu", "at any quota"


def test_a_paused_service_offers_nothing_and_says_why() -> None:
    queue = QueueManager(LIMITS)
    queue.apply(row(1))
    queue.set_pauses({"a": "maintenance until noon"})
    assert queue.next("a") is None
    why = queue.explain_wait(row(1), free_slots=True, any_node=True)
    assert why is not None
    assert why.reason is WaitReason.PAUSED
    assert why.message == "waits: service a is paused: maintenance until noon"
    queue.set_pauses({})
    assert queue.next("a") == 1


def test_jobs_of_a_service_that_is_gone_are_listed_and_not_offered() -> None:
    queue = QueueManager(LIMITS)
    queue.apply(row(1, service="gone"))
    assert queue.services() == ["gone"]
    assert queue.next("gone") is None
    why = queue.explain_wait(row(1, service="gone"), free_slots=False, any_node=False)
    assert why is not None
    assert why.message == "waits: there is no service gone any more; ask the operator"


def test_other_quotas_hold_from_the_next_decision_on() -> None:
    """Those who were at the old one are offered again, and what is above the new one goes on."""
    queue = QueueManager(LIMITS)
    for job_id in range(1, 9):
        queue.apply(row(job_id))
    assert [queue.take("a") for _ in range(3)] == [1, 2, None]
    queue.set_limits({"a": ServiceLimits("a", runs_per_user=4, max_runs=5)})
    assert [queue.take("a") for _ in range(3)] == [3, 4, None]
    queue.set_limits({"a": ServiceLimits("a", runs_per_user=1, max_runs=5)})
    for job_id in range(1, 4):
        assert queue.next("a") is None
        queue.apply(row(job_id, status=S.COMPLETED))
        queue.give_back(job_id)


def test_jobs_of_a_service_that_goes_wait_and_go_on_when_it_is_back() -> None:
    queue = QueueManager(LIMITS)
    queue.apply(row(1))
    queue.apply(row(2))
    assert queue.take("a") == 1
    queue.set_limits({"b": LIMITS["b"]})
    assert queue.next("a") is None
    why = queue.explain_wait(row(2), free_slots=True, any_node=True)
    assert why is not None and why.message == "waits: there is no service a any more; ask the operator"
    assert queue.demand("a") == Demand(0, (), 1)
    queue.set_limits(LIMITS)
    assert queue.next("a") == 2


def test_the_largest_parts_of_the_queue_are_told_by_service_and_requirement() -> None:
    queue = QueueManager(LIMITS)
    for number, (service, requires) in enumerate([("a", ""), ("b", "gpu"), ("b", "gpu"), ("a", "ssd")], 1):
        queue.enter(service, requires, number % 2, number)
    assert queue.backlog(2) == [Backlog("b", "gpu", 2), Backlog("a", "", 1)]
    assert queue.take("b", "gpu") is not None
    assert queue.backlog(9) == [Backlog("a", "", 1), Backlog("a", "ssd", 1), Backlog("b", "gpu", 1)]
    assert QueueManager(LIMITS).backlog(9) == []


def test_it_says_of_which_services_jobs_wait_for_nothing_but_a_slot() -> None:
    queue = QueueManager(LIMITS)
    queue.enter("a", "gpu", 1, 1)
    queue.enter("a", "", 2, 2)
    queue.enter("b", "", 1, 3)
    queue.enter("gone", "", 1, 4)
    assert queue.waiting() == [("a", "gpu"), ("a", ""), ("b", "")]
    queue.set_pauses({"b": "maintenance"})
    for job_id in (5, 6):
        queue.apply(row(job_id, status=S.PROCESSING))
    assert queue.waiting() == [("a", "")], "the other user is at the quota"


def test_a_job_that_is_not_stored_yet_may_go_where_nothing_waits_and_the_quotas_have_room() -> None:
    queue = QueueManager(LIMITS)
    assert queue.admits("a", 1) and not queue.admits("gone", 1)
    queue.set_pauses({"a": "maintenance"})
    assert not queue.admits("a", 1) and queue.admits("b", 1)
    queue.set_pauses({})
    queue.apply(replace(row(1), requires="gpu"))
    assert not queue.admits("a", 2) and queue.admits("b", 2), "one waits that might go first"
    queue.apply(replace(row(1, status=S.PROCESSING, seq=2), requires="gpu"))
    assert queue.admits("a", 1)
    queue.apply(row(2, status=S.PROCESSING))
    assert not queue.admits("a", 1) and queue.admits("a", 2), "its user's quota"
    for job_id in (3, 4, 5):
        queue.apply(row(job_id, user=job_id, status=S.PROCESSING))
    assert not queue.admits("a", 2), "the service's quota"


def test_a_reserved_place_counts_until_its_row_does_or_it_is_given_back() -> None:
    queue = QueueManager(LIMITS)
    for _ in range(2):
        queue.reserve("one", "a", 1)
    queue.reserve("two", "a", 1)
    assert queue.going("a") == 2 and not queue.admits("a", 1)
    queue.apply(row(1))
    assert queue.next("a") is None, "its user is at the quota"
    queue.unreserve("one")
    assert queue.next("a") == 1
    for _ in range(2):
        queue.unreserve("two")
    queue.apply(row(2, status=S.PROCESSING))
    assert queue.going("a") == 1
    assert queue.next("a") == 1, "and its place is free for who waits"


def test_who_had_a_turn_for_nothing_has_it_again_in_the_old_place() -> None:
    queue = QueueManager(WIDE)

    def goes(job_id: int, user: int, seq: int) -> None:
        for status, used in ((S.PROCESSING, 0), (S.SUBMITTED, 1)):
            seq += 1
            queue.apply(replace(row(job_id, user, status=status, seq=seq), attempts_used=used))

    def comes_back(job_id: int, user: int, seq: int, used: int = 0) -> None:
        queue.apply(replace(row(job_id, user, seq=seq), attempts_used=used))

    goes(1, 1, 10)  # it never waited
    for job_id, user in ((2, 2), (3, 2), (4, 3), (5, 4)):
        queue.apply(row(job_id, user))
    assert [queue.take("a") for _ in range(3)] == [2, 4, 5]
    for seq, (job_id, user) in ((50, (2, 2)), (60, (4, 3)), (70, (5, 4))):
        goes(job_id, user, seq)
    queue.apply(row(6, 5))
    waiting = {3: 2, 6: 5}

    def order() -> list[int]:
        positions = {}
        for job_id, user in waiting.items():
            why = queue.explain_wait(row(job_id, user), free_slots=False, any_node=True)
            assert why is not None
            positions[why.position] = job_id
        return [positions[place] for place in sorted(positions)]

    assert order() == [3, 6]
    comes_back(4, 3, 80)
    waiting[4] = 3
    assert order() == [4, 3, 6]
    comes_back(2, 2, 90)
    waiting[2] = 2
    assert order() == [2, 3, 4, 6], "and the turn of the user's other job"
    comes_back(1, 1, 100)
    waiting[1] = 1
    comes_back(5, 4, 110, used=1)  # it may have run there
    waiting[5] = 4
    assert order() == [1, 2, 3, 4, 6, 5]
    assert [queue.take("a") for _ in waiting] == [1, 2, 3, 4, 6, 5]
