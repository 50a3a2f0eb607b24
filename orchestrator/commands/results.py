"""`get` and `files`: a job's results in a directory, all of them or none, or single ones of them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands.connecting import HELP, Connection, as_json, connected
from orchestrator.commands.output import clean, emit_json, emit_table, size, tell

if TYPE_CHECKING:
    from orchestrator.client import Client
    from orchestrator.client.transport import Progress


@click.command("get", context_settings=HELP)
@click.argument("job_id", type=int, metavar="ID")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
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
    connection: Connection,
    *,
    job_id: int,
    paths: tuple[str, ...],
    output: Path | None,
    as_zip: bool,
    partial: bool,
) -> None:
    """Fetch what a job left: everything in its directory, and its standard output and error.

    A download that broke off goes on where it was when the command is given again. Prints where the results
    are. With PATH, as `files` lists it, only that file is fetched, of a running job too, to the same place
    below the directory, over what is there.
    """
    if paths and (as_zip or partial):
        raise click.UsageError("single files are fetched as they are now; leave out --zip and --partial")
    with connection.client() as client:
        if paths:
            for path in paths:
                click.echo(clean(_single(client, job_id, path, output or Path(f"job-{job_id}"))))
            return
        if as_zip:
            target = output or Path(f"{job_id}.zip")
            fetch(client, job_id, target, partial=partial)
        else:
            target = output or Path(f"job-{job_id}")
            get(client, job_id, target, partial=partial)
    click.echo(clean(target))


@click.command("files", context_settings=HELP)
@click.argument("job_id", type=int, metavar="ID")
@as_json
@connected
def files_command(connection: Connection, *, job_id: int, json_wanted: bool) -> None:
    """List what is in a job's directory, wherever it is now."""
    with connection.client() as client:
        found = client.files(job_id)
    if json_wanted:
        emit_json([file.raw for file in found])
        return
    emit_table(
        ("SIZE", "MODE", "CHANGED", "PATH"),
        [
            (
                size(file.size) if file.kind == "file" else file.kind,
                file.mode,
                file.raw.get("mtime"),
                file.path if file.target is None else f"{file.path} -> {file.target}",
            )
            for file in found
        ],
    )


def _single(client: Client, number: int, path: str, directory: Path) -> Path:
    from actors.wire.errors import BadRequest
    from actors.wire.paths import safe_path
    from orchestrator.client import BadInput

    try:
        inside = safe_path(path) == path
    except BadRequest:
        inside = False
    if not inside:
        raise BadInput(f"{path!r} is no file of a job; `orchestrator files {number}` lists what there is")
    with bar(path) as progress:
        return client.download_file(number, path, directory / path, progress=progress)


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
