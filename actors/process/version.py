"""The version of what is installed."""

from __future__ import annotations


def installed_version() -> str:
    """It is "unknown" when it runs from a tree that is not installed."""
    # Late: who only starts a command does not need it.
    import importlib.metadata

    try:
        return importlib.metadata.version("job-orchestrator")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
