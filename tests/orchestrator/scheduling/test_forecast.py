"""What is said of when a job begins, whatever the queue: never the past, in the order of turns, and nothing
where nobody can know."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.domain.job import Attempt, Job, QueuedJobs
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.queue_excerpt import ForecastView
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from orchestrator.scheduling.forecast import THIN, Forecast, ServiceHistory
from orchestrator.scheduling.queue_manager import QueueManager

NOW = 1_000_000.0
LIMITS = {"a": ServiceLimits("a", runs_per_user=2, max_runs=5), "b": ServiceLimits("b", 1, 3)}
RUNS = ServiceHistory(holds=tuple((n % 3, 10.0 + n) for n in range(20)))
HISTORIES = {"a": RUNS, "b": RUNS}


def node(name: str = "n", slots: int | None = 2, held: int = 0, waiting: int = 0, **labels: str) -> NodeView:
    ref = NodeRef(name, "")
    return NodeView(ref, NodeState.READY, "", ("a", "b"), slots, held, 0, 0.0, labels=labels, waiting=waiting)


def filled(waiting: Mapping[int, int], service: str = "a", requires: str = "") -> QueueManager:
    """A queue in which each user has so many jobs: ids are user * 1000 and on."""
    queue = QueueManager(LIMITS)
    queue.fill(
        [
            QueuedJobs(service, requires, user, array("q", range(1000 * user, 1000 * user + jobs)))
            for user, jobs in waiting.items()
        ]
    )
    return queue


def running(queue: QueueManager, job_id: int, user: int, since: float, on: str = "n") -> None:
    attempt = Attempt(f"k{job_id}", job_id, 1, on)
    row = Job(job_id, user, "a", Status.RUNNING, "", 1, 0.0, since, "k", attempt=attempt, running_since=since)
    queue.apply(row)


def forecast(
    queue: QueueManager,
    nodes: Sequence[NodeView],
    histories: Mapping[str, ServiceHistory] = HISTORIES,
    most: int = 500,
    seed: int = 0,
) -> Forecast:
    view = ForecastView(queue.excerpt(set(LIMITS), most), nodes)
    made = Forecast(view, LIMITS, histories, NOW, random.Random(seed))
    while made.draw():
        pass
    return made


@settings(max_examples=15)
@given(
    waiting=st.dictionaries(st.integers(1, 6), st.integers(1, 12), min_size=1, max_size=5),
    going=st.lists(st.tuples(st.integers(1, 6), st.floats(0, 200)), max_size=4),
    slots=st.integers(1, 4),
    runs=st.lists(st.tuples(st.integers(1, 6), st.floats(0, 1e5)), min_size=THIN, max_size=30),
    arrivals=st.lists(st.tuples(st.floats(0, 600), st.integers(1, 9), st.just("")), max_size=6),
    most=st.integers(1, 60),
    tail=st.floats(-0.25, 0.25),
    seed=st.integers(0, 5),
)
def test_ranges_are_in_the_order_of_time_and_of_turns(
    *,
    waiting: dict[int, int],
    going: list[tuple[int, float]],
    slots: int,
    runs: list[tuple[int, float]],
    arrivals: list[tuple[float, int, str]],
    most: int,
    tail: float,
    seed: int,
) -> None:
    queue = filled(waiting)
    for n, (user, elapsed) in enumerate(going[:slots]):
        running(queue, n, user, NOW - elapsed)
    tails = (tail, tail)
    history = {"a": ServiceHistory(runs, (), sorted(arrivals, reverse=True), 600.0, tails)}
    made = forecast(queue, [node(slots=slots, held=len(going[:slots]))], history, most, seed)
    for user, jobs in waiting.items():
        before = None
        for job_id in range(1000 * user, 1000 * user + jobs):
            begins = made.queued(job_id, "a", "").begins
            ends = made.queued(job_id, "a", "").ends
            assert begins is not None and ends is not None
            assert begins.earliest >= NOW
            assert ends.earliest >= begins.earliest
            if begins.latest is not None:
                assert begins.latest >= begins.earliest
            if ends.latest is not None:
                assert ends.latest >= ends.earliest and begins.latest is not None
                assert ends.latest >= begins.latest
            if before is not None:
                assert begins.earliest >= before.earliest, "a user's jobs go in order"
                if begins.latest is not None:
                    assert before.latest is not None and begins.latest >= before.latest
            before = begins
    for n in range(len(going[:slots])):
        ends = made.going(n, "a").ends
        assert ends is not None and ends.latest is not None
        assert NOW <= ends.earliest <= ends.latest


def test_the_first_begins_now_where_a_slot_is_free() -> None:
    made = forecast(filled({1: 1}), [node()])
    begins = made.queued(1000, "a", "").begins
    assert begins is not None
    assert (begins.earliest, begins.latest) == (NOW, NOW)


def test_who_waits_behind_what_went_ahead_begins_after_that() -> None:
    queue = filled({3: 1})
    running(queue, 1, 1, NOW - 90.0)
    running(queue, 2, 2, NOW - 40.0)
    always = {"a": ServiceHistory(holds=tuple((1, 100.0) for _ in range(300)))}
    begins = forecast(queue, [node(slots=1, held=1, waiting=1)], always).queued(3000, "a", "").begins
    assert begins is not None and begins.earliest == pytest.approx(NOW + 60.0)


def test_who_waits_for_a_run_of_a_known_length_begins_at_its_end() -> None:
    queue = filled({2: 1})
    running(queue, 1, 1, NOW - 40.0)
    always = {"a": ServiceHistory(holds=tuple((1, 100.0) for _ in range(300)))}
    begins = forecast(queue, [node(slots=1, held=1)], always).queued(2000, "a", "").begins
    assert begins is not None
    assert begins.earliest == begins.latest == NOW + 60.0


def test_a_run_that_has_outlasted_the_short_ones_is_a_long_one() -> None:
    queue = QueueManager(LIMITS)
    running(queue, 1, 1, NOW - 50.0)
    runs = [(1, 1.0)] * 150 + [(1, 1000.0)] * 150
    ends = forecast(queue, [node(held=1)], {"a": ServiceHistory(runs)}).going(1, "a").ends
    assert ends is not None
    assert ends.earliest == NOW + 950.0


@pytest.mark.parametrize(
    ("nodes", "history", "requires", "words"),
    [
        ([node()], ServiceHistory(holds=RUNS.holds[: THIN - 1]), "", "only 4 jobs of service a ran"),
        ([], RUNS, "", "no ready node of service a is there"),
        ([node(gpu="a100")], RUNS, "gpu=h100", "no ready node of service a has gpu=h100"),
    ],
)
def test_it_says_why_nothing_is_known(
    nodes: list[NodeView], history: ServiceHistory, requires: str, words: str
) -> None:
    queue = filled({1: 1}, requires=requires)
    told = forecast(queue, nodes, {"a": history}).queued(1000, "a", requires)
    assert told.begins is None and told.ends is None
    assert words in told.unknown


def test_jobs_do_not_begin_on_slots_that_are_kept_for_another_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = [node(slots=2)]
    free = forecast(filled({1: 2}), both).queued(1001, "a", "").begins
    monkeypatch.setitem(LIMITS, "b", replace(LIMITS["b"], keep_slots=1))
    one_by_one = forecast(filled({1: 2}), both)
    assert free is not None and free.latest == NOW
    first, second = (one_by_one.queued(job_id, "a", "").begins for job_id in (1000, 1001))
    assert first is not None and first.latest == NOW
    assert second is not None and second.earliest > NOW
    monkeypatch.setitem(LIMITS, "b", replace(LIMITS["b"], keep_slots=2))
    told = forecast(filled({1: 2}), both).queued(1000, "a", "")
    assert told.unknown == "as the queue and the nodes are, its turn does not come"


def test_a_paused_service_says_so() -> None:
    queue = filled({1: 1})
    queue.set_pauses({"a": "the cluster moves"})
    assert forecast(queue, [node()]).queued(1000, "a", "").unknown == "service a is paused"


def test_a_job_that_is_too_far_behind_begins_later_than_what_was_looked_at() -> None:
    queue = filled({1: 900})
    made = forecast(queue, [node()], most=20)
    near, far = (made.queued(job_id, "a", "").begins for job_id in (1010, 1890))
    assert near is not None and near.latest is not None
    assert far is not None and far.latest is None
    assert far.earliest > near.earliest


def test_other_users_who_keep_coming_delay_the_later_jobs_of_one_who_waits() -> None:
    quiet = {"a": ServiceHistory(RUNS.holds)}
    coming = [(float(n), 100 + n, "") for n in range(900, 0, -20)]
    busy = {"a": ServiceHistory(RUNS.holds, (), coming, 900.0)}
    alone, among = (
        forecast(filled({1: 40}), [node()], history).queued(1039, "a", "").begins for history in (quiet, busy)
    )
    assert alone is not None and among is not None
    assert among.earliest > alone.earliest


def test_a_user_who_has_come_for_long_may_be_coming_now() -> None:
    coming = [(float(n), 100, "") for n in range(800, 0, -4)]
    histories = (ServiceHistory(RUNS.holds), ServiceHistory(RUNS.holds, (), coming, 900.0))
    alone, among = (
        forecast(filled({1: 9}), [node()], {"a": one}).queued(1007, "a", "").begins for one in histories
    )
    assert alone is not None and among is not None and alone.latest is not None and among.latest is not None
    assert among.latest - NOW > 1.4 * (alone.latest - NOW)


def test_a_range_that_was_too_narrow_goes_beyond_the_draws_and_one_that_was_too_wide_leaves_more_out() -> (
    None
):
    found = [
        forecast(filled({1: 30}), [node()], {"a": ServiceHistory(RUNS.holds, tails=(tail, tail))})
        .queued(1029, "a", "")
        .begins
        for tail in (-0.25, 0.0, 0.1, 0.25)
    ]
    begins = [one for one in found if one is not None]
    assert len(begins) == 4
    for wide, narrow in pairwise(begins):
        assert wide.earliest < narrow.earliest
        assert wide.latest is not None and narrow.latest is not None and wide.latest > narrow.latest


def test_services_wait_for_the_slots_that_they_share() -> None:
    alone = forecast(filled({1: 1}), [node(slots=1)]).queued(1000, "a", "").begins
    queue = filled({1: 1})
    queue.enter("b", "", 2, 1)
    shared = forecast(queue, [node(slots=1)])
    begins = [shared.queued(1000, "a", "").begins, shared.queued(1, "b", "").begins]
    assert alone is not None and alone.latest == NOW
    assert sorted(one.latest == NOW for one in begins if one is not None) == [False, True]


def test_the_excerpt_goes_on_as_the_queue_does() -> None:
    queue = filled({1: 5, 2: 3, 3: 1})
    queue.take("a")
    copy = QueueManager.of_excerpt(LIMITS, queue.excerpt({"a"}, 100))

    def run_out(one: QueueManager) -> list[int]:
        taken: list[int] = []
        while (job_id := one.take("a")) is not None:
            taken.append(job_id)
            if len(taken) > 2:
                one.end(taken[-3])
        return taken

    assert run_out(queue) == run_out(copy)
