"""Room that what was deleted leaves in the database: a part of it stays for what comes next, the rest goes
back to the disk, a little at a time.

Each step is an item of the writer's, which waits for nobody and for which nobody waits long: it moves at most
`STEP` pages from the end of the file to free ones. The file gets shorter when the log is moved into it.
"""

from __future__ import annotations

import sqlite3
from typing import Final

KEPT: Final = 1024
"""Free pages that stay: 4 MiB."""
STEP: Final = 128
EVERY: Final = 5.0
"""Seconds between two looks."""
PAUSE: Final = 0.1
"""Seconds between two steps."""


def spare(db: sqlite3.Connection) -> int:
    """Free pages that may go back to the disk; 0 in a file that was made so that none can."""
    if db.execute("PRAGMA auto_vacuum").fetchone() != (2,):
        return 0
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    return max(0, int(free) - KEPT)


def give_back(db: sqlite3.Connection) -> None:
    """One step."""
    for _ in range(min(spare(db), STEP)):
        db.execute("PRAGMA incremental_vacuum(1)")  # with a larger number Python would do but the first, too
