"""`logs`: what a job wrote."""

from __future__ import annotations

import sys

import click

from orchestrator.commands.connection import HELP, Connection, pass_connection
from orchestrator.commands.console.arguments import JOB


@click.command("logs", context_settings=HELP)
@click.argument("job_id", type=JOB, metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on as it is written, until the job has ended.")
@click.option(
    "--stream", type=click.Choice(["stdout", "stderr"]), default="stdout", show_default=True, help="Which."
)
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="BYTES", help="Where to begin.")
@click.option(
    "-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last so many lines."
)
@click.option("--raw", is_flag=True, help="On a terminal too, every byte as it is.")
@pass_connection
def logs_command(
    connection: Connection,
    *,
    job_id: int,
    follow: bool,
    stream: str,
    offset: int,
    tail: int | None,
    raw: bool,
) -> None:
    """Write a job's standard output, or its standard error, to standard output.

    Into a file or a pipe, bytes go as they are. On a terminal, what would steer it is left out, colours are
    not.
    """
    if tail is not None and offset:
        raise click.UsageError("--tail and --offset both say where to begin: give one of them.")
    from orchestrator.commands.console.terminal_filter import Filter

    out = sys.stdout.buffer
    shown = Filter(tty=sys.stdout.isatty() and not raw)
    with connection.client() as client:
        for piece in client.logs(job_id, stream, offset, tail=tail, follow=follow):
            out.write(shown.feed(piece))
            out.flush()
    out.write(shown.end())
