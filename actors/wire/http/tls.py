"""Whose certificates are believed, where it is not the usual authorities'."""

from __future__ import annotations

import os
import ssl

from actors.wire.errors import WireError


class NoAuthorities(WireError):
    """The file cannot be read as certificates; the text says why."""


def authorities_of(path: str | os.PathLike[str]) -> ssl.SSLContext:
    """The authorities of this PEM file alone. Raises NoAuthorities."""
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NoAuthorities(reason) from error
