"""`submit`: hand in a job, and stay with it if that is wanted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from actors.domain.limits import parse_limit
from orchestrator.commands.connection import HELP, INTERRUPTED, Connection, as_json, pass_connection
from orchestrator.commands.console.arguments import JOB
from orchestrator.commands.console.destinations import require_directory
from orchestrator.commands.console.output import clean, emit_json, emit_one, tell

if TYPE_CHECKING:
    from orchestrator.client import Client, Job, JobRequest

_PATH = click.Path(path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _limit(name: str, metavar: str, meaning: str) -> Callable[[_Command], _Command]:
    def read(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str | None:
        try:
            if given is not None:
                parse_limit(name, given)
        except ValueError as error:
            raise click.BadParameter(f"{given!r}: {error} was expected") from None
        return given

    return click.option(f"--{name.replace('_', '-')}", callback=read, metavar=metavar, help=meaning)


@click.command("submit", context_settings=HELP)
@click.argument("files", nargs=-1, required=True, type=_PATH)
@click.option("--each", is_flag=True, help="FILES are directories, and each is a job of its own.")
@click.option("--service", metavar="NAME", help="What it is for; may be left out if there is one only.")
@click.option("--user", type=int, metavar="ID", help="For whom. [ORCHESTRATOR_USER]")
@click.option("--name", metavar="NAME", help="What it is called in lists.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A word to find it by; may be repeated.")
@click.option("--max-runtime", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Its limit.")
@_limit("memory", "SIZE", "Of all its processes together, as 4G.")
@_limit("cpu_time", "SECONDS", "Of all its processes together.")
@_limit("processes", "NUMBER", "At once, threads included.")
@_limit("file_size", "SIZE", "Of any single file, as 500M.")
@_limit("open_files", "NUMBER", "Of each of its processes.")
@_limit("disk", "SIZE", "Of all files in its directory, as 20G.")
@click.option(
    "--priority", type=click.IntRange(0, 100), help="It goes before the user's jobs of a smaller one. [0]"
)
@click.option("--partition", metavar="NAME", help="Of a cluster, as its service allows.")
@click.option("--account", metavar="NAME", help="In a cluster, as its service allows.")
@click.option("--qos", metavar="NAME", help="In a cluster, as its service allows.")
@click.option("--cpus", type=click.IntRange(1), metavar="NUMBER", help="Of a cluster, as its service allows.")
@click.option("--gpus", metavar="NUMBER", help="The same, or a kind with it, as a100:2.")
@click.option("--requires", metavar="LABELS", help="What its node has to have, as gpu=a100,ssd.")
@click.option("--callback-url", metavar="URL", help="Whom to tell when it has ended.")
@click.option("--rerun-of", type=JOB, metavar="ID", help="An earlier job that it repeats with changes.")
@click.option("--wait", is_flag=True, help="Stay until it has ended, and end as it did.")
@click.option("--follow", is_flag=True, help="The same, with its standard output and error as they come.")
@click.option("-o", "--output", type=_PATH, metavar="DIR", help="Stay, and get the results there.")
@click.option("-q", "--quiet", is_flag=True, help="Do not tell how it stands meanwhile.")
@as_json
@pass_connection
def submit_command(
    connection: Connection,
    *,
    files: tuple[Path, ...],
    each: bool,
    wait: bool,
    follow: bool,
    output: Path | None,
    quiet: bool,
    json_wanted: bool,
    **how: Any,
) -> None:
    """Hand in a job made of FILES, one of them run.sh, and print its id.

    A directory given alone is the job's directory: what is in it is sent. Among several, a directory keeps
    its name.

    With --each the ids are printed in the order of the directories, whose names the jobs have unless --name
    is given. One that is refused hinders no other; the status is 1 then.

    With --wait, --follow or --output the status is that of the job: its exit code, 128 + N when signal N
    ended it, and 125 when neither tells how it went: the orchestrator failed, or the job never ran, or it
    ended well and its results could not be fetched. Ctrl-C leaves the job running.
    """
    if follow and json_wanted:
        raise click.UsageError("--follow and --json both want standard output; choose one")
    if each and (wait or follow or output is not None):
        raise click.UsageError("--each hands in and leaves; it goes without --wait, --follow and --output")
    if how["user"] is None:
        how["user"] = connection.user
    if how["user"] is None:
        raise click.UsageError("whose job is it? Give --user, or set ORCHESTRATOR_USER")
    how["service"] = how["service"] or connection.service
    if each:
        sys.exit(_submit_each(connection, files, how, json_wanted=json_wanted))
    if output is not None:
        require_directory(output)
    job_files = _name_files(files)
    if not (wait or follow or output is not None):
        _tell_id(_submit(connection, job_files, how), json_wanted=json_wanted)
        return

    from orchestrator.client import ClientError
    from orchestrator.commands.follow import NO_STATUS

    try:
        job = _submit(connection, job_files, how)
        if follow:
            tell(f"job {job.id}")
        elif not json_wanted:
            _tell_id(job, json_wanted=False)
        status = _stay(connection, job, output, logs=follow, quiet=quiet, json_wanted=json_wanted)
    except ClientError as error:
        tell(str(error))
        status = NO_STATUS
    sys.exit(status)


def _name_files(files: tuple[Path, ...]) -> dict[str, Path | bytes]:
    """What each file is called in the job, and where it is, or what is in it where it does not say its size.
    Raises click.UsageError for what cannot be sent."""
    from actors.wire.multipart.writer import FilePart
    from orchestrator.client import BadInput
    from orchestrator.client.files import parts

    try:
        found = {
            part.filename or "": part.path if isinstance(part, FilePart) else part.data
            for part in parts(files)
        }
    except BadInput as error:
        raise click.UsageError(str(error)) from None
    if "run.sh" not in found:
        raise click.UsageError("there is no run.sh among the files; a job is a bash script of that name")
    return found


def _submit_each(
    connection: Connection, directories: tuple[Path, ...], how: dict[str, Any], *, json_wanted: bool
) -> int:
    """The exit status, once each directory is a job or its refusal is told."""
    from orchestrator.client import Job

    for directory in directories:
        if not directory.is_dir():
            raise click.UsageError(f"{directory} is no directory; with --each all of them are")
        if not (directory / "run.sh").is_file():
            raise click.UsageError(f"there is no run.sh in {directory}; a job is a bash script of that name")
    status = 0
    with connection.client() as client:
        how["service"] = how["service"] or _only_service(client)
        requests = [
            cast("JobRequest", {**how, "files": one, "name": how["name"] or one.resolve().name})
            for one in directories
        ]
        try:
            answers = client.submit_many(requests)
        except KeyboardInterrupt:
            tell(f"interrupted; `orchestrator ls --user {how['user']}` shows what was submitted")
            raise
    for directory, answer in zip(directories, answers, strict=True):
        if isinstance(answer, Job):
            _tell_id(answer, json_wanted=json_wanted)
        else:
            tell(f"{directory}: {answer}")
            status = 1
    return status


def _only_service(client: Client) -> str | None:
    """The name of the service if there is one only. Raises click.UsageError if there are more."""
    names = [clean(service.name) for service in client.services()]
    if len(names) > 1:
        raise click.UsageError(f"name one with --service: {', '.join(names)}")
    return names[0] if names else None


def _submit(connection: Connection, files: dict[str, Path | bytes], how: dict[str, Any]) -> Job:
    from orchestrator.commands.results import bar

    with connection.client() as client:
        if how["service"] is None:
            how["service"] = _only_service(client)
        try:
            with bar("upload") as progress:
                return client.submit(files, progress=progress, **how)
        except KeyboardInterrupt:
            tell(f"interrupted; `orchestrator ls --user {how['user']}` shows whether it was submitted")
            raise


def _stay(
    connection: Connection, job: Job, output: Path | None, *, logs: bool, quiet: bool, json_wanted: bool
) -> int:
    """The exit status, once the job has ended and its results are there."""
    from orchestrator.client import ClientError
    from orchestrator.commands.follow import NO_STATUS, exit_status, stay
    from orchestrator.commands.results import get, get_command_line, tell_left_out

    try:
        ended = stay(connection, job.id, logs=logs, quiet=quiet)
    except KeyboardInterrupt:
        tell(
            f"job {job.id} goes on; stop it: orchestrator cancel {job.id}, "
            f"see what it writes: orchestrator logs -f {job.id}"
        )
        return INTERRUPTED
    status = exit_status(ended)
    if output is not None:
        try:
            with connection.client() as client:
                get(client, job.id, output)
            tell_left_out(ended)
        except KeyboardInterrupt:
            tell(f"the results stay; get them: {get_command_line(job.id, output)}")
            return INTERRUPTED
        except ClientError as error:
            tell(f"{error}; get the results: {get_command_line(job.id, output)}")
            # How the job ended stands, unless all would seem well.
            status = status or NO_STATUS
    if json_wanted:
        emit_json(ended.raw)
    return status


def _tell_id(job: Job, *, json_wanted: bool) -> None:
    if job.ignored:
        tell(f"job {job.id}: service {job.service} allows no {' or '.join(job.ignored)}, which is ignored")
    emit_one(job, job.id, json_wanted=json_wanted)
    sys.stdout.flush()
