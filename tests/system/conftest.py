"""Places for real processes: one for a test, and a whole orchestrator that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.processes.processes import Place, Started, own_place, shared_server


@pytest.fixture
def here() -> Iterator[Place]:
    with own_place("system") as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[Started]:
    """An orchestrator with two nodes, for tests that leave nothing behind but ended jobs."""
    with own_place("system") as found:
        yield shared_server(found, nodes=2)
