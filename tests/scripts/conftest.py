"""What scripts start, started cheaply."""

from __future__ import annotations

import pytest
from support.processes import forked
from testbed import cluster


@pytest.fixture
def forked_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server and the nodes of a cluster begin without the start of an interpreter, but for those that
    run within something else."""
    monkeypatch.setattr(cluster, "begin", forked.begin)
