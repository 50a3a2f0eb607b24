"""Real servers for the commands: one for a test, and one that the tests of a module share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import Place, Started, place


@pytest.fixture
def here() -> Iterator[Place]:
    # Short: a socket's address has room for about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="commands-") as directory, place(Path(directory)) as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[Started]:
    """An orchestrator with a node, for tests that leave nothing behind but ended jobs."""
    with tempfile.TemporaryDirectory(prefix="commands-") as directory, place(Path(directory)) as found:
        yield found.up("--nodes", "1", "--slots", "4", "--runs-per-user", "8", "--max-runs", "8")
