"""What callbacks are signed with, and whose certificates are believed when they are sent.

The secrets are a file with one in each line, as Standard Webhooks writes them. The first start makes
the file. Who adds a line signs with both, so that receivers can change to the new one before the old one
goes.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import secrets
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final

from actors.store.durable import write_durably
from actors.wire.http.tls import NoAuthorities, authorities_of
from orchestrator.errors import OrchestratorError

log: Final = logging.getLogger("orchestrator")

_SECRET: Final = re.compile(r"whsec_[A-Za-z0-9+/]{32,86}={0,2}", re.ASCII)
_BYTES: Final = 32
_LEAST, _MOST = 24, 64
_LONGEST_FILE: Final = 4096


_WANTED: Final = "callback_secret_file has to name a file that can be read, or made"
SECRET_FILE: Final = "callback.secret"


class KeyFileError(OrchestratorError):
    """The file cannot be used; the text is a line that says why and what to do."""


class BadSecret(KeyFileError):
    """There are no secrets in the file."""


def load_secrets(path: Path) -> tuple[str, ...]:
    """What is in the file, at least one; makes it if there is none. Raises BadSecret."""
    try:
        if not path.exists():
            _make(path)
    except OSError as error:
        raise BadSecret(f"{path}: {error.strerror}; {_WANTED}") from error
    return read_secrets(path)


def check_secrets(path: Path) -> None:
    """As `load_secrets`, and makes nothing: where there is no file it has to be possible to make it. Raises
    BadSecret."""
    if path.exists():
        read_secrets(path)
        return
    there = next(each for each in path.absolute().parents if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise BadSecret(f"{path}: nothing can be made in {there}; {_WANTED}")


def read_secrets(path: Path) -> tuple[str, ...]:
    """What is in the file, at least one. Raises BadSecret."""
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_FILE + 1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise BadSecret(f"{path}: {error.strerror}; {_WANTED}") from error
    found = text.decode("ascii", "replace").split()
    if not found or len(text) > _LONGEST_FILE or not all(map(_is_secret, found)):
        raise BadSecret(
            f"{path}: lines of whsec_ and {_LEAST} to {_MOST} bytes in base64 were expected; "
            "restore it from a copy; moved away, it is made anew, and receivers have to be given the new one"
        )
    if mode & 0o007:
        log.warning("%s: anybody on this machine may read what callbacks are signed with", path)
    return tuple(found)


def _is_secret(text: str) -> bool:
    if not _SECRET.fullmatch(text):
        return False
    try:
        return _LEAST <= len(base64.b64decode(text.removeprefix("whsec_"), validate=True)) <= _MOST
    except binascii.Error:
        return False


def _make(path: Path) -> None:
    """Whole or not at all, and never readable for others. One that another process made meanwhile stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        secret = base64.b64encode(secrets.token_bytes(_BYTES))
        write_durably(path, b"whsec_" + secret + b"\n", replace=False)
        log.warning("%s was not there and is made anew: receivers of callbacks have to be given it", path)


def load_trust(path: Path | None) -> ssl.SSLContext | None:
    """The authorities of the file alone; None, for the usual ones, without a file. Raises KeyFileError."""
    if path is None:
        return None
    try:
        return authorities_of(path)
    except NoAuthorities as error:
        raise KeyFileError(
            f"{path}: {error}; callback_ca_file has to name a file with certificates in PEM format"
        ) from error
