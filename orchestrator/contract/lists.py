"""In which order lists of jobs come."""

from __future__ import annotations

from typing import Literal, TypeAlias

JobOrder: TypeAlias = Literal["newest", "oldest", "user", "user_descending", "service", "service_descending"]
"""By user or service those of one are together, the newest of each first."""
