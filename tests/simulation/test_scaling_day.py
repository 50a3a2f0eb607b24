"""A short day of auto-scaling in virtual time, on the real AutoScaler, policy, queue manager and pool."""

from __future__ import annotations

from dataclasses import replace

from testbed.scaling.arrivals import Shape, arrivals
from testbed.scaling.day import Cloud, scaled
from testbed.scaling.line import SERVICE
from testbed.scaling.standing import fixed, oracle
from testbed.scaling.table import table, verdict

from actors.domain.scaling import ScalingLimits

HOURS = 3600.0
SHAPE = Shape(
    tide=1_500,
    bursts=4,
    burst_jobs=40,
    crowd=1_500,
    crowd_at=2 * HOURS,
    crowd_for=300.0,
    users=100,
    length=4 * HOURS,
)
LIMITS = ScalingLimits(SERVICE, max_nodes=40)
BOOT = 90.0


def test_a_crowd_waits_and_costs_little_more_than_if_it_had_been_known() -> None:
    jobs = arrivals(SHAPE, 7)
    ours, records = scaled(jobs, LIMITS, quota=50, cloud=Cloud(boot_seconds=BOOT), look_every=2.0)
    best = oracle(jobs, LIMITS.max_nodes, slots=1, quota=50, boot_seconds=BOOT)
    told = verdict(ours, best, SHAPE, BOOT)
    assert told.good, str(told)
    assert not told.foreseen
    assert min(ours.waits) >= 0.0, "every job has run"
    assert max(nodes for _, _, nodes, _ in ours.samples) <= LIMITS.max_nodes
    assert ours.samples[-1][2] == 0, "all is let go in the end"
    assert {one.action for one in records.noted} >= {"create", "drain", "terminate"}
    assert "scaled" in table([ours, best])


def test_the_same_day_is_the_same_decisions() -> None:
    hour = replace(SHAPE, tide=300, crowd=200, crowd_at=0.5 * HOURS, length=HOURS)
    jobs = arrivals(hour, 3)
    runs = [scaled(jobs, LIMITS, quota=50, cloud=Cloud(), look_every=2.0) for _ in range(2)]
    assert runs[0][0].spans == runs[1][0].spans
    assert runs[0][1].noted == runs[1][1].noted


def test_with_too_few_boots_at_once_the_crowd_waits_longer_than_asked() -> None:
    """That the measure can fail; an hour around the crowd is enough for that."""
    around = replace(SHAPE, tide=300, bursts=1, crowd_at=0.5 * HOURS, length=1.5 * HOURS)
    jobs = arrivals(around, 7)
    slow = replace(LIMITS, max_booting=1)
    ours, _ = scaled(jobs, slow, quota=50, cloud=Cloud(boot_seconds=BOOT), look_every=2.0)
    best = oracle(jobs, slow.max_nodes, slots=1, quota=50, boot_seconds=BOOT)
    assert not verdict(ours, best, around, BOOT).good


def test_nobody_waits_less_than_under_the_oracle_which_pays_least() -> None:
    jobs = arrivals(SHAPE, 5)
    best = oracle(jobs, 40, slots=1, quota=50, boot_seconds=BOOT)
    whole = fixed(jobs, 40, slots=1, quota=50, name="all")
    assert best.waits == whole.waits
    assert best.node_hours() < 0.5 * whole.node_hours()
    work = sum(job.seconds for job in jobs) / 3600
    assert work < best.node_hours()
