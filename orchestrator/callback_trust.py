"""Whose certificates are believed when callbacks are sent: the usual authorities', or those of a file."""

from __future__ import annotations

import ssl
from pathlib import Path


class TrustError(Exception):
    """The file cannot be used; the text is a line that says why."""


def load_trust(path: Path | None) -> ssl.SSLContext | None:
    """The authorities of the file alone; None, for the usual ones, without a file. Raises TrustError."""
    if path is None:
        return None
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TrustError(
            f"{path}: {reason}; callback_ca_file has to name a file with certificates in PEM format"
        ) from error
