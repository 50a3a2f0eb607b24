"""Of these tests the files are in memory."""

from __future__ import annotations

from support.data.in_memory import tmp_path

__all__ = ["tmp_path"]
