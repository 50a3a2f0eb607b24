"""Tests of what is kept of jobs, on no disk in particular: their files are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.data.in_memory import path_in_memory


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with path_in_memory(tmp_path) as found:
        yield found
