"""Places for real processes: one for a test, and a whole orchestrator that the tests of a module share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import Place, Started, place


@pytest.fixture
def here() -> Iterator[Place]:
    # Short: a socket's address has room for about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="system-") as directory, place(Path(directory)) as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[Started]:
    """An orchestrator with two nodes, for tests that leave nothing behind but ended jobs."""
    with tempfile.TemporaryDirectory(prefix="system-") as directory, place(Path(directory)) as found:
        yield found.up("--nodes", "2", "--slots", "4", "--runs-per-user", "8", "--max-runs", "8")
