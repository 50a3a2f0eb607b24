"""Where the orchestrator is, and as whom it is asked: a flag, the environment or a file says it."""

from __future__ import annotations

import functools
import importlib
import os
import stat
import sys
import tomllib
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from actors.process.imports import without
from orchestrator.commands.console.output import tell

if TYPE_CHECKING:
    from orchestrator.client import AsyncClient, Client, Retries

T = TypeVar("T")

HELP: Final = {"help_option_names": ["-h", "--help"]}
USUAL: Final = "http://127.0.0.1:5000"
INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as shells have it."""

_KEYS: Final = ("url", "token", "token_file", "ca_file", "user", "service")


@dataclass(frozen=True, slots=True)
class Connection:
    """`user` and `service` are what jobs are submitted for when no flag says so; `ca_file` has the
    certificates of the authorities that are believed, None: the usual ones."""

    url: str
    token: str | None
    user: int | None
    service: str | None
    ca_file: str | None = None

    def client(self) -> Client:
        """A client that blocks. Raises click.UsageError for settings that no client can have."""
        _import_httpcore()
        from orchestrator.client import Client

        with _sound():
            return Client(self.url, token=self.token, ca_file=self.ca_file, retries=_retries())

    def async_client(self) -> AsyncClient:
        """One for Trio. Raises the same."""
        _complete_httpcore()
        from orchestrator.client import AsyncClient

        with _sound():
            return AsyncClient(self.url, token=self.token, ca_file=self.ca_file, retries=_retries())


def _import_httpcore() -> None:
    """It imports event loops and HTTP/2, where they are installed: half of the time that `ls` takes, and
    nothing for who blocks."""
    with without("trio"), without("anyio"), without("h2"):
        import httpcore  # noqa: F401


def _complete_httpcore() -> None:
    """Have it know the event loops that were not there when it was imported."""
    from httpcore import _synchronization

    if vars(_synchronization)["trio"] is None:
        importlib.reload(_synchronization)


@contextmanager
def _sound() -> Iterator[None]:
    """What a client refuses of its settings is a mistake in the usage. What it warns of goes to the person,
    once however many clients a command needs."""
    from orchestrator.client import BadInput

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except BadInput as error:
            raise click.UsageError(str(error)) from None
    for warning in caught:
        text = str(warning.message)
        if text not in _WARNED:
            _WARNED.add(text)
            tell(f"warning: {text}")


_WARNED: Final[set[str]] = set()


def _retries() -> Retries:
    from orchestrator.client import Retries

    # A person waits: what does not answer is told soon. What goes on for long stays patient.
    return Retries(tries=3)


def find_connection(environ: Mapping[str, str], url: str | None, token_file: str | None = None) -> Connection:
    """Raises click.UsageError for what is wrong in the environment or the file."""
    file = _config(environ)
    named = url or environ.get("ORCHESTRATOR_URL") or file.get("url") or USUAL
    token = _find_token(environ, file, named, token_file)
    user = environ.get("ORCHESTRATOR_USER") or file.get("user")
    if user is not None and not user.removeprefix("-").isdecimal():
        raise click.UsageError(f"the user {user!r} is no number; set ORCHESTRATOR_USER to one, as 42")
    return Connection(
        named,
        token,
        None if user is None else int(user),
        file.get("service"),
        environ.get("ORCHESTRATOR_CA_FILE") or _home(file.get("ca_file")),
    )


def _find_token(
    environ: Mapping[str, str], file: Mapping[str, str], url: str, token_file: str | None
) -> str | None:
    """The token for the orchestrator at `url`: one that goes with another URL stays here."""
    if token_file:
        return _token(Path(token_file), "--token-file")
    if url == environ.get("ORCHESTRATOR_URL", url):
        if token := environ.get("ORCHESTRATOR_TOKEN"):
            return token
        if named := environ.get("ORCHESTRATOR_TOKEN_FILE"):
            return _token(Path(named), "ORCHESTRATOR_TOKEN_FILE")
    if url == file.get("url", USUAL):
        if file.get("token"):
            return file["token"]
        if file.get("token_file"):
            return _token(Path(file["token_file"]).expanduser(), "token_file")
    return None


def _home(path: str | None) -> str | None:
    return os.path.expanduser(path) if path else None


def _config(environ: Mapping[str, str]) -> dict[str, str]:
    top = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = Path(top) / "orchestrator" / "config.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from None
    for key, value in found.items():
        if key not in _KEYS:
            raise click.UsageError(f"{path}: {key} is unknown; known: {', '.join(_KEYS)}")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise click.UsageError(f"{path}: {key} has to be a text")
    if "token" in found and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise click.UsageError(f"{path} has a token in it and others can read it: chmod 600 {path}")
    return {key: str(value) for key, value in found.items()}


def _token(path: Path, name: str) -> str:
    from orchestrator.access.token_files import read_token

    try:
        token = read_token(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise click.UsageError(f"{name}: {path} cannot be read: {reason}") from None
    if not token:
        raise click.UsageError(f"{name}: {path} is empty; put the token into it, or do not name it")
    return token


def run_tasks(main: Callable[[], Awaitable[T]]) -> T:
    """What `main` returns, run under Trio. A ClientError and Ctrl-C of its tasks are raised as themselves."""
    import trio

    from actors.wire.errors import leaves
    from orchestrator.client import ClientError

    ended: BaseException
    try:
        return trio.run(main)
    except* ClientError as group:
        ended = leaves(group)[0]
    except* KeyboardInterrupt:
        ended = KeyboardInterrupt()
    # Not raised above: the first releases of Python 3.11 make a group again of what an except* clause raises.
    raise ended from None


def pass_connection(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hand the command a Connection as its first argument, and end it in one line and with a status for what
    goes wrong: 1, or the `failed` that it set for its exit, 130 after Ctrl-C."""

    @click.option("--url", metavar="URL", help=f"Where the orchestrator is. [ORCHESTRATOR_URL; {USUAL}]")
    @click.option("--token-file", metavar="FILE", help="A file with the token. [ORCHESTRATOR_TOKEN_FILE]")
    @functools.wraps(function)
    def command(*args: Any, url: str | None, token_file: str | None, **options: Any) -> None:
        _import_httpcore()
        from orchestrator.client import ClientError

        connection = find_connection(os.environ, url, token_file)
        try:
            function(connection, *args, **options)
        except ClientError as error:
            tell(str(error))
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    return command


as_json = click.option("--json", "json_wanted", is_flag=True, help="For programs: JSON on standard output.")
