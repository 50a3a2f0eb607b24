"""`reload` and `log-level`: what changes in a running server."""

from __future__ import annotations

import click

from actors.process.log_lines import LEVELS
from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection
from orchestrator.commands.console.output import emit_json, tell


@click.command("reload", context_settings=HELP)
@as_json
@pass_connection
def reload_command(connection: Connection, *, json_wanted: bool) -> None:
    """Have the server read its settings again: services, quotas and limits change, running jobs go on.

    With a mistake in them nothing changes, and all mistakes are told. For operators.
    """
    with connection.client() as client:
        found = client.reload()
    for warning in found["warnings"]:
        tell(warning)
    if found["after_restart"]:
        tell(f"these change with a restart only: {', '.join(found['after_restart'])}")
    if json_wanted:
        emit_json(found)
    else:
        click.echo(f"changed: {', '.join(found['changed']) or 'nothing'}")


@click.command("log-level", context_settings=HELP)
@click.argument("level", type=click.Choice(LEVELS), required=False)
@pass_connection
def log_level_command(connection: Connection, *, level: str | None) -> None:
    """Have the server's log say what is of this level at least, until its next restart or reload. Without
    LEVEL: print the present one. For operators."""
    with connection.client() as client:
        if level is None:
            click.echo(client.log_level())
            return
        client.set_log_level(level)
    tell(f"the log says what is of the level {level} at least")
