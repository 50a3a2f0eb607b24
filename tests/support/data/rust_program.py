"""What job-orchestrator 2.x, the Rust program, leaves on a disk: made here as its published sources have it,
one table and a directory for each job, named by a UUID, whose results are `output.zip` in it."""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.data.node_jobs import zipped

_TABLE = """
    CREATE TABLE IF NOT EXISTS jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER NOT NULL, service TEXT NOT NULL,
        status TEXT NOT NULL, loc TEXT NOT NULL, dest_id INTEGER,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP
    )
"""


@dataclass
class RustProgram:
    """Its `db` and `data` below `root`; `ids` by status."""

    root: Path
    ids: dict[str, int] = field(default_factory=dict)

    @property
    def db(self) -> Path:
        return self.root / "db.sqlite"

    @property
    def journal(self) -> bool:
        """Whether a commit was cut off."""
        path = Path(f"{self.db}-journal")
        return path.is_file() and path.stat().st_size > 0

    @property
    def data(self) -> Path:
        return self.root / "data"

    def add(
        self,
        status: str,
        files: Mapping[str, bytes] | None = None,
        *,
        user: int = 7,
        service: str = "example",
        node_number: int | None = None,
        output: Mapping[str, bytes] | None = None,
        place: str = "",
    ) -> int:
        """A job as the program has it; its id. `files` None: its directory is gone. `place`: what the
        database says of where it is."""
        directory = self.data / str(uuid.uuid4())
        for name, content in (files or {}).items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if output is not None:
            (directory / "output.zip").write_bytes(zipped(output))
        self.data.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.db)) as db, db:
            db.execute(_TABLE)
            cursor = db.execute(
                "INSERT INTO jobs (user_id, service, status, loc, dest_id) VALUES (?, ?, ?, ?, ?)",
                (user, service, status, place.format(directory.name) or str(directory), node_number),
            )
            assert cursor.lastrowid is not None
            self.ids[status] = cursor.lastrowid
            return cursor.lastrowid

    def state(self) -> dict[str, Any]:
        """All that the program would find again."""
        found: dict[str, Any] = {"db": hashlib.sha256(self.db.read_bytes()).hexdigest()}
        for directory in self.data.glob("*-*-*-*-*"):
            for path in directory.rglob("*"):
                found[str(path)] = (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        return found
