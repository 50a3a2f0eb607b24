"""`audit`: who did what at the server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

import click

from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection
from orchestrator.commands.console.arguments import JOB
from orchestrator.commands.console.output import emit_json
from orchestrator.commands.console.tables import emit_table

if TYPE_CHECKING:
    from orchestrator.contract.bodies import Action, AuditBody


@click.command("audit", context_settings=HELP)
@click.option("--who", metavar="NAME", help="Only of the token or person of this name.")
@click.option("--job", type=JOB, metavar="ID", help="Only on this job.")
@click.option("--node", metavar="ID", help="Only on the node of this id.")
@click.option("--action", metavar="ACTION", help="Only what was done by this name, as the list has it.")
@click.option(
    "--since", type=click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M")), help="Only from then on, in local time."
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many, newest first."
)
@as_json
@pass_connection
def audit_command(
    connection: Connection,
    *,
    who: str | None,
    job: int | None,
    node: str | None,
    action: Action | None,
    since: datetime | None,
    limit: int,
    json_wanted: bool,
) -> None:
    """List who did what, and a sample of what was refused, the newest first. For operators."""
    with connection.client() as client:
        wanted = client.audit(who=who, job=job, node=node, action=action, since=since, limit=limit)
        found = list(islice(wanted, limit))
    if json_wanted:
        emit_json(found)
    else:
        emit_table(("AT", "WHO", "ADDRESS", "ACTION", "ON", "MESSAGE"), [_row(one) for one in found])


def _row(line: AuditBody) -> Sequence[object]:
    node = line.get("node_name") or line["node"]
    on = f"job {line['job']}" if line["job"] is not None else node or line["about"]
    at = line["at"][:19].replace("T", " ")
    return (at, line["who"] or "nobody known", line["address"], line["action"], on, line["detail"])
