"""`usage`: what jobs used, by month, user and service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection
from orchestrator.commands.console.output import emit_json, size, span
from orchestrator.commands.console.tables import emit_table

if TYPE_CHECKING:
    from orchestrator.contract.bodies import UsageBody

_HEADINGS: Final = (
    *("MONTH", "USER", "SERVICE", "JOBS", "COMPLETED", "FAILED", "INVALID", "KILLED"),
    *("WALL", "CPU", "MEMORY", "IN", "OUT"),
)
_HOUR: Final = 3600


@click.command("usage", context_settings=HELP)
@click.option("--from", "first", metavar="MONTH", help="The first month, as 2026-11; by UTC.")
@click.option("--to", "last", metavar="MONTH", help="The last month.")
@click.option("--user", type=int, metavar="ID", help="Only this user's.")
@click.option("--service", metavar="NAME", help="Only this service's.")
@click.option("--csv", "csv_wanted", is_flag=True, help="For spreadsheets: all figures, as CSV.")
@as_json
@pass_connection
def usage_command(
    connection: Connection,
    *,
    first: str | None,
    last: str | None,
    user: int | None,
    service: str | None,
    csv_wanted: bool,
    json_wanted: bool,
) -> None:
    """Tell what the jobs used that have ended, by month, user and service: how many there were and how they
    ended, time, memory times time, bytes uploaded and bytes of results. Forgotten jobs count on."""
    if csv_wanted and json_wanted:
        raise click.UsageError("--csv and --json both want standard output; choose one")
    with connection.client() as client:
        found = list(client.usage(first=first, last=last, user=user, service=service))
    if json_wanted:
        emit_json(found)
    elif csv_wanted:
        from orchestrator.contract.bodies import UsageBody
        from orchestrator.contract.csv_text import to_csv

        click.echo(to_csv(tuple(UsageBody.__annotations__), found), nl=False)
    else:
        emit_table(_HEADINGS, [_row(one) for one in found])


def _row(used: UsageBody) -> Sequence[object]:
    return (
        *(used["month"], used["user_id"], used["service"], used["jobs"]),
        *(used["completed"], used["failed"], used["invalid"], used["killed"]),
        *(span(used["wall_seconds"]), span(used["cpu_seconds"])),
        *(f"{size(used['memory_byte_seconds'] / _HOUR)}h", size(used["bytes_in"]), size(used["bytes_out"])),
    )
