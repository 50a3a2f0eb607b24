"""Who joined and who drains, kept in a real ledger and told to who owns the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from support.data.ledgers import SetClock, by_owner, new_job, open_ledger, walk
from support.processes.api_server import Owner

from actors.domain.changes import MoveAttempt
from actors.domain.job import Attempt, AttemptState
from actors.domain.node import JoinedNode, NodeAddress, NodeRef, NodeState, NodeView
from actors.domain.status import Status
from actors.kernel.actor import ActorError, Mailbox
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.nodes.registry import FORGOTTEN_AFTER, NodeRegistry

ID, OTHER = "a" * 32, "b" * 32
NODE = JoinedNode(ID, "http://a:1", ("example",), 2)
STATIC = NodeAddress("http://static:9000", ("example",))


def view(node_id: str = ID, **more: object) -> NodeView:
    whole = {"contact": NodeState.READY, "joined": True, **more}
    return NodeView(NodeRef(node_id, ""), NodeState.READY, "", ("example",), 2, 0, 0, 0.0, **whole)  # type: ignore[arg-type]  # by name


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    async with open_ledger(tmp_path / "db") as opened:
        yield opened


async def load(ledger: SqliteLedger, *views: NodeView) -> NodeRegistry:
    return await NodeRegistry.load(ledger, SetClock(), Owner(list(views)), (STATIC,))


def pool_shows(registry: NodeRegistry, *views: NodeView) -> None:
    registry._sender = Owner(list(views))


async def test_a_restart_finds_who_joined_and_what_drains(ledger: SqliteLedger) -> None:
    registry = await load(ledger, view())
    assert await registry.join(NODE)
    assert await registry.drain(ID, "new kernel")
    again = await load(ledger, view())
    assert [address.url for address in again.addresses()] == ["http://static:9000", "http://a:1"]
    assert [(one.node_id, one.draining) for one in again.members()] == [(ID, "new kernel")]
    assert again.drains() == {ID: "new kernel"}


async def test_each_change_makes_new_tuples_and_nothing_else_does(ledger: SqliteLedger) -> None:
    registry = await load(ledger, view())
    before = registry.addresses()
    await registry.join(NODE)
    joined = registry.addresses()
    assert joined is not before and registry.addresses() is joined
    assert registry.heard(NODE) and registry.addresses() is joined
    assert not registry.heard(JoinedNode(ID, "http://b:1", ("example",), 2))
    await registry.leave(ID)
    assert registry.addresses() == before


async def test_a_node_of_the_settings_that_joins_too_is_followed_once(ledger: SqliteLedger) -> None:
    registry = await load(ledger)
    await registry.join(JoinedNode(ID, STATIC.url, ("example",)))
    assert registry.addresses() == (STATIC,)
    assert [one.node_id for one in registry.members()] == [ID]


async def test_the_drain_by_scaling_ends_with_the_node_an_operator_s_does_not(ledger: SqliteLedger) -> None:
    registry = await load(ledger, view(), view(OTHER))
    other = JoinedNode(OTHER, "http://b:1", ("example",))
    for node in (NODE, other):
        await registry.join(node)
    await registry.drain(ID, "scaling: idle for 300 s")
    await registry.drain(OTHER, "new disk")
    for node in (NODE, other):
        await registry.leave(node.node_id)
        await registry.join(node)
    assert await ledger.drains() == {OTHER: "new disk"}
    assert [one.draining for one in registry.members()] == [None, "new disk"]


async def test_scaling_lifts_its_own_drains_only(ledger: SqliteLedger) -> None:
    registry = await load(ledger, view())
    await registry.join(NODE)
    assert await registry.drain(ID, "scaling: idle for 300 s")
    assert await registry.undrain(ID, by_scaling=True)
    assert await ledger.drains() == {}
    await registry.drain(ID, "scaling: idle for 300 s")
    await registry.drain(ID, "new kernel")
    await registry.drain(ID, "scaling: idle for 600 s")
    assert await ledger.drains() == {ID: "new kernel"}
    assert not await registry.undrain(ID, by_scaling=True)
    assert await registry.undrain(ID)


async def test_a_drain_of_an_unknown_node_is_not_kept(ledger: SqliteLedger) -> None:
    registry = await load(ledger)
    assert not await registry.drain(ID, "new kernel")
    assert not await registry.undrain(ID)
    assert await ledger.drains() == {}


async def test_without_an_owner_of_the_pool_an_order_is_refused(ledger: SqliteLedger) -> None:
    registry = await NodeRegistry.load(ledger, SetClock(), Mailbox("sender", size=0), ())
    with pytest.raises(ActorError):
        await registry.drain(ID, "scaling: idle")


async def test_a_silent_node_of_which_nothing_is_wanted_is_forgotten(
    mock_clock: trio.testing.MockClock, ledger: SqliteLedger
) -> None:
    registry = await load(ledger, view())
    await registry.join(NODE)
    await registry.sweep()
    assert registry.members()
    mock_clock.jump(FORGOTTEN_AFTER + 1)
    pool_shows(registry, view(heard_at=trio.current_time()))
    await registry.sweep()
    assert registry.members(), "it was heard just now"
    pool_shows(registry, view())
    await registry.sweep()
    assert not registry.members() and not await ledger.nodes()


async def test_nothing_is_owed_to_a_machine_that_has_ended(ledger: SqliteLedger) -> None:
    registry = await load(ledger, view(machine="c" * 32, contact=NodeState.LOST))
    await registry.join(JoinedNode(ID, "http://a:1", ("example",), machine="c" * 32))
    job = await ledger.insert(new_job())
    attempt = Attempt("d" * 32, job.id, 1, ID)
    move = by_owner(job.id, Status.QUEUED, Status.PROCESSING, "sent", attempt=attempt)
    back = by_owner(
        job.id, Status.PROCESSING, Status.QUEUED, "lost", key=attempt.key, attempt_state=AttemptState.GIVEN_UP
    )
    await ledger.record([move, back])
    assert [one.key for one in await ledger.unreleased()] == [attempt.key]
    await registry.sweep()
    assert not registry.members() and not await ledger.unreleased()


async def test_who_is_at_an_address_that_the_settings_name_no_more_is_followed_for_what_is_there(
    ledger: SqliteLedger,
) -> None:
    registry = await load(ledger, replace(view("node-a"), node=NodeRef("node-a", STATIC.url)))
    steps = (Status.PROCESSING, Status.SUBMITTED, Status.RUNNING)
    job = await walk(ledger, await ledger.insert(new_job()), *steps)
    other = NodeAddress("http://other:9000", ("example",))
    await registry.set_static([other])
    await registry.sweep()
    assert registry.addresses() == (other, STATIC), "a job runs there"
    await registry.set_static([other, STATIC])
    assert registry.addresses() == (other, STATIC)
    await registry.set_static([other])
    await walk(ledger, job, Status.COMPLETED)
    assert job.attempt is not None
    await ledger.record([MoveAttempt(job.attempt.key, AttemptState.RELEASED)])
    await registry.sweep()
    assert registry.addresses() == (other,)


async def test_where_nobody_was_nobody_is_followed(ledger: SqliteLedger) -> None:
    registry = await load(ledger)
    await registry.set_static([])
    assert registry.addresses() == ()
