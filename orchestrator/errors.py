"""The root of the errors of this package."""

from __future__ import annotations


class OrchestratorError(Exception):
    """What may go wrong in the server or for its client; the text says what. What ports raise, as
    `LedgerError`, stays with them."""


class StartError(OrchestratorError):
    """The server cannot start here; the text says why and what to do."""
