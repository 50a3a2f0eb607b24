"""What differs between two readings of the settings."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from actors.domain.batch_request import BatchAllowance
from actors.domain.limits import JobLimits
from actors.domain.node import NodeAddress
from actors.domain.service import ServiceLimits
from orchestrator.config.changes import LIVE, find_changes, find_unmovable
from orchestrator.config.scaling import for_up
from orchestrator.config.settings import Settings

BEFORE = Settings(services={name: ServiceLimits(name) for name in ("a", "b")})


def test_what_can_change_does_and_the_rest_is_named() -> None:
    now = ServiceLimits(
        "a",
        max_runs=3,
        limits=JobLimits(memory_bytes=1 << 30),
        batch_allowed=BatchAllowance(accounts=("bio",), max_cpus=2),
        addresses=(NodeAddress("http://n"),),
    )
    read = Settings(
        port=1, db_path=Path("other"), max_queued=7, services={"a": now, "c": ServiceLimits("c")}, as_2x=True
    )
    found = find_changes(BEFORE, read)
    assert found.made == (
        "max_queued",
        "services.a.max_runs",
        "services.a.memory",
        "services.a.accounts",
        "services.a.max_cpus",
        "services.a.nodes",
        "services.b (gone)",
        "services.c (new)",
    )
    assert found.after_restart == ("port", "db_path", "open_contract")
    assert found.settings == Settings(max_queued=7, services=read.services)
    again = find_changes(found.settings, read)
    assert (again.made, again.after_restart) == ((), found.after_restart), "it is told until the restart"


def test_nothing_new_changes_nothing() -> None:
    found = find_changes(BEFORE, Settings(services=dict(BEFORE.services)))
    assert (found.made, found.after_restart, found.settings) == ((), (), BEFORE)


def test_what_changes_are_fields() -> None:
    assert {field.name for field in fields(Settings)} > LIVE


def test_a_service_that_is_scaled_stays() -> None:
    before = Settings(services=BEFORE.services, scaling={"b": for_up("b", 0, 1, 1)})
    read = Settings(services={"a": ServiceLimits("a")})
    assert find_unmovable(before, read) == ["services.b: it is scaled, so it can go with a restart only"]
    assert find_unmovable(before, BEFORE) == []
