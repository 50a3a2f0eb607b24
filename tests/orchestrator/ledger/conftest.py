"""A ledger and its clock, where a file of tests has none of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.data.either_ledger import either_ledger
from support.data.ledgers import SetClock, open_ledger

from orchestrator.ledger.ledger import SqliteLedger

__all__ = ["clock", "either_ledger", "ledger"]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: SetClock) -> AsyncIterator[SqliteLedger]:
    async with open_ledger(tmp_path / "db.sqlite", clock) as opened:
        yield opened
