"""`cancel`, `delete` and `rerun`: end jobs, let go of their data, and begin one again."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection, run_tasks
from orchestrator.commands.console.arguments import JOB
from orchestrator.commands.console.job_row import UNDER_WAY
from orchestrator.commands.console.output import emit_json, emit_one, pluralize, tell
from orchestrator.commands.console.tables import emit_table

if TYPE_CHECKING:
    from orchestrator.client import ClientError, Job
    from orchestrator.client.operations import Operations

    Order = Callable[[Operations, int], Awaitable[Job]]

STOPPABLE: Final = ("Queued", *(status for status in UNDER_WAY if status != "Locked"))
AT_ONCE: Final = 8
"""Orders that are under way at a time."""


@click.command("cancel", context_settings=HELP)
@click.argument("ids", nargs=-1, type=JOB, metavar="[ID]...")
@click.option("--user", type=int, metavar="ID", help="All jobs of this user that have not ended.")
@click.option("--service", metavar="NAME", help="All of this service.")
@click.option("--status", type=click.Choice(STOPPABLE, case_sensitive=False), help="All in this status.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@pass_connection
def cancel_command(
    connection: Connection,
    *,
    ids: tuple[int, ...],
    user: int | None,
    service: str | None,
    status: str | None,
    yes: bool,
    json_wanted: bool,
) -> None:
    """End jobs: those named by ID, or all that fit --user, --service and
    --status, which are counted first."""
    from orchestrator.client.operations import Operations

    wanted = {"user": user, "service": service, "status": status}
    if ids and any(value is not None for value in wanted.values()):
        raise click.UsageError("name jobs by ID or by --user, --service and --status, not both")
    if not ids:
        if all(value is None for value in wanted.values()):
            raise click.UsageError("which jobs? Name them by ID, or by --user, --service and --status")
        ids = _choose(connection, wanted, yes=yes, json_wanted=json_wanted)
    _report(_run_orders(connection, ids, Operations.cancel), json_wanted=json_wanted)


@click.command("delete", context_settings=HELP)
@click.argument("ids", nargs=-1, required=True, type=JOB, metavar="ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@pass_connection
def delete_command(connection: Connection, *, ids: tuple[int, ...], yes: bool, json_wanted: bool) -> None:
    """Delete the data of jobs that have ended: their files, results and logs.

    The jobs stay in lists, as Cleaned. It cannot be undone, so it is asked for.
    """
    from orchestrator.client.operations import Operations

    ids = tuple(dict.fromkeys(ids))
    if not yes:
        data = f"the data of {pluralize(len(ids), 'job')}"
        _confirm(f"{data} would be deleted", f"Delete {data}?", json_wanted=json_wanted)
    _report(_run_orders(connection, ids, Operations.delete), json_wanted=json_wanted)


def _confirm(what: str, question: str, *, json_wanted: bool) -> None:
    """Ask the person, or refuse where nobody can be asked."""
    if not sys.stdin.isatty() or json_wanted:
        raise click.UsageError(f"{what}; add --yes if you mean it")
    click.confirm(question, abort=True, err=True)


def _report(ended: dict[int, Job | str], *, json_wanted: bool) -> None:
    """Tell what became of each and exit, with 1 if one was refused."""
    if json_wanted:
        emit_json([job.raw for job in ended.values() if not isinstance(job, str)])
    else:
        rows = [(job.id, job.status, job.message) for job in ended.values() if not isinstance(job, str)]
        if rows:
            emit_table(("ID", "STATUS", "MESSAGE"), rows)
    refused = [_name_job(number, why) for number, why in ended.items() if isinstance(why, str)]
    tell(*refused)
    sys.exit(1 if refused else 0)


def _name_job(number: int, why: str) -> str:
    """The reason with the job's id, which it may have already."""
    return why if re.search(rf"\bjob {number}\b", why) else f"job {number}: {why}"


def _choose(
    connection: Connection, wanted: dict[str, Any], *, yes: bool, json_wanted: bool
) -> tuple[int, ...]:
    with connection.client() as client:
        statuses = STOPPABLE if wanted["status"] is None else (wanted["status"],)
        # A job that moves on from list to list meanwhile is one job.
        found = {job.id: job for status in statuses for job in client.jobs(**{**wanted, "status": status})}
    counts = Counter(job.status for job in found.values())
    told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    many = pluralize(len(found), "job")
    if found and not yes:
        _confirm(f"{many} would be cancelled ({told})", f"Cancel {many} ({told})?", json_wanted=json_wanted)
    else:
        tell(f"{many} ({told})")
    return tuple(sorted(found))


def _run_orders(connection: Connection, ids: Sequence[int], order: Order) -> dict[int, Job | str]:
    """What became of each: the job, or why not."""
    from actors.kernel.concurrently import map_concurrently
    from orchestrator.client import BadInput, Refused

    async def run_all() -> dict[int, Job | str]:
        async with connection.async_client() as client:

            async def one(number: int) -> Job | str:
                try:
                    return await order(client, number)
                except (BadInput, Refused) as error:
                    return _why(number, error)

            return dict(zip(ids, await map_concurrently(one, ids, at_once=AT_ONCE), strict=True))

    try:
        return run_tasks(run_all)
    except KeyboardInterrupt:
        tell("interrupted; some of them may be as they were")
        raise


def _why(number: int, error: ClientError) -> str:
    """Why an order was refused, in the words of this command."""
    if getattr(error, "code", "") == "not_ended":
        return f"job {number} has not ended; cancel it first: orchestrator cancel {number}"
    return str(error)


@click.command("rerun", context_settings=HELP)
@click.argument("job_id", type=JOB, metavar="ID")
@as_json
@pass_connection
def rerun_command(connection: Connection, *, job_id: int, json_wanted: bool) -> None:
    """Hand in a job again, with the files that it began with. Prints the id of the new job.

    It may have ended or not; the old one stays as it is.
    """
    with connection.client() as client:
        job = client.rerun(job_id)
    emit_one(job, job.id, json_wanted=json_wanted)
