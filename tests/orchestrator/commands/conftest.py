"""Real servers for the commands: one for a test, and one that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.processes.processes import Place, Started, own_place, shared_server


@pytest.fixture
def here() -> Iterator[Place]:
    with own_place("commands") as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[Started]:
    """An orchestrator with a node, for tests that leave nothing behind but ended jobs."""
    with own_place("commands") as found:
        yield shared_server(found)
