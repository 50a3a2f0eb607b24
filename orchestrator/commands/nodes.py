"""`nodes`, `services`, `drain`, `undrain`, `pause` and `resume`: what jobs run on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from actors.domain.phrases import name_some
from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection
from orchestrator.commands.console.arguments import node_id, shown_names
from orchestrator.commands.console.job_row import UNDER_WAY
from orchestrator.commands.console.output import emit_one, pluralize, size, tell
from orchestrator.commands.console.tables import emit_list, emit_table

if TYPE_CHECKING:
    from orchestrator.client import Node, Service

DRAINED: Final = "drained"
NAMED: Final = 5
"""Nodes that a line names before it counts the rest."""


@click.command("nodes", context_settings=HELP)
@as_json
@pass_connection
def nodes_command(connection: Connection, *, json_wanted: bool) -> None:
    """List the nodes: whether they answer, how busy they are, and why one gets no jobs."""
    with connection.client() as client:
        found = client.nodes()
    headings = ("NODE", "STATUS", "SERVICES", "SLOTS", "JOBS", "OTHERS", "LOAD", "DISK", "MESSAGE")
    if sys.stdout.isatty() and not json_wanted:
        # There the beginning of an id is enough to tell a node without a name by, and room is short.
        names = shown_names(found)
        emit_table(headings, [(name, *_cells(node)) for name, node in zip(names, found, strict=True)])
    else:
        emit_list(
            found,
            (*headings, "ID", "URL"),
            lambda node: (node.name, *_cells(node), node.id, node.url),
            json_wanted=json_wanted,
        )
    if not json_wanted:
        for line in tell_executors(found):
            tell(line)


def tell_executors(found: Sequence[Node]) -> Iterator[str]:
    """What scripts are kept from, once for all nodes that say the same."""
    alike: dict[tuple[str, str], list[str]] = {}
    for node in found:
        if node.executor is not None:
            alike.setdefault((node.executor, node.executor_limits or ""), []).append(node.name)
    for (executor, limits), names in alike.items():
        yield f"{name_some(names, NAMED)}: scripts run in {executor}: {limits}"


def _cells(node: Node) -> tuple[object, ...]:
    return (
        node.status,
        ",".join(node.services),
        "any" if node.slots is None else node.slots,
        node.held,
        node.others,
        f"{node.load:.0f}%",
        size(node.free_disk_bytes),
        node.message if node.draining is None else f"{_standing(node)}: {node.draining}",
    )


def _standing(node: Node) -> str:
    return node.status if node.status in ("draining", "drained") else "draining"


@click.command("services", context_settings=HELP)
@as_json
@pass_connection
def services_command(connection: Connection, *, json_wanted: bool) -> None:
    """List the services: their quotas, and how many of their jobs wait, are under way and have ended."""
    headings = ("NAME", "STATUS", "QUEUED", "UNDER WAY", "MOST", "PER USER", "COMPLETED", "FAILED")
    with connection.client() as client:
        emit_list(client.services(), headings, _service_row, json_wanted=json_wanted)


def _service_row(service: Service) -> Sequence[object]:
    def count(*statuses: str) -> int:
        return sum(service.jobs.get(status, 0) for status in statuses)

    status = "paused" if service.paused else "open"
    quotas = (service.max_runs, service.runs_per_user)
    ended = (count("Completed"), count("Failed", "Invalid"))
    return (service.name, status, count("Queued"), count(*UNDER_WAY), *quotas, *ended)


@click.command("drain", context_settings=HELP)
@click.argument("node")
@click.option("--reason", metavar="TEXT", help="What people are told who ask why it gets no jobs.")
@click.option("--wait", is_flag=True, help="Wait until none of its jobs is there any more.")
@as_json
@pass_connection
def drain_command(
    connection: Connection, *, node: str, reason: str | None, wait: bool, json_wanted: bool
) -> None:
    """Give a node no new jobs; those on it go on.

    NODE is its name, its id, the beginning of it, or its URL."""
    with connection.client() as client:
        found = client.drain(node_id(client, node), reason)
    if wait and found.status != DRAINED:
        tell(f"node {found.name} gets no new jobs; waiting for {pluralize(found.held, 'job')} on it")
        # Late: it needs Trio.
        from orchestrator.commands.watch import watch_node

        found = watch_node(connection, found, until=is_empty)
    gets = "is drained" if found.status == DRAINED else f"gets no new jobs; it has {found.held}"
    emit_one(found, f"node {found.name} {gets}", json_wanted=json_wanted)


def is_empty(node: Node) -> bool:
    """Whether nothing keeps a node that is draining any more: it is drained, or lost with all that it had.
    Raises BadInput if somebody has given it jobs again."""
    from orchestrator.client import BadInput

    if node.draining is None:
        raise BadInput(f"node {node.name} gets jobs again: somebody has undrained it meanwhile")
    return node.status == DRAINED or (node.status == "lost" and not node.held)


@click.command("undrain", context_settings=HELP)
@click.argument("node")
@as_json
@pass_connection
def undrain_command(connection: Connection, *, node: str, json_wanted: bool) -> None:
    """Give a drained node jobs again. NODE is its name, its id, the beginning of it, or its URL."""
    with connection.client() as client:
        found = client.undrain(node_id(client, node))
    emit_one(found, f"node {found.name} gets jobs again", json_wanted=json_wanted)


@click.command("unpair", context_settings=HELP)
@click.argument("node")
@pass_connection
def unpair_command(connection: Connection, *, node: str) -> None:
    """Forget the secret with a node that has lost its own; it may agree on another. NODE is its whole id."""
    with connection.client() as client:
        client.unpair(node)
    tell(f"the secret with node {node} is forgotten; who has this id next may agree on another")


@click.command("pause", context_settings=HELP)
@click.argument("service")
@click.option("--reason", metavar="TEXT", help="What people are told whose jobs wait.")
@as_json
@pass_connection
def pause_command(connection: Connection, *, service: str, reason: str | None, json_wanted: bool) -> None:
    """Begin no more jobs of a service; those under way go on, new ones are taken and wait."""
    with connection.client() as client:
        found = client.pause(service, reason)
    emit_one(found, f"service {found.name} is paused; waiting: {_waiting(found)}", json_wanted=json_wanted)


@click.command("resume", context_settings=HELP)
@click.argument("service")
@as_json
@pass_connection
def resume_command(connection: Connection, *, service: str, json_wanted: bool) -> None:
    """Begin the jobs of a paused service again."""
    with connection.client() as client:
        found = client.resume(service)
    text = f"service {found.name} begins jobs again; waiting: {_waiting(found)}"
    emit_one(found, text, json_wanted=json_wanted)


def _waiting(service: Service) -> str:
    return pluralize(service.jobs.get("Queued", 0), "job")
