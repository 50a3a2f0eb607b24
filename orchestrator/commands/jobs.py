"""`status`, `ls` and `queue`: how jobs stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from actors.domain.limits import LIMITS, show_limit
from actors.domain.status import SEVERAL
from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection
from orchestrator.commands.console.arguments import JOB, node_id
from orchestrator.commands.console.history_table import emit_history
from orchestrator.commands.console.job_row import (
    COLUMNS,
    UNDER_WAY,
    batch,
    expected,
    left_out,
    place,
    progress,
    row,
)
from orchestrator.commands.console.output import age, clean, emit_json, size, span
from orchestrator.commands.console.tables import emit_list
from orchestrator.contract.lists import JobOrder

if TYPE_CHECKING:
    from orchestrator.client import Client, Holder, Job

STATUSES: Final = ("Queued", *UNDER_WAY, "Completed", "Failed", "Invalid", "Killed", "Cleaned")

FEW: Final = 10
"""Changed inputs that are named."""
_CHANGES: Final = {"left_out": "left out", "not_compared": "as long as before, not compared"}

_TIME: Final = click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M"))


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a list is narrowed to."""
    for option in (
        click.option("--search", metavar="TEXT", help="Those with it in name or tags, or with this number."),
        click.option(
            "--node",
            metavar="NODE",
            help="Those on this node now: by its name, its id, the beginning of it, or its URL.",
        ),
        click.option("--tag", metavar="TAG", help="Those with this tag."),
        click.option("--name", metavar="NAME", help="Those of this name."),
        click.option("--until", type=_TIME, metavar="TIME", help="Those that came before it, in local time."),
        click.option("--ended-since", type=_TIME, metavar="TIME", help="Those that ended then or later."),
        click.option(
            "--since", type=_TIME, metavar="TIME", help="Those that came then or later: 2026-01-31T12:00."
        ),
        click.option(
            "--status",
            multiple=True,
            type=click.Choice((*STATUSES, *SEVERAL), case_sensitive=False),
            help="Those in it; given again, those in any of them. active: not over, ended: over.",
        ),
        click.option("--service", metavar="NAME", help="Those of this service."),
        click.option("--user", type=int, metavar="ID", help="Those of this user."),
    ):
        function = option(function)
    return function


@click.command("status", context_settings=HELP)
@click.argument("job_id", type=JOB, metavar="[ID]", required=False)
@as_json
@pass_connection
def status_command(connection: Connection, *, job_id: int | None, json_wanted: bool) -> None:
    """Show one job: how it stands and why, what it used, and what became of it step by step.

    Without ID: what is wrong, services, nodes and running jobs."""
    if job_id is None:
        from orchestrator.commands.top import show_all

        show_all(connection, 1, json_wanted=json_wanted)
        return
    with connection.client() as client:
        job = client.job(job_id)
        if json_wanted:
            emit_json(job.raw)
            return
        history = client.history(job_id)
        again = _rerun_of(client, job)
    for name, value in _facts(job, again):
        if value not in (None, ""):
            click.echo(f"{name:<10}{clean(value)}")
    click.echo()
    emit_history(history)


def _callback(job: Job) -> str:
    found = job.callback
    if found is None:
        return ""
    tries = f" after {found.tries} {'try' if found.tries == 1 else 'tries'}" if found.tries else ""
    following = f"; next try at {job.raw['callback']['next_at']}" if found.next_at else ""
    error = f": {found.last_error}" if found.last_error and found.status != "delivered" else ""
    return f"{found.url} {found.status.replace('_', ' ')}{tries}{error}{following}"


def _cancelled(job: Job) -> str:
    if job.cancelled is None:
        return ""
    by = f"by {job.cancelled.by} " if job.cancelled.by else ""
    return f"{by}at {job.raw['cancelled']['at']}"


def _rerun_of(client: Client, job: Job) -> str:
    """Which job it repeats, and what of its inputs is different."""
    from orchestrator.client import NotFound

    if job.rerun_of is None:
        return ""
    try:
        found = client.input_changes(job.id)
    except NotFound as error:
        return f"{job.rerun_of} (inputs cannot be compared: {error})"
    told = [f"{one.path} {_CHANGES.get(one.change, one.change)}" for one in found.items[:FEW]]
    if more := len(found.items) - len(told) + found.more:
        told.append(f"{more} more")
    return f"{job.rerun_of}: {', '.join(told) or 'the same inputs'}"


def _limit(job: Job) -> str:
    run = [f"run time {span(job.max_runtime_seconds)}"] if job.max_runtime_seconds else []
    return ", ".join(
        run
        + [
            f"{name.replace('_', ' ')} {show_limit(field, job.limits[field])}"
            for name, field in LIMITS.items()
            if field in job.limits
        ]
    )


def _asked(job: Job) -> str:
    asked = job.batch_request
    if asked is None:
        return ""
    given = ((one.name.replace("_", " "), getattr(asked, one.name)) for one in fields(asked))
    return ", ".join(f"{name} {value}" for name, value in given if value)


def _facts(job: Job, again: str) -> list[tuple[str, object]]:
    ended = "" if job.exit_code is None else f"exit code {job.exit_code}"
    if job.signal is not None:
        ended = f"signal {job.signal}"
    if job.status == "Cleaned":
        ended = ", ".join(filter(None, (job.outcome, ended)))
    return [
        ("job", job.id),
        ("status", job.status),
        ("why", job.message),
        ("cancelled", _cancelled(job)),
        ("failure", job.failure),
        ("place", None if job.position is None else f"{place(job)} in the queue"),
        ("progress", progress(job)),
        ("batch", batch(job)),
        ("name", job.name),
        ("tags", ", ".join(job.tags)),
        ("user", job.user),
        ("service", job.service),
        ("rerun of", again),
        ("created", job.raw.get("created_at")),
        ("started", job.raw.get("started_at")),
        ("begins", expected(job.starts_at)),
        ("ends", expected(job.ends_at)),
        ("estimate", None if job.no_estimate is None else f"none: {job.no_estimate}"),
        ("finished", job.raw.get("finished_at")),
        ("ended", job.raw.get("ended_at")),
        ("end", ended),
        ("ran", span(job.wall_seconds)),
        ("cpu", span(job.cpu_seconds)),
        ("memory", size(job.peak_bytes)),
        ("input", size(job.input_bytes)),
        ("output", size(job.output_bytes)),
        ("left out", left_out(job)),
        ("ignored", ", ".join(job.ignored)),
        ("requires", job.requires),
        ("limit", _limit(job)),
        ("priority", job.priority or None),
        ("asks for", _asked(job)),
        ("node", job.node_name or job.node),
        ("attempt", job.attempt),
        ("callback", _callback(job)),
    ]


@click.command("ls", context_settings=HELP)
@filters
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many, the first of them."
)
@click.option("--oldest", "oldest_first", is_flag=True, help="The oldest first.")
@click.option(
    "--order",
    type=click.Choice(get_args(JobOrder)),
    help="By user or service: those of one together, the newest of each first. [newest]",
)
@click.option("--watch", is_flag=True, help="Go on and show every change, until Ctrl-C.")
@as_json
@pass_connection
def ls_command(connection: Connection, *, watch: bool, json_wanted: bool, **wanted: Any) -> None:
    """List jobs, the newest first, or the oldest, or by user or service."""
    if wanted["oldest_first"] and wanted["order"] not in (None, "oldest"):
        raise click.UsageError("--oldest is one order, --order another; give one of them")
    if wanted["node"] is not None:
        with connection.client() as client:
            wanted["node"] = node_id(client, wanted["node"])
    if watch:
        from orchestrator.commands.watch import watch_jobs

        watch_jobs(connection, wanted, json_wanted=json_wanted)
        return
    with connection.client() as client:
        found = list(client.jobs(**wanted))
    emit_list(found, COLUMNS, row, json_wanted=json_wanted)


@click.command("queue", context_settings=HELP)
@click.option("--service", metavar="NAME", help="Of this service only.")
@click.option(
    "--users", is_flag=True, help="Who fills it alone: how many jobs of each user wait and are under way."
)
@as_json
@pass_connection
def queue_command(connection: Connection, *, service: str | None, users: bool, json_wanted: bool) -> None:
    """List the jobs that wait, the next first, what each of them waits for, and who fills the queue."""
    with connection.client() as client:
        if users:
            _users(client.queue(service), json_wanted=json_wanted)
            return
        waiting = list(client.jobs(service=service, status="Queued"))
        holders = client.queue(service)
    waiting.sort(key=lambda job: (job.service, job.position or 0, job.id))
    headings = ("PLACE", "ID", "USER", "SERVICE", "NAME", "AGE", "WAITS FOR", "MESSAGE")
    emit_list(waiting, headings, _waiting_row, json_wanted=json_wanted)
    if waiting and not json_wanted:
        click.echo()
        _users(holders, json_wanted=False)


def _waiting_row(job: Job) -> Sequence[object]:
    named = (place(job), job.id, job.user, job.service, job.name)
    return (*named, age(job.created_at), job.waiting_for, job.message)


def _users(holders: Sequence[Holder], *, json_wanted: bool) -> None:
    headings = ("SERVICE", "USER", "QUEUED", "UNDER WAY")
    emit_list(
        holders, headings, attrgetter("service", "user", "queued", "under_way"), json_wanted=json_wanted
    )
