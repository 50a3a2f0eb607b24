"""`get` and `files`: a job's results in a directory, all of them or none, or single ones of them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection
from orchestrator.commands.console.arguments import JOB, seconds
from orchestrator.commands.console.destinations import require_directory, require_free, unusable
from orchestrator.commands.console.job_row import left_out
from orchestrator.commands.console.output import clean, size, tell
from orchestrator.commands.console.tables import emit_list

if TYPE_CHECKING:
    from orchestrator.client import Client, File, Job
    from orchestrator.client.transport import Progress


@click.command("get", context_settings=HELP)
@click.argument("job_id", type=JOB, metavar="ID")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A new or empty directory for them. [./job-ID]",
)
@click.option("--zip", "as_zip", is_flag=True, help="The zip itself, as the file of --output. [./ID.zip]")
@click.option("--force", is_flag=True, help="With --zip: over a file that is there.")
@click.option("--partial", is_flag=True, help="Of a job that has not ended: its directory as it is now.")
@pass_connection
def get_command(
    connection: Connection,
    *,
    job_id: int,
    paths: tuple[str, ...],
    output: Path | None,
    as_zip: bool,
    force: bool,
    partial: bool,
) -> None:
    """Fetch what a job left: everything in its directory, and its standard output and error.

    A download that broke off goes on where it was when the command is given again. Prints where the results
    are. With PATH, as `files` lists it, only that file is fetched, of a running job too, to the same place
    below the directory, over what is there.
    """
    from orchestrator.client import BadInput

    if paths and (as_zip or partial):
        raise click.UsageError("single files are fetched as they are now; leave out --zip and --partial")
    if force and not as_zip:
        raise click.UsageError("--force is for the file of --zip; results are not unpacked over others")
    target = output or Path(f"{job_id}.zip" if as_zip else f"job-{job_id}")
    if paths:
        _require_names(job_id, paths)
    if as_zip:
        require_free(target, force=force)
    else:
        require_directory(target, empty=not paths)
    with connection.client() as client:
        if paths:
            for path in paths:
                click.echo(clean(_single(client, job_id, path, target)))
            return
        job = client.job(job_id)
        if not job.over and not partial:
            raise BadInput(
                f"job {job_id} is {job.status}; `orchestrator get {job_id} --partial` takes what is there"
            )
        if as_zip:
            fetch(client, job_id, target, partial=partial)
        else:
            get(client, job_id, target, partial=partial)
    tell_left_out(job)
    click.echo(clean(target))


@click.command("files", context_settings=HELP)
@click.argument("job_id", type=JOB, metavar="ID")
@as_json
@pass_connection
def files_command(connection: Connection, *, job_id: int, json_wanted: bool) -> None:
    """List what is in a job's directory, wherever it is now."""
    with connection.client() as client:
        found = client.files(job_id)
        job = client.job(job_id)
    tell_left_out(job)
    emit_list(found, ("SIZE", "MODE", "CHANGED", "PATH"), _file_row, json_wanted=json_wanted)


@click.command("link", context_settings=HELP)
@click.argument("job_id", type=JOB, metavar="ID")
@click.argument("file", required=False, metavar="[FILE]")
@click.option(
    "--expires", callback=seconds, default="1h", show_default=True, metavar="TIME", help="As 30m, 12h or 7d."
)
@pass_connection
def link_command(connection: Connection, *, job_id: int, file: str | None, expires: float) -> None:
    """Print a URL by which anybody gets the results of a job, or one file of it, until it expires.

    It holds no longer than the token that it is made with.
    """
    with connection.client() as client:
        click.echo(client.link(job_id, file, expires_in=expires))


def _file_row(file: File) -> Sequence[object]:
    path = file.path if file.target is None else f"{file.path} -> {file.target}"
    return (size(file.size) if file.kind == "file" else file.kind, file.mode, file.raw.get("mtime"), path)


def tell_left_out(job: Job) -> None:
    """Say on standard error what the results of the job lack."""
    if missing := left_out(job):
        tell(f"not in the results of job {job.id}: {missing}")


def get_command_line(number: int, directory: Path) -> str:
    """The command that gets the results of a job there."""
    return f"orchestrator get {number} --output {shlex.quote(str(directory))}"


def _require_names(number: int, paths: tuple[str, ...]) -> None:
    from actors.wire.errors import BadRequest
    from actors.wire.files.names import safe_path

    for path in paths:
        try:
            inside = safe_path(path) == path
        except BadRequest:
            inside = False
        if not inside:
            raise click.UsageError(
                f"{path!r} is no file of a job; `orchestrator files {number}` lists what there is"
            )


def _single(client: Client, number: int, path: str, directory: Path) -> Path:
    from orchestrator.client import BadInput, NotFound

    try:
        with bar(path) as progress:
            return client.download_file(number, path, directory / path, progress=progress)
    except NotFound as error:
        if error.code != "unknown_file":
            raise
        raise BadInput(
            f"job {number} has no file {path!r}; `orchestrator files {number}` lists those it has"
        ) from error


def get(client: Client, number: int, directory: Path, *, partial: bool = False) -> None:
    """The results of a job in `directory`, which has to be empty or new. Until all is there, it lies beside
    it, in `.DIR.job-N`. Raises ClientError."""
    from orchestrator.client import BadInput
    from orchestrator.commands.console.unzip import unpack

    directory = Path(os.path.realpath(directory))
    aside = directory.parent / f".{directory.name}.job-{number}"
    try:
        if why := unusable(directory, empty=True):
            raise BadInput(why)
        fetch(client, number, aside / "results.zip", partial=partial)
        tree = aside / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        refused = unpack(aside / "results.zip", tree)
        # Over an empty directory too, in one step.
        os.rename(tree, directory)
        shutil.rmtree(aside)
    except OSError as error:
        raise BadInput(
            f"{str(directory)!r} cannot be written: {error.strerror}; name another directory with --output"
        ) from error
    tell(*(f"left out: {one}" for one in refused))


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

    from orchestrator.commands.console.output import console

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(err=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, whole: shown.update(task, completed=done, total=whole)
