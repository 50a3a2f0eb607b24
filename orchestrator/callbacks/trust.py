"""Whose certificates are believed when callbacks are sent: the usual authorities', or those of a file."""

from __future__ import annotations

import ssl
from pathlib import Path

from actors.wire.http.tls import NoAuthorities, authorities_of
from orchestrator.errors import OrchestratorError


class TrustError(OrchestratorError):
    """The file cannot be used; the text is a line that says why."""


def load_trust(path: Path | None) -> ssl.SSLContext | None:
    """The authorities of the file alone; None, for the usual ones, without a file. Raises TrustError."""
    if path is None:
        return None
    try:
        return authorities_of(path)
    except NoAuthorities as error:
        raise TrustError(
            f"{path}: {error}; callback_ca_file has to name a file with certificates in PEM format"
        ) from error
