"""`get`: a job's results in a directory, all of them or none."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands.connecting import HELP, Connection, connected
from orchestrator.commands.output import clean, tell

if TYPE_CHECKING:
    from orchestrator.client import Client
    from orchestrator.client.transport import Progress


@click.command("get", context_settings=HELP)
@click.argument("job_id", type=int, metavar="ID")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A new or empty directory for them. [./job-ID]",
)
@click.option("--zip", "as_zip", is_flag=True, help="The zip itself, as the file of --output. [./ID.zip]")
@click.option("--partial", is_flag=True, help="Of a job that has not ended: its directory as it is now.")
@connected
def get_command(
    connection: Connection, *, job_id: int, output: Path | None, as_zip: bool, partial: bool
) -> None:
    """Fetch what a job left: everything in its directory, and its standard output and error.

    A download that broke off goes on where it was when the command is given again. Prints where the results
    are.
    """
    with connection.client() as client:
        if as_zip:
            target = output or Path(f"{job_id}.zip")
            fetch(client, job_id, target, partial=partial)
        else:
            target = output or Path(f"job-{job_id}")
            get(client, job_id, target, partial=partial)
    click.echo(clean(target))


def get(client: Client, number: int, directory: Path, *, partial: bool = False) -> None:
    """The results of a job in `directory`, which has to be empty or new. Until all is there, it lies beside
    it, in `.DIR.job-N`. Raises ClientError."""
    from orchestrator.client import BadInput
    from orchestrator.commands.unpacking import unpack

    directory = Path(os.path.abspath(directory))
    aside = directory.parent / f".{directory.name}.job-{number}"
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise BadInput(f"{str(directory)!r} is not empty; name another directory with --output")
        aside.mkdir(parents=True, exist_ok=True)
        fetch(client, number, aside / "results.zip", partial=partial)
        tree = aside / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        left_out = unpack(aside / "results.zip", tree)
        # Over an empty directory too, in one step.
        os.rename(tree, directory)
        shutil.rmtree(aside)
    except OSError as error:
        raise BadInput(
            f"{str(directory)!r} cannot be written: {error.strerror}; name another directory with --output"
        ) from error
    tell(*(f"left out: {one}" for one in left_out))


def fetch(client: Client, number: int, target: Path, *, partial: bool = False) -> None:
    """The zip of a job in a file. Raises ClientError."""
    with bar(f"job {number}") as progress:
        if partial:
            client.download_partial(number, target, progress=progress)
        else:
            client.download(number, target, progress=progress)


@contextmanager
def bar(what: str) -> Iterator[Progress | None]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from orchestrator.commands.output import console

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(err=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, whole: shown.update(task, completed=done, total=whole)
