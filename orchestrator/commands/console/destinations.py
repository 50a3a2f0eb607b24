"""Where results may go: looked at before anything is asked of the orchestrator."""

from __future__ import annotations

import os
from pathlib import Path

import click


def require_directory(directory: Path, *, empty: bool = True) -> None:
    """Raises click.UsageError unless something can be put there; with `empty` it has to be empty or new."""
    if why := unusable(directory, empty=empty):
        raise click.UsageError(why)


def unusable(directory: Path, *, empty: bool) -> str | None:
    """Why nothing can be put there, None if it can."""
    there = directory
    try:
        if empty and directory.is_dir() and any(directory.iterdir()):
            return f"{str(directory)!r} is not empty; name another directory with --output"
        # Results are made beside it and then moved there.
        if directory.is_dir() and empty:
            there = Path(os.path.realpath(directory)).parent
        while not os.path.lexists(there):
            there = there.parent
        if not there.is_dir():
            return f"{str(there)!r} is a file; name a directory with --output"
    except OSError as error:
        return f"{str(directory)!r} cannot be looked at: {error.strerror}; name another one with --output"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"nothing may be written in {str(there)!r}; name another directory with --output"
    return None


def require_free(file: Path, *, force: bool) -> None:
    """Raises click.UsageError unless it is new, or may be written over."""
    if os.path.isdir(file):
        raise click.UsageError(f"{str(file)!r} is a directory; name a file for the zip with --output")
    if os.path.lexists(file) and not force:
        raise click.UsageError(f"{str(file)!r} is there already; name another file, or add --force")
