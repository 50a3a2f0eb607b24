"""The root of the errors of this package."""

from __future__ import annotations


class NodeError(Exception):
    """The node cannot do what it was asked; the text says why."""
