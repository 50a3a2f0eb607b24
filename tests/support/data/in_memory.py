"""Directories in memory, for tests that ask nothing of a disk: a server's data are hundreds of directories,
and to make and remove them costs a disk's file system five times as much."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_MEMORY: Final = Path("/dev/shm")
_ENOUGH: Final = 1 << 30
"""Bytes that have to be free: containers often have a few megabytes there."""


@contextmanager
def path_in_memory() -> Iterator[Path]:
    """A directory until this is left; on disk where there is no such memory."""
    there = os.access(_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_MEMORY).free >= _ENOUGH
    with tempfile.TemporaryDirectory(prefix="tests-", dir=_MEMORY if there else None) as directory:
        yield Path(directory)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In place of pytest's, for a folder whose `conftest.py` has it. What is beside it is the test's, too."""
    with path_in_memory() as found:
        own = found / "test"
        own.mkdir()
        yield own
