"""The ledger on SQLite, and the one in memory that stands for it: a test runs with each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.data.ledgers import SetClock, open_ledger
from support.memory.memory_ledger import MemoryLedger


@pytest.fixture(params=["sqlite", "memory"])
async def either_ledger(request: Any, tmp_path: Path, clock: SetClock) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryLedger(clock=clock)
        return
    async with open_ledger(tmp_path / "ledger.db", clock) as opened:
        yield opened
