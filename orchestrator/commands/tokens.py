"""`token`: who may do what at the server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from orchestrator.access.roles import Role
from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection
from orchestrator.commands.console.arguments import seconds
from orchestrator.commands.console.output import age, emit_json, tell
from orchestrator.commands.console.tables import emit_table

_ROLES: Final = click.Choice([role.value for role in Role])
_WHAT: Final = (
    click.option(
        "--role",
        type=_ROLES,
        required=True,
        help="What it may do; `orchestrator token --help` tells of each.",
    ),
    click.option("--service", "services", metavar="NAME", multiple=True, help="Only this; may be repeated."),
    click.option("--user", type=int, metavar="NUMBER", help="Whose jobs, for the role user."),
    click.option("--expires", callback=seconds, metavar="TIME", help="As 12h, 90d or 52w. [never]"),
    click.option("--name", metavar="TEXT", help="What people call it."),
    click.option("--once", is_flag=True, help="Of the role node: for one node alone."),
    click.option(
        "--max-slots", type=click.IntRange(1), metavar="N", help="Of the role node: that a node may have."
    ),
    click.option(
        "--from", "sources", metavar="CIDR", multiple=True, help="Of the role node: where nodes join from."
    ),
)


def _what_it_is(function: Any) -> Any:
    for option in reversed(_WHAT):
        function = option(function)
    return function


@click.group("token", context_settings=HELP)
def token_command() -> None:
    """Make, list and revoke the tokens by which the server knows who asks.

    \b
    portal    submits and reads for any user of its services
    user      the same, for the jobs of one user alone
    operator  everything
    reader    numbers and states; of jobs no names, logs or files
    node      joins and leaves
    """


@token_command.command("create", context_settings=HELP)
@_what_it_is
@as_json
@pass_connection
def create_command(
    connection: Connection,
    *,
    role: str,
    services: tuple[str, ...],
    user: int | None,
    expires: float | None,
    name: str | None,
    once: bool,
    max_slots: int | None,
    sources: tuple[str, ...],
    json_wanted: bool,
) -> None:
    """Make a token. Its secret is printed once, and never again: the server keeps a hash of it alone."""
    if role != Role.NODE and (once or max_slots is not None or sources):
        raise click.UsageError("--once, --max-slots and --from are for the role node")
    with connection.client() as client:
        made = client.create_token(
            role,
            services=services,
            user=user,
            expires_in=expires,
            name=name,
            once=once,
            max_slots=max_slots,
            sources=sources,
        )
    if json_wanted:
        emit_json(made)
        return
    tell(f"token {made['id']} of the role {role}; this is its secret, which nobody can show you again:")
    click.echo(made["secret"])


@token_command.command("ls", context_settings=HELP)
@as_json
@pass_connection
def ls_command(connection: Connection, *, json_wanted: bool) -> None:
    """List the tokens that hold."""
    with connection.client() as client:
        found = client.tokens()
    if json_wanted:
        emit_json(found)
    else:
        headings = ("ID", "ROLE", "NAME", "SERVICES", "USER", "CREATED", "USED", "EXPIRES")
        emit_table(headings, [_row(one) for one in found])


def _row(token: Any) -> Sequence[object]:
    return (
        token["id"],
        token["role"],
        token["name"],
        ",".join(token["services"]) or "all",
        "" if token["user"] is None else token["user"],
        _ago(token["created_at"]),
        _ago(token["used_at"]) or "never",
        "never" if token["expires_at"] is None else token["expires_at"][:16].replace("T", " "),
    )


def _ago(at: str | None) -> str:
    return "" if at is None else f"{age(datetime.fromisoformat(at))} ago"


@token_command.command("revoke", context_settings=HELP)
@click.argument("token_id", metavar="ID")
@pass_connection
def revoke_command(connection: Connection, *, token_id: str) -> None:
    """Refuse a token from now on. ID is what `token ls` calls it."""
    with connection.client() as client:
        client.revoke_token(token_id)
    click.echo(f"token {token_id} is revoked")


@token_command.command("declare", context_settings=HELP)
@_what_it_is
def declare_command(*, role: str, user: int | None, expires: float | None, once: bool, **more: Any) -> None:
    """Make a token without a server: prints its lines for TOKENS_FILE, and its secret on standard error."""
    import json
    import time

    from orchestrator.access.tokens import hash_of, make_secret

    if (user is None) is (role == Role.USER):
        raise click.UsageError("--user goes with the role user, and with no other")
    secret = make_secret()
    if once:
        raise click.UsageError("--once is for tokens that the server keeps: use `token create`")
    given = {"role": role, "user": user, **more}
    table = {"hash": json.dumps(hash_of(secret))}
    table |= {key: json.dumps(value) for key, value in given.items() if value not in (None, ())}
    if expires is not None:
        table["expires"] = datetime.fromtimestamp(int(time.time() + expires), UTC).isoformat()
    click.echo("# Its secret went to standard error, and nobody can show it again.\n[[tokens]]")
    click.echo("\n".join(f"{key} = {value}" for key, value in table.items()))
    click.echo(secret, err=True)
