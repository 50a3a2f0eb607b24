"""The root of the errors of this package."""

from __future__ import annotations


class CoreError(Exception):
    """What may go wrong here, and is told to whoever has to know. Anything else is a mistake of ours."""
