"""Tokens in files: those that are declared by their hashes, and the one for whoever runs the server.

`TOKENS_FILE` is TOML, as a secret of Kubernetes may be mounted:

    [[tokens]]
    hash = "64 hex digits"          # `orchestrator token declare` makes it
    role = "portal"
    name = "the lab's portal"
    services = ["docking"]
    expires = 2027-06-30T00:00:00Z

`DATA_PATH/operator.token` holds a token of the role operator, for the account that the server runs as: as
the line of a header, so that `curl -H @FILE` takes it. Clients of this account find it by a link that is
named for the server's port, as long as it is this account that listens there.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

from actors.process.sock_diag import find_listener_uid
from actors.store.kept_file import keep_secret
from actors.store.repair import make_directory
from orchestrator.access.roles import Role
from orchestrator.access.tokens import TokenRecord, hash_of, is_token, make_secret
from orchestrator.errors import OrchestratorError

OPERATOR_FILE: Final = "operator.token"
OPERATOR_ID: Final = "operator.token"
DECLARED: Final = "declared-"
"""What the ids of tokens of TOKENS_FILE begin with."""
HEADER: Final = "Authorization: Bearer "
_KEYS: Final = ("hash", "role", "name", "services", "user", "expires", "max_slots", "sources")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class BadTokensFile(OrchestratorError):
    """The file declares no tokens; the text says where and why."""


def read_declared(path: Path, services: Mapping[str, Any]) -> list[TokenRecord]:
    """The tokens that a file declares. Raises BadTokensFile."""
    try:
        made = path.stat().st_mtime
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadTokensFile(f"TOKENS_FILE {path} cannot be read: {reason}") from error
    tables = found.pop("tokens", [])
    if found or not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise BadTokensFile(f"TOKENS_FILE {path}: tables [[tokens]] are expected, and nothing else")
    records = []
    for number, table in enumerate(tables, 1):
        try:
            records.append(_declared(table, number, made, services))
        except ValueError as wrong:
            raise BadTokensFile(f"TOKENS_FILE {path}: token {number}: {wrong}") from None
    return records


def _declared(table: dict[str, Any], number: int, made: float, services: Mapping[str, Any]) -> TokenRecord:
    """Raises ValueError."""
    if unknown := sorted(set(table) - set(_KEYS)):
        raise ValueError(f"{unknown[0]} is unknown; known: {', '.join(_KEYS)}")
    role, name, user = table.get("role"), table.get("name", f"token {number}"), table.get("user")
    named, expires = table.get("services", []), table.get("expires")
    slots, sources = table.get("max_slots"), table.get("sources", [])
    if not isinstance(table.get("hash"), str) or not _HASH.fullmatch(table["hash"]):
        raise ValueError("hash: 64 hex digits were expected, as `orchestrator token declare` prints them")
    if role not in list(Role):
        raise ValueError(f"role: one of {', '.join(Role)} was expected")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 100:
        raise ValueError("name: a line of at most 100 characters was expected")
    if not isinstance(named, list) or not all(isinstance(one, str) and one in services for one in named):
        raise ValueError(f"services: a list of {', '.join(sorted(services)) or 'nothing'} was expected")
    if (user is None) is (role == Role.USER) or (user is not None and type(user) is not int):
        raise ValueError("user: the user's number was expected, for the role user and for no other")
    if expires is not None and not isinstance(expires, datetime):
        raise ValueError("expires: a time was expected, as 2027-06-30T00:00:00Z")
    if (slots, sources) != (None, []) and role != Role.NODE:
        raise ValueError("max_slots and sources are for the role node alone")
    if slots is not None and (type(slots) is not int or slots < 1):
        raise ValueError("max_slots: a whole number above 0 was expected")
    if not isinstance(sources, list) or not all(map(_is_network, sources)):
        raise ValueError("sources: a list of networks was expected, as 10.0.0.0/8")
    return TokenRecord(
        id=f"{DECLARED}{table['hash'][:12]}",
        hash=table["hash"],
        role=Role(role),
        name=name,
        created_at=made,
        services=tuple(sorted(set(named))),
        user=user,
        expires_at=None if expires is None else _in_utc(expires).timestamp(),
        max_slots=slots,
        sources=tuple(sources),
    )


def _is_network(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(ip_network(text))
    except ValueError:
        return False


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


# ------------------------------------------------------------------ who runs the server


def keep_operator_token(data: Path, now: float) -> TokenRecord:
    """The token of whoever runs the server, from its file, or made and put there. Blocks. Raises OSError."""
    line = keep_secret(
        data / OPERATOR_FILE,
        lambda line: is_token(_in_line(line)),
        f"{HEADER}{make_secret()}\n".encode(),
    )
    return TokenRecord(OPERATOR_ID, hash_of(_in_line(line)), Role.OPERATOR, "the server's own account", now)


def _in_line(line: bytes) -> str:
    return read_token(line.decode("ascii", "replace"))


def link_directory(environ: Mapping[str, str]) -> Path:
    """Where links to operators' tokens are, for servers of this account on this machine."""
    top = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(top) / "job-orchestrator"


def link_operator_token(data: Path, port: int, environ: Mapping[str, str]) -> None:
    """Have the commands of this account find the token of the server at `port`. Blocks. Raises OSError."""
    directory = link_directory(environ)
    make_directory(directory)
    link = directory / f"{port}.token"
    beside = directory / f".{port}.{os.getpid()}"
    with suppress(FileNotFoundError):
        os.unlink(beside)
    os.symlink((data / OPERATOR_FILE).absolute(), beside)
    os.replace(beside, link)


def unlink_operator_token(data: Path, port: int, environ: Mapping[str, str]) -> None:
    """Take that back, if the link is still this server's. Blocks."""
    link = link_directory(environ) / f"{port}.token"
    with suppress(OSError):
        if os.readlink(link) == str((data / OPERATOR_FILE).absolute()):
            os.unlink(link)


def find_operator_token(host: str, port: int, environ: Mapping[str, str]) -> str | None:
    """The token of a server of this account on this machine; None where there is none."""
    address = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        if not ip_address(address).is_loopback:
            return None
        found = read_token((link_directory(environ) / f"{port}.token").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    # The port may have passed to somebody else, who is not to have it.
    return found if is_token(found) and find_listener_uid((address, port)) == os.getuid() else None


def read_token(text: str) -> str:
    """The token in a file: the line of a header, or the token alone."""
    return text.strip().removeprefix(HEADER).strip()
